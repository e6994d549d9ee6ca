"""What the training loop asks of semantic segmentation: views of scenes, the report, its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from swinkit.data.masks import IGNORED, palette_of
from swinkit.errors import DatasetError
from swinkit.specs import ModelSpec
from swinkit.tasks.base import PictureWork, precision_of
from swinkit.tasks.confusion import draw_confusion
from swinkit.tasks.segment.data import SegmentationData
from swinkit.tasks.segment.metric import METRICS, evaluate_segmentation
from swinkit.tasks.segment.pictures import draw_label_maps
from swinkit.tasks.segment.recipe import SegmentRecipe
from swinkit.tasks.segment.scenes import Scene, augment_scene
from swinkit.training import runs
from swinkit.training.batches import Batch, Counting


class Sheet:
    """A few pictures of a data set with truth and answers beside them, for people.

    Args:
        data: pictures spread over the whole of it are shown.
        spec: classes and colours.
        count: how many.
    """

    def __init__(self, data: SegmentationData, spec: ModelSpec, count: int = 6) -> None:
        self.data, self.spec = data, spec
        self.chosen = set(np.linspace(0, len(data) - 1, count).round().astype(int).tolist())
        self.answers: dict[int, np.ndarray] = {}

    def note(self, index: int, answers: np.ndarray) -> None:
        """Keep the answer, (H, W) uint8, where the picture is one to show."""
        if index in self.chosen:
            self.answers[index] = answers

    def draw(self, path: Path) -> None:
        """Save picture, truth and answer, a line each, with a legend."""
        rows = [(np.asarray(self.data.read(i)), self.data.mask(i), self.answers[i]) for i in sorted(self.answers)]
        colours = palette_of(self.spec.masks, len(self.spec.labels))
        draw_label_maps(path, rows, colours, self.spec.labels, ("truth", "answer"))


class _Listener(nn.Module):
    """A network whose logits are also compared with the truth as they pass: the validation loss of the same forward."""

    def __init__(self, model: nn.Module, data: SegmentationData) -> None:
        super().__init__()
        self.model, self.data = model, data
        self.logits: Tensor | None = None
        self.total, self.pixels = 0.0, 0

    def forward(self, images: Tensor) -> Tensor:
        self.logits = self.model(images)
        return self.logits

    def count(self, index: int) -> None:
        """Add the cross entropy of the picture just answered, at the size of the network's input."""
        assert self.logits is not None
        mask = torch.from_numpy(self.data.mask(index))[None, None]
        targets = functional.interpolate(mask, self.logits.shape[-2:], mode="nearest")[:, 0].long().to(self.logits.device)
        loss = functional.cross_entropy(self.logits.float(), targets, ignore_index=IGNORED, reduction="sum")
        self.total, self.pixels, self.logits = self.total + float(loss), self.pixels + int((targets != IGNORED).sum()), None

    def loss(self) -> float:
        """Return the mean over the pixels that are not void, of this process."""
        return self.total / max(1, self.pixels)


class SegmentWork(PictureWork):
    """Label maps: cross entropy, an auxiliary head's and perhaps Dice; mIoU.

    Args:
        recipe: options.
        spec: the network's description.
        train, val: data with the same classes.
    """

    def __init__(self, recipe: SegmentRecipe, spec: ModelSpec, train: SegmentationData, val: SegmentationData) -> None:
        super().__init__(METRICS, spec, train, val)
        self.recipe = recipe
        plan = recipe.scene
        self.scene = Scene(plan.crop, plan.ratio, plan.max_share, recipe.augment.flip, plan.distort)
        self.sheet = Sheet(val, spec)

    def sample(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        image = self.train.read(index, self.grey)
        mask = self.train.mask(index, (image.height, image.width))
        return augment_scene(image, mask, self.spec.preprocessing, self.scene, rng)

    def evaluate(self, model: nn.Module, device: torch.device, progress: Counting | None = None) -> dict[str, Any]:
        listener = _Listener(model, self.val)

        def seen(index: int, answers: np.ndarray) -> None:
            self.sheet.note(index, answers)
            listener.count(index)

        was_training = model.training
        report = evaluate_segmentation(
            listener,
            self.val,
            self.spec.preprocessing,
            device=device,
            precision=precision_of(self.recipe, device),
            progress=progress,
            seen=seen,
        )
        model.train(was_training)
        return {**report, "loss": listener.loss()}

    def draw(self, folder: Path, batch: Batch | None, report: dict[str, Any] | None) -> None:
        colours = palette_of(self.spec.masks, len(self.spec.labels))
        if batch is not None:
            pictures = runs.as_pictures(batch["images"], self.spec.preprocessing)
            maps = [target.cpu().numpy().astype(np.uint8) for target in batch["targets"]]
            rows = [*zip(pictures, maps, strict=True)][:16]
            draw_label_maps(folder / "train_batch.jpg", rows, colours, self.spec.labels, ("label map",))
        if report is not None:
            draw_confusion(report["confusion"], list(self.spec.labels), folder / "confusion_matrix.png")
            self.sheet.draw(folder / "validation.jpg")


def median_frequency(data: SegmentationData) -> Tensor:
    """Return (K,) weights, the median frequency over each class's own (arXiv 1411.4734).

    A class's frequency is its share among the pixels of the pictures that have it; absent classes get 1.
    """
    pixels, seen = np.zeros(len(data.classes)), np.zeros(len(data.classes))
    for index in range(len(data)):
        mask = data.mask(index)
        counts = np.bincount(mask[mask != IGNORED], minlength=len(data.classes))
        pixels += counts
        seen += (counts > 0) * mask.size
    present = pixels > 0
    if not present.any():
        raise DatasetError("every label map is void from edge to edge; nothing can be learnt")
    frequency = pixels[present] / seen[present]
    scale = np.ones(len(data.classes))
    scale[present] = np.median(frequency) / frequency
    return torch.tensor(scale, dtype=torch.float32)
