"""Weights and activations in eight bits, by NNCF; and which layers suffer from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swinkit.engines import openvino
from swinkit.engines.fast import FromPixels
from swinkit.extras import need
from swinkit.specs import ModelSpec

CALIBRATION = 300  # pictures, as NNCF advises


def quantiser(pixels: Sequence[np.ndarray], smooth: bool) -> Callable[[Path, tuple[int, int]], None]:
    """Return what rewrites an OpenVINO graph in eight bits, by NNCF's rules for transformers.

    Args:
        pixels: pictures like those that will come, (1, C, H, W) uint8 of the graph's size each.
        smooth: SmoothQuant (arXiv 2211.10438): move the spread of activations into weights first. Large networks need it, the
            embedded one is better without (measured: 0.79 points lost with, 0.26 without).
    """

    def change(path: Path, size: tuple[int, int]) -> None:
        nncf, ov = need("nncf", openvino.EXTRA), need("openvino", openvino.EXTRA)
        logging.getLogger("nncf").setLevel(logging.ERROR)
        alphas = nncf.AdvancedSmoothQuantParameters() if smooth else nncf.AdvancedSmoothQuantParameters(matmul=-1)
        fitting = [picture for picture in pixels if picture.shape[2:] == size]
        made = nncf.quantize(
            openvino.read(path),
            nncf.Dataset(fitting),
            subset_size=len(fitting),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas),
        )
        gather_eight_bits(made)
        beside = path.with_name("quantised.xml")  # the graph that is read is mapped into memory: not written over
        ov.save_model(made, str(beside), compress_to_fp16=False)
        del made
        for suffix in (".bin", ".xml"):
            beside.with_suffix(suffix).replace(path.with_suffix(suffix))

    return change


def gather_eight_bits(model: Any) -> None:
    """Let tokens be rounded before they are put in window order instead of after: the same values, a quarter of the bytes moved.

    NNCF rounds in front of a product, so what stands between a gather and it (SmoothQuant's factors of channels, the rounding
    itself) goes in front of the gather, where its constants are the same for all tokens.

    Args:
        model: an ``openvino.Model`` that NNCF has rewritten; changed in place.
    """
    for gather in model.get_ordered_ops():
        if gather.get_type_name() != "Gather" or gather.get_output_partial_shape(0).rank.get_length() != 3:
            continue
        source, moved, last = gather.input_value(0), [], gather
        while len(targets := list(last.output(0).get_target_inputs())) == 1:
            node = targets[0].get_node()
            if node.get_type_name() not in {"Multiply", "FakeQuantize"} or not _of_all_tokens(node, targets[0].get_index()):
                break
            moved.append((node, targets[0].get_index()))
            last = node
        if moved and last.get_type_name() == "FakeQuantize":
            first, place = moved[0]
            first.input(place).replace_source_output(source)
            gather.input(0).replace_source_output(last.output(0))
            for target in targets:
                target.replace_source_output(gather.output(0))
    model.validate_nodes_and_infer_types()


def _of_all_tokens(node: Any, place: int) -> bool:
    """Say whether the other inputs of a node are constants with one value for all tokens of (B, L, C)."""
    others = [node.input_value(i) for i in range(node.get_input_size()) if i != place]
    return all(
        other.get_node().get_type_name() == "Constant" and (len(other.get_shape()) < 2 or other.get_shape()[-2] == 1)
        for other in others
    )


def sensitivities(network: nn.Module, spec: ModelSpec, pixels: np.ndarray) -> list[tuple[str, float]]:
    """Return how far the answer moves when one linear layer alone works in eight bits, worst first.

    Args:
        network: classifier or segmenter.
        spec: its description.
        pixels: (B, C, H, W) uint8.

    Returns:
        (name of the layer, root mean square change of the answer over its root mean square) each.
    """
    graph = FromPixels(network, spec.preprocessing)
    images = torch.from_numpy(pixels)
    found = []
    with torch.inference_mode():
        exact: Any = graph(images)
        for name, layer in graph.network.named_modules():
            if not isinstance(layer, nn.Linear):
                continue
            weight = layer.weight
            hook = layer.register_forward_pre_hook(lambda _module, inputs: (_rounded(inputs[0], None),))
            layer.weight = nn.Parameter(_rounded(weight, 1), requires_grad=False)
            moved: Any = graph(images)
            layer.weight = weight
            hook.remove()
            found.append((name, float((moved - exact).square().mean().sqrt() / exact.square().mean().sqrt())))
    return sorted(found, key=lambda row: -row[1])


def _rounded(values: Tensor, axis: int | None) -> Tensor:
    """Return values on a grid of 255 steps, symmetric around 0, one for all or one a row."""
    largest = values.abs().amax() if axis is None else values.abs().amax(axis, keepdim=True)
    step = largest.clamp(min=1e-12) / 127
    return (values / step).round().clamp(-127, 127) * step
