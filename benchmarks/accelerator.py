"""Speed on an accelerator: Swin-S in bfloat16, one picture, 128, and a training step of 128, beside timm eager and compiled.

A section of ``python -m benchmarks``; it runs where there is an accelerator and writes ``docs/benchmarks/accelerator.md``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers import network, plain, same, spec_of
from swinkit.engines.timing import interleaved
from swinkit.export import CompiledEngine
from swinkit.models.variants import count_macs
from swinkit.specs import Variant

SHORTEST = 0.1  # seconds of what is timed: as many calls as that takes, with one wait at their end
DROP_PATH = 0.1  # timm's usual


@dataclass
class Row:
    """A call and what was found out about it."""

    name: str
    call: Callable[[], Any]
    error: float | None = None
    seconds: float = 0.0
    memory: int = 0


def tables(variant: Variant, place: torch.device, rounds: int, batch: int = 128) -> str:
    """Return the tables for a variant on a device."""
    torch.backends.cudnn.allow_tf32 = False  # else the patch convolution alone costs three digits of float32
    peak = product_rate(place)
    parts = [f"A product of two bfloat16 matrices of 8192 x 8192: {peak / 1e12:.0f} TFLOP/s. Utilisation is the share of that."]
    flop = 2 * count_macs(variant)
    with torch.inference_mode():
        for count in (1, batch):
            rows = answering(variant, place, count)
            parts.append(f"bfloat16, {pictures(count)}:\n\n{measured(rows, place, rounds, count, flop, peak)}")
        rows = exact(variant, place, batch)
        parts.append(f"float32, {pictures(batch)}:\n\n{measured(rows, place, rounds, batch, flop, peak)}")
    rows = training(variant, place, batch)
    about = (
        f"Training step (forward under autocast to bfloat16, backward, fused AdamW; stochastic depth {DROP_PATH}), "
        f"{pictures(batch)}; its products are counted as three times those of an answer:"
    )
    parts.append(f"{about}\n\n{measured(rows, place, rounds, batch, 3 * flop, peak)}")
    return "\n\n".join(parts)


def pictures(count: int) -> str:
    """Say how many."""
    return "one picture" if count == 1 else f"{count} pictures"


def answering(variant: Variant, place: torch.device, count: int) -> list[Row]:
    """Return calls in bfloat16, compared with float32's answer; one picture is compiled with CUDA graphs."""
    ours = network(variant)
    theirs = same(ours, "timm")
    ours, theirs = ours.to(place), theirs.to(place)
    images = torch.randn(count, variant.in_chans, variant.img_size, variant.img_size, device=place)
    expected = ours(images)
    close("timm", theirs(images), expected)
    ours, theirs, images = ours.bfloat16(), theirs.bfloat16(), images.bfloat16()
    how: dict[str, Any] = {"dynamic": False, "mode": "reduce-overhead" if count == 1 and place.type == "cuda" else None}
    networks: dict[str, Callable[..., Tensor]] = {
        "timm eager": theirs,
        "swinkit torch": ours,
        "timm compiled": torch.compile(theirs, **how),
        "swinkit compiled": torch.compile(ours, **how),
    }
    rows = []
    for name, run in networks.items():
        began = time.perf_counter()
        answer = run(images).float().clone()
        print(f"{name}, {count}: first answer after {time.perf_counter() - began:.0f} s", flush=True)
        rows.append(Row(name, lambda run=run: run(images), float((answer - expected).abs().max())))
    return rows


def exact(variant: Variant, place: torch.device, count: int) -> list[Row]:
    """Return calls in float32 without TF32, whose answers must agree: eager, and the engine that ``swinkit.load`` gives."""
    ours = network(variant)
    theirs = same(ours, "timm").to(place)
    ours = ours.to(place)
    images = torch.randn(count, variant.in_chans, variant.img_size, variant.img_size, device=place)
    networks: dict[str, nn.Module] = {
        "timm eager": theirs,
        "swinkit torch": ours,
        "swinkit engine compile": CompiledEngine(ours, spec_of(variant)),
    }
    expected = theirs(images)
    return [Row(name, lambda run=run: run(images), close(name, run(images), expected)) for name, run in networks.items()]


