"""From a checkpoint to an export, with data where eight bits have to show what they cost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from swinkit import weights
from swinkit.data.folders import MissingPart
from swinkit.engines.exported import MANIFEST, ExportedEngine, Manifest
from swinkit.engines.openvino import EXTRA
from swinkit.errors import ExportError, InputError
from swinkit.export import export_network
from swinkit.export.int8 import CALIBRATION, quantiser, sensitivities
from swinkit.extras import need
from swinkit.files import atomic_write
from swinkit.models.build import create_backbone
from swinkit.specs import ModelSpec
from swinkit.tasks.table import task_of

MAX_ACCURACY_DROP = 0.005  # of the first metric, 0..1
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
        network = task_of(spec).network(spec)
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
    """Quantise, measure before and after, keep the export only when it stays within ``MAX_ACCURACY_DROP``."""
    if dest.exists():
        raise InputError(f"{dest}: exists already; give a name that is free")
    need("nncf", EXTRA)
    gate = AccuracyGate(spec, data, sizes)
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}.", suffix=".part") as beside:
        pixels = gate.calibration()
        before, tried = gate.scores(network), {}
        for smooth in (True, False):
            folder = Path(beside) / f"smooth-{smooth}"
            manifest = export_network(network, spec, folder, "openvino", gate.sizes, quantiser(pixels, smooth))
            after = gate.scores(ExportedEngine(folder))
            lost = tried["with SmoothQuant" if smooth else "without"] = max(before[name] - after[name] for name in before)
            if lost <= MAX_ACCURACY_DROP:
                break
        else:
            few = np.concatenate(pixels[: max(2, min(16, 2**20 // pixels[0][0, 0].size))])  # all of the first size
            layers = ", ".join(f"{name} {change:.1%}" for name, change in sensitivities(network, spec, few)[:SHOWN])
            found = ", ".join(f"{100 * value:.2f} {how}" for how, value in tried.items())
            exact = ", ".join(f"{100 * value:.2f} %" for value in before.values())
            raise ExportError(
                f"eight bits lose more than {100 * MAX_ACCURACY_DROP:g} points of {gate.metric} ({found}; exact {exact}); "
                f"nothing was written; most sensitive layers (change of the answer): {layers}"
            )
        manifest.facts |= {name: {"fp32": before[name], "int8": after[name]} for name in before}
        manifest.facts |= {"smooth": smooth, "judged": len(gate.val)}
        atomic_write(folder / MANIFEST, manifest.to_json())
        folder.rename(dest)
    return manifest


class AccuracyGate:
    """Pictures with labels, which calibrate eight bits and measure what they cost.

    Args:
        spec: the network's description.
        data: a data set; its train part calibrates, its val part judges, all of it both where it has no parts.
        sizes: (height, width) of the export; empty takes the task's choice.

    Attributes:
        sizes: of the export.
        val: pictures that judge.
        metric: what is compared.
    """

    def __init__(self, spec: ModelSpec, data: str, sizes: Sequence[tuple[int, int]]) -> None:
        self.spec, self.task = spec, task_of(spec)
        self.metric = self.task.metrics(spec)[0].name
        try:
            self.val = self.task.open_part(data, "val", spec)
        except MissingPart:  # no parts: all there is, for both
            self.val = self.task.open_part(data, None, spec)
        try:
            self._train = self.task.open_part(data, "train", spec)
        except MissingPart:
            self._train = self.val
        self.sizes, self.val = self.task.export_sizes(self.val, spec, sizes, data)

    def calibration(self) -> list[np.ndarray]:
        """Return ``CALIBRATION`` pictures, an equal share of each size, (1, C, H, W) uint8 each."""
        order = np.random.default_rng(0).permutation(len(self._train))
        chosen = [int(index) for index in order[: max(16, CALIBRATION // len(self.sizes))]]
        return [self.task.calibration(self._train, self.spec, size, index) for size in self.sizes for index in chosen]

    def scores(self, network: nn.Module) -> dict[str, float]:
        """Return the metric, by name; one a size where the task measures each."""
        with torch.inference_mode():
            return self.task.scores(network, self.val, self.spec, self.sizes)
