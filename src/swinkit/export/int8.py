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
from swinkit.export.eight_bits import quicken
from swinkit.extras import need
from swinkit.specs import ModelSpec

CALIBRATION = 300  # pictures, as NNCF advises


def quantiser(pixels: Sequence[np.ndarray], smooth: bool) -> Callable[[Path, tuple[int, int]], None]:
    """Return what rewrites an OpenVINO graph in eight bits, by NNCF's rules for transformers.

    Args:
        pixels: pictures like those that will come, (1, C, H, W) uint8 of the graph's size each.
        smooth: SmoothQuant (arXiv 2211.10438): move the spread of activations into weights first.
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
        quicken(made, size)
        beside = path.with_name("quantised.xml")  # the graph that is read is mapped into memory: not written over
        ov.save_model(made, str(beside), compress_to_fp16=False)
        del made
        for suffix in (".bin", ".xml"):
            beside.with_suffix(suffix).replace(path.with_suffix(suffix))

    return change


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
