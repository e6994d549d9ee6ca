"""What the training loop asks of classification: a sample, a batch, a report, its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swinkit.data import ClassificationData
from swinkit.data.transforms import Augmentation, augment
from swinkit.specs import ModelSpec
from swinkit.tasks.base import PictureWork, precision_of
from swinkit.tasks.classify.metric import evaluate_classifier, metrics_of
from swinkit.tasks.classify.mixing import mix_batch, smooth_targets
from swinkit.tasks.classify.recipe import ClassifyRecipe
from swinkit.tasks.confusion import draw_confusion
from swinkit.training import runs
from swinkit.training.batches import Batch, Counting


class ClassifyWork(PictureWork):
    """Image classification, one label an image or several.

    Args:
        recipe: options.
        spec: the network's description; its labels are the data set's classes.
        train, val: data with the same classes.
    """

    def __init__(self, recipe: ClassifyRecipe, spec: ModelSpec, train: ClassificationData, val: ClassificationData) -> None:
        super().__init__(metrics_of(spec), spec, train, val)
        self.recipe = recipe
        self.options = Augmentation(**{name: getattr(recipe.augment, name) for name in Augmentation.__dataclass_fields__})

    def sample(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Any]:
        image = augment(self.train.read(index, self.grey), self.spec.preprocessing, self.options, rng)
        return image, self.train.target(index)

    def collate(self, samples: list[tuple[Tensor, Any]], rng: np.random.Generator) -> Batch:
        images = torch.stack([image for image, _ in samples])
        smoothing, classes = self.recipe.augment.label_smoothing, len(self.spec.labels)
        if self.spec.multi_label:
            rows = [multi_hot(target, classes) for _, target in samples]
            targets = torch.stack(rows) * (1.0 - smoothing) + smoothing / 2
        else:
            targets = smooth_targets(torch.tensor([target for _, target in samples]), classes, smoothing)
        plan = self.recipe.augment
        images, targets = mix_batch(images, targets, plan.mixup, plan.cutmix, plan.switch, rng)
        return {"images": images, "targets": targets}

    def evaluate(self, model: nn.Module, device: torch.device, progress: Counting | None = None) -> dict[str, Any]:
        return evaluate_classifier(
            model,
            self.val,
            self.spec.preprocessing,
            batch=min(64, max(1, len(self.val))),
            device=device,
            workers=self.recipe.workers,
            multi_label=self.spec.multi_label,
            precision=precision_of(self.recipe, device),
            progress=progress,
        )

    def draw(self, folder: Path, batch: Batch | None, report: dict[str, Any] | None) -> None:
        labels = self.spec.labels
        if batch is not None:
            rows = unsmoothed(batch["targets"].float().cpu(), self.recipe.augment.label_smoothing, self.spec.multi_label)
            captions = [_caption(row, labels) for row in rows]
            runs.draw_batch(folder / "train_batch.jpg", batch["images"], captions, self.spec.preprocessing)
        if report is not None and report.get("confusion"):
            draw_confusion(report["confusion"], list(labels), folder / "confusion_matrix.png")


def unsmoothed(targets: Tensor, smoothing: float, multi_label: bool) -> Tensor:
    """Return the shares (B, K) of the labels in mixed pictures, without what label smoothing has added."""
    floor = smoothing / 2 if multi_label else smoothing / targets.shape[1]
    return (targets - floor) / (1.0 - smoothing)


def multi_hot(target: list[int], num_classes: int) -> Tensor:
    """Return (K,) float with ones at the given classes."""
    row = torch.zeros(num_classes)
    row[list(target)] = 1.0
    return row


def balanced(data: ClassificationData, spec: ModelSpec) -> Tensor:
    """Return one weight a class, inverse to its frequency, mean 1 over the images (K,)."""
    classes = len(spec.labels)
    targets = [data.target(i) for i in range(len(data))]
    if spec.multi_label:
        positive = sum(multi_hot(target, classes) for target in targets).clamp(min=1)  # type: ignore[union-attr]
        return (len(targets) - positive) / positive
    counts = np.bincount(targets, minlength=classes).clip(min=1)
    return torch.tensor(len(targets) / (classes * counts), dtype=torch.float32)


def _caption(shares: Tensor, labels: tuple[str, ...]) -> str:
    """Return the labels of a picture, largest share first; shares are named where pictures are mixed."""
    values, indices = shares.topk(min(3, shares.numel()))
    there = [(float(v), labels[int(i)][:16]) for v, i in zip(values, indices, strict=True) if v > 0.005]
    whole = all(value > 0.995 for value, _ in there)
    return "\n".join(name if whole else f"{name} {100 * value:.0f} %" for value, name in there) or "none"
