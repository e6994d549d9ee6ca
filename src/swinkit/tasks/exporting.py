"""From a checkpoint to an export, with data where eight bits have to show what they cost."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from swinkit import weights
from swinkit.data.folders import MissingPart, open_dataset
from swinkit.data.matching import match_classes
from swinkit.data.segmentation import open_segmentation
from swinkit.data.transforms import resized
from swinkit.engines.exported import MANIFEST, ExportedEngine, Manifest
from swinkit.errors import ExportError, InputError
from swinkit.evaluation import evaluate, evaluate_segmentation
from swinkit.export import export_network
from swinkit.export.int8 import CALIBRATION, quantiser, sensitivities
from swinkit.export.write import default_size
from swinkit.files import atomic_write
from swinkit.models.build import build_network, create_backbone
from swinkit.specs import ModelSpec

MOST_LOST = 0.005  # of top-1 or mIoU
SHOWN = 8  # layers of the refusal


def export(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    to: str = "openvino",
    sizes: Sequence[tuple[int, int]] = (),
    pyramid: bool = False,
    int8: bool = False,
    data: str | os.PathLike[str] | None = None,
) -> Manifest:
    """Write a checkpoint's network for another library; ``swinkit.load(dest)`` runs it.

    Args:
        source: as for ``swinkit.load``.
        dest: folder to make.
        to: "openvino", "onnx" or "torch" (a program of torch.export).
        sizes: (height, width) in pixels that it shall take; empty takes the preparation's. Any batch.
        pyramid: the backbone's maps instead of the answer, (B, C_i, H_i, W_i) each: for systems of one's own.
        int8: weights and activations in eight bits ("openvino" only), refused when more than 0.5 point of top-1 or mIoU is lost.
        data: for ``int8``: a data set as for ``swinkit evaluate``; its train part calibrates, its val part judges.

    Returns:
        The export's manifest: sizes, largest differences, hashes.

    Raises:
        ExportError: answers differ by more than 1e-4, or eight bits lose too much; nothing is left behind.
        InputError, CheckpointError, DatasetError, MissingExtraError: with what to do.
    """
    checkpoint = weights.load_checkpoint(os.fspath(source))
    spec = checkpoint.spec
    if pyramid:
        network, spec = _pyramid(checkpoint), spec.changed(variant=spec.variant.changed(num_classes=0), labels=(), decoder=None)
    else:
        network = build_network(spec)
        weights.load_into(network, checkpoint)
    network.eval()
    if not int8:
        return export_network(network, spec, Path(dest), to, sizes)
    if to != "openvino" or pyramid:
        raise InputError("eight bits are written for OpenVINO, and for a network whose accuracy can be measured")
    if data is None:
        raise InputError("--int8 needs --data: pictures with labels to calibrate and to judge by")
    return _export_int8(network, spec, Path(dest), sizes, str(data))


def _pyramid(checkpoint: weights.Checkpoint) -> nn.Module:
    if checkpoint.spec.backbone:
        raise InputError("the pyramid of timm's networks is timm's to export; choose a Swin")
    fields = {name: value for name, value in vars(checkpoint.spec.variant).items() if name not in ("num_classes", "img_size")}
    network = create_backbone("swin_tiny", **fields)
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in checkpoint.tensors.items()}
    weights.load_into(network, weights.Checkpoint(tensors, checkpoint.spec, checkpoint.dialect, [], checkpoint.source), "new")
    return network


def _export_int8(network: nn.Module, spec: ModelSpec, dest: Path, sizes: Sequence[tuple[int, int]], data: str) -> Manifest:
    """Quantise, measure before and after, keep the export only when it stays within ``MOST_LOST``."""
    calibration, score, metric = _judge(spec, data)
    sizes = sizes or [default_size(spec)]
    pixels = calibration(sizes)
    dest.parent.mkdir(parents=True, exist_ok=True)
    if dest.exists():
        raise InputError(f"{dest}: exists already; give a name that is free")
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}.", suffix=".part") as beside:
        before, tried = score(network), {}
        for smooth in (True, False):
            folder = Path(beside) / f"smooth-{smooth}"
            manifest = export_network(network, spec, folder, "openvino", sizes, quantiser(pixels, smooth))
            after = tried["with SmoothQuant" if smooth else "without"] = score(ExportedEngine(folder))
            if before - after <= MOST_LOST:
                break
        else:
            same = [picture for picture in pixels[:16] if picture.shape == pixels[0].shape]
            worst = sensitivities(network, spec, np.concatenate(same))[:SHOWN]
            layers = ", ".join(f"{name} {change:.1%}" for name, change in worst)
            found = ", ".join(f"{100 * (before - value):.2f} {how}" for how, value in tried.items())
            raise ExportError(
                f"eight bits lose more than {100 * MOST_LOST:g} points of {metric} ({found}; exact {100 * before:.2f} %); "
                f"nothing was written; most sensitive layers (change of the answer): {layers}"
            )
        manifest.facts |= {metric: {"fp32": before, "int8": after}, "smooth": smooth}
        atomic_write(folder / MANIFEST, manifest.to_json())
        folder.rename(dest)
    return manifest


def _judge(spec: ModelSpec, data: str) -> tuple[Callable[..., list[np.ndarray]], Callable[[nn.Module], float], str]:
    """Return what gives calibration pictures, what measures a network, and what the measure is called."""
    dense = spec.task == "segment"

    def part(name: str | None) -> Any:
        if dense:
            return open_segmentation(data, name, list(spec.labels), spec.masks)
        return match_classes(open_dataset(data, split=name), list(spec.labels))

    try:
        val = part("val")
    except MissingPart:  # no parts: all there is, for both
        val = part(None)
    try:
        train = part("train")
    except MissingPart:
        train = val

    def calibration(sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        chosen = np.random.default_rng(0).permutation(len(train))[:CALIBRATION]
        pictures = [train.read(int(i), len(spec.preprocessing.mean) == 1) for i in chosen]
        made = []
        for size in sizes:
            plan = spec.preprocessing
            if dense or size != default_size(spec):
                plan = dataclasses.replace(plan, size=size, resize="squash", resize_to=0)
            made += [resized(picture, plan)[None].numpy() for picture in pictures]
        return made

    def score(network: nn.Module) -> float:
        with torch.inference_mode():
            if dense:
                return float(evaluate_segmentation(network, val, spec.preprocessing)["mIoU"])
            return float(evaluate(network, val, spec.preprocessing, batch=32, multi_label=spec.multi_label)[metric])

    metric = "mIoU" if dense else "mAP" if spec.multi_label else "top1"
    return calibration, score, metric
