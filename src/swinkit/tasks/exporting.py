"""From a checkpoint to an export, with data where eight bits have to show what they cost."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from swinkit import weights
from swinkit.data.folders import MissingPart, open_dataset
from swinkit.data.matching import match_classes
from swinkit.data.segmentation import open_segmentation
from swinkit.data.transforms import resized
from swinkit.engines.exported import MANIFEST, ExportedEngine, Manifest
from swinkit.engines.openvino import EXTRA
from swinkit.errors import ExportError, InputError
from swinkit.evaluation import evaluate, evaluate_segmentation
from swinkit.export import export_network
from swinkit.export.int8 import CALIBRATION, quantiser, sensitivities
from swinkit.export.write import default_size
from swinkit.extras import need
from swinkit.files import atomic_write
from swinkit.models.build import build_network, create_backbone
from swinkit.specs import ModelSpec, Preprocessing

MOST_LOST = 0.005  # of top-1 or mIoU
SHOWN = 8  # layers of the refusal
MOST_SIZES = 4  # of a segmenter's data that are exported unasked


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
        to: "openvino", "onnx", "torch" (a program of torch.export) or "aotinductor" (machine code for this processor).
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
    if int8 and (to != "openvino" or pyramid):
        raise InputError("eight bits are written for OpenVINO, and for a network whose accuracy can be measured")
    if int8 and data is None:
        raise InputError("--int8 needs --data: pictures with labels to calibrate and to judge by")
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
    if dest.exists():
        raise InputError(f"{dest}: exists already; give a name that is free")
    need("nncf", EXTRA)
    judge = _Judge(spec, data, sizes)
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}.", suffix=".part") as beside:
        pixels = judge.calibration()
        before, tried = judge.scores(network), {}
        for smooth in (True, False):
            folder = Path(beside) / f"smooth-{smooth}"
            manifest = export_network(network, spec, folder, "openvino", judge.sizes, quantiser(pixels, smooth))
            after = judge.scores(ExportedEngine(folder))
            lost = tried["with SmoothQuant" if smooth else "without"] = max(before[name] - after[name] for name in before)
            if lost <= MOST_LOST:
                break
        else:
            few = np.concatenate(pixels[: 2 if judge.dense else 16])  # all of the first size
            layers = ", ".join(f"{name} {change:.1%}" for name, change in sensitivities(network, spec, few)[:SHOWN])
            found = ", ".join(f"{100 * value:.2f} {how}" for how, value in tried.items())
            exact = ", ".join(f"{100 * value:.2f} %" for value in before.values())
            raise ExportError(
                f"eight bits lose more than {100 * MOST_LOST:g} points of {judge.metric} ({found}; exact {exact}); "
                f"nothing was written; most sensitive layers (change of the answer): {layers}"
            )
        manifest.facts |= {name: {"fp32": before[name], "int8": after[name]} for name in before}
        manifest.facts |= {"smooth": smooth, "judged": len(judge.val)}
        atomic_write(folder / MANIFEST, manifest.to_json())
        folder.rename(dest)
    return manifest


class _Judge:
    """Pictures with labels, which calibrate eight bits and measure what they cost.

    Args:
        spec: the network's description.
        data: a data set; its train part calibrates, its val part judges, all of it both where it has no parts.
        sizes: (height, width) of the export; empty takes the preparation's, of label maps all that the pictures have.

    Attributes:
        sizes: of the export.
        val: pictures that judge: of label maps those that have one of the sizes once they are prepared.
    """

    def __init__(self, spec: ModelSpec, data: str, sizes: Sequence[tuple[int, int]]) -> None:
        self.spec, self.data, self.dense = spec, data, spec.task == "segment"
        self.metric = "mIoU" if self.dense else "mAP" if spec.multi_label else "top1"
        try:
            self.val = self._part("val")
        except MissingPart:  # no parts: all there is, for both
            self.val = self._part(None)
        try:
            self._train = self._part("train")
        except MissingPart:
            self._train = self.val
        self.sizes = list(dict.fromkeys(sizes or [default_size(spec)]))
        if self.dense:
            self._take_sizes(sizes)

    def calibration(self) -> list[np.ndarray]:
        """Return ``CALIBRATION`` pictures, an equal share of each size, (1, C, H, W) uint8 each."""
        order = np.random.default_rng(0).permutation(len(self._train))
        chosen = [int(index) for index in order[: max(16, CALIBRATION // len(self.sizes))]]
        plans = [self._plan(size) for size in self.sizes]
        return [resized(self._read(self._train, index), plan)[None].numpy() for plan in plans for index in chosen]

    def scores(self, network: nn.Module) -> dict[str, float]:
        """Return the metric; of a classifier of several sizes at each of them, by name."""
        with torch.inference_mode():
            if self.dense:
                return {self.metric: float(evaluate_segmentation(network, self.val, self.spec.preprocessing)["mIoU"])}
            found = {}
            for size in self.sizes:
                report = evaluate(network, self.val, self._plan(size), batch=32, multi_label=self.spec.multi_label)
                name = self.metric if len(self.sizes) == 1 else f"{self.metric} at {size[0]}x{size[1]}"
                found[name] = float(report[self.metric])
        return found

    def _part(self, name: str | None) -> Any:
        if self.dense:
            return open_segmentation(self.data, name, list(self.spec.labels), self.spec.masks)
        return match_classes(open_dataset(self.data, split=name), list(self.spec.labels))

    def _plan(self, size: tuple[int, int]) -> Preprocessing:
        if not self.dense and size == default_size(self.spec):
            return self.spec.preprocessing
        return dataclasses.replace(self.spec.preprocessing, size=size, resize="squash", resize_to=0)

    def _read(self, part: Any, index: int) -> Image.Image:
        return part.read(index, len(self.spec.preprocessing.mean) == 1)

    def _take_sizes(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Keep the pictures that an export of fixed sizes can answer."""
        pictures = (self._read(self.val, index) for index in range(len(self.val)))
        shapes = [resized(picture, self.spec.preprocessing).shape for picture in pictures]
        each = [(height, width) for _, height, width in shapes]
        counts = Counter(each).most_common()
        most = ", ".join(f"--size {height}x{width} for {count}" for (height, width), count in counts[:MOST_SIZES])
        if not wanted and len(counts) > MOST_SIZES:
            raise InputError(
                f"{self.data}: the pictures have {len(counts)} sizes once they are prepared, too many for one export; "
                f"name some, whose pictures then judge: {most}"
            )
        self.sizes = list(dict.fromkeys(wanted or [size for size, _ in counts]))
        kept = [index for index, size in enumerate(each) if size in self.sizes]
        if not kept:
            raise InputError(f"{self.data}: no picture has one of the sizes once it is prepared; there are {most}")
        self.val = self.val.subset(kept)
