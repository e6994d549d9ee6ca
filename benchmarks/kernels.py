"""The kernels beside plain PyTorch, on shapes of Swin-T: time, and rounding where some channels are many times the rest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from swinkit.engines.kernels import Operation, companion, compiled, for_layers, reference, rounding, settings
from swinkit.engines.timing import interleaved

# stage, tokens of a map, channels, heads, windows of 49 tokens
STAGES = ((1, 3136, 96, 3), (3, 196, 384, 12))
OUTLIERS = (1, 50, 300, 1000)  # times the rest


def built() -> dict[str, Operation]:
    """Return the operations of this processor; they stay loaded when their files are gone."""
    with tempfile.TemporaryDirectory() as folder, settings():
        return compiled(("attend", "linear", *{for_layers()} - {"linear"}), Path(folder))


def speed(batch: int, rounds: int) -> list[list[str]]:
    """Return a row a kernel and stage: ms without it (plain PyTorch), with it, and what it takes of that."""
    found, rows = built(), []
    layers = {name: ours for name, ours in found.items() if name != "attend"}
    for stage, tokens, channels, heads in STAGES:
        x, residual = torch.randn(2, batch, tokens, channels).unbind()
        query, key, value = torch.randn(3, batch * tokens // 49, heads, 49, channels // heads).unbind()
        bias, places = torch.randn(tokens // 49, heads, 49, 49), torch.randperm(tokens)
        scale, repeated = (channels // heads) ** -0.5, bias.repeat(batch, 1, 1, 1)
        back = torch.argsort(places)

        def plain_attention(q=query, k=key, v=value, b=repeated, s=scale, back=back, shape=x.shape) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, b, scale=s).transpose(1, 2).reshape(shape)[:, back]

        calls = {"attend": (plain_attention, lambda a=(query, key, value, bias, scale, places, tokens): found["attend"](*a))}
        one, two = torch.randn(4 * channels, channels) / channels**0.5, torch.randn(channels, 4 * channels) / channels**0.5
        for name, ours in layers.items():
            pack, mlp = companion(ours, "pack"), companion(ours, "mlp")
            first, second = pack(one), pack(two)
            calls[name] = (
                lambda x=x, w=one: reference.linear(x, w, curved=True, eps=1e-5),
                lambda x=x, ours=ours, w=first, c=4 * channels: ours(x, w, c, None, None, True, 1e-5, None),
            )
            calls[f"{name}_mlp"] = (
                lambda x=x, a=one, b=two, r=residual: reference.mlp(x, a, None, b, None, r, 1e-5),
                lambda x=x, mlp=mlp, a=first, b=second, c=4 * channels, d=channels, r=residual: mlp(
                    x, a, c, None, b, d, None, r, 1e-5, None
                ),
            )
        for name, (off, on) in calls.items():
            seconds = interleaved({"off": off, "on": on}, rounds)
            times = [1e3 * seconds["off"], 1e3 * seconds["on"]]
            rows.append([name, str(stage), str(batch), *(f"{ms:.2f}" for ms in times), f"{times[1] / times[0]:.2f}"])
    return rows


def accuracy() -> list[list[str]]:
    """Return a row a kind of numbers and inputs: each way's rounding in multiples of float32's own, and what is used with AMX.

    Products of bytes are those of the reference, which rounds as the kernel does on a processor that has it not.
    """
    linear = built()["linear"]
    pack = companion(linear, "pack")

    def strassen(x: Tensor, weight: Tensor) -> Tensor:
        return linear(x, pack(weight), len(weight), None, None, False, None, None)

    rows = []
    ways: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (strassen, reference.products_of_bytes)
    for made_up in (False, True):
        for times in OUTLIERS[1 if made_up else 0 :]:
            for inputs in (96, 384, 1536):
                x, weight = torch.randn(196, inputs), torch.randn(192, inputs) / inputs**0.5
                few = torch.randperm(inputs)[: max(1, inputs // 100)]
                x[:, few] *= times
                if made_up:
                    weight[:, few] /= times
                losses = [rounding.loss(x, weight, way) for way in ways]
                kind = "no" if times == 1 else f"{times} times the rest" + (", weights make up for it" if made_up else "")
                used = "bytes" if losses[1] <= rounding.MOST else "float32"
                rows.append([kind, str(inputs), *(f"{loss:.1f}" for loss in losses), used])
    return rows