def close(name: str, answer: Any, expected: Tensor) -> float:
    """Return the largest difference; answers that shall be equal end the run when they are not."""
    error = float((plain(answer) - expected).abs().max())
    if not error <= 1e-4:
        raise SystemExit(f"{name} answers otherwise: {error:.2g}")
    return error


def training(variant: Variant, place: torch.device, count: int) -> list[Row]:
    """Return whole training steps."""
    variant = variant.changed(drop_path=DROP_PATH)
    ours = network(variant)
    theirs = same(ours, "timm")
    images = torch.randn(count, variant.in_chans, variant.img_size, variant.img_size, device=place)
    labels = torch.randint(0, variant.num_classes, (count,), device=place)

    def step_of(model: nn.Module, compiled: bool) -> Callable[[], None]:
        run = torch.compile(model, dynamic=False) if compiled else model
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.05, fused=True)

        def step() -> None:
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(place.type, torch.bfloat16):
                loss = F.cross_entropy(run(images), labels)
            loss.backward()
            optimiser.step()

        return step

    ours, theirs = ours.to(place).train(), theirs.to(place).train()
    rows = []
    for name, model, compiled in (
        ("timm eager", theirs, False),
        ("swinkit torch", ours, False),
        ("timm compiled", theirs, True),
        ("swinkit compiled", ours, True),
    ):
        rows.append(Row(name, step_of(model, compiled)))
        began = time.perf_counter()
        rows[-1].call()
        print(f"{name}, step: first after {time.perf_counter() - began:.0f} s", flush=True)
    return rows


def measured(rows: list[Row], place: torch.device, rounds: int, count: int, flop: float, peak: float) -> str:
    """Time the calls in turn and return their table."""
    blocks = {}
    lengths = {}
    for row in rows:
        row.call()
        wait(place)
        if place.type == "cuda":
            torch.cuda.reset_peak_memory_stats(place)
        began = time.perf_counter()
        row.call()
        wait(place)
        lengths[row.name] = max(1, round(SHORTEST / (time.perf_counter() - began)))
        row.memory = torch.cuda.max_memory_allocated(place) if place.type == "cuda" else 0

        def block(call: Callable[[], Any] = row.call, length: int = lengths[row.name]) -> None:
            for _ in range(length):
                call()
            wait(place)

        blocks[row.name] = block
    for name, seconds in interleaved(blocks, rounds, warmup=1).items():
        next(row for row in rows if row.name == name).seconds = seconds / lengths[name]
    bases = [row for row in rows if row.name.startswith("timm")]
    head = ["what", "ms", "images/s", "utilisation, %", *(f"x {base.name}" for base in bases), "peak MB", "largest difference"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        rate = count / row.seconds
        cells = [row.name, f"{1e3 * row.seconds:.2f}", f"{rate:,.0f}", f"{100 * rate * flop / peak:.1f}"]
        cells += [f"{row.seconds / base.seconds:.2f}" for base in bases]
        cells += [f"{row.memory / 1e6:,.0f}", "-" if row.error is None else f"{row.error:.1g}"]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines)
    print(text, flush=True)
    return text


def product_rate(place: torch.device, side: int = 8192) -> float:
    """Return floating-point operations a second of a large bfloat16 product, on random numbers."""
    if place.type != "cuda":
        side = 1024
    a, b = (torch.randn(side, side, device=place, dtype=torch.bfloat16) for _ in range(2))

    def block() -> None:
        for _ in range(10):
            a @ b
        wait(place)

    return 10 * 2 * side**3 / interleaved({"product": block}, 7)["product"]


def wait(place: torch.device) -> None:
    """Wait until the device has done its work."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)
