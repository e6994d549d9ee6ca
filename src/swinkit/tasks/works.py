"""What each task does with a sample, a batch, a report: the ``Work`` of the training loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swinkit import weights
from swinkit.data import ClassificationData
from swinkit.data.mixing import mix_batch, smooth_targets
from swinkit.data.transforms import Augmentation, augment
from swinkit.errors import RunError
from swinkit.evaluation import evaluate
from swinkit.evaluation.pictures import draw_confusion
from swinkit.models.simmim import random_mask
from swinkit.specs import ModelSpec
from swinkit.training import runs
from swinkit.training.batches import Counting
from swinkit.training.checkpoint import Progress
from swinkit.training.recipe import Recipe

Batch = dict[str, Any]


class ClassifyWork:
    """Image classification, one label an image or several.

    Args:
        recipe: options.
        spec: the network's description; its labels are the data set's classes.
        train, val: data with the same classes.
    """

    def __init__(self, recipe: Recipe, spec: ModelSpec, train: ClassificationData, val: ClassificationData) -> None:
        self.recipe, self.spec, self.train, self.val = recipe, spec, train, val
        self.main_metric = "mAP" if spec.multi_label else "top1"
        self.options = Augmentation(**{name: getattr(recipe.augment, name) for name in Augmentation.__dataclass_fields__})
        self.class_weights = _balanced(train, spec) if recipe.class_weights == "balanced" else None
        channels = len(spec.preprocessing.mean)
        if channels not in (1, 3):
            raise RunError(f"this network takes {channels} channels, pictures have 3 or are read as grey; start from another")
        self.grey = channels == 1

    def __len__(self) -> int:
        return len(self.train)

    def fingerprint(self) -> str:
        return f"{self.train.fingerprint()}-{self.val.fingerprint()}"

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

    def losses(self, model: Callable[..., Any], batch: Batch) -> dict[str, Tensor]:
        logits, targets = model(batch["images"]).float(), batch["targets"]
        scale = None if self.class_weights is None else self.class_weights.to(logits.device)
        if self.spec.multi_label:
            return {"loss": F.binary_cross_entropy_with_logits(logits, targets, pos_weight=scale)}
        terms = -targets * logits.log_softmax(dim=-1)
        return {"loss": (terms if scale is None else terms * scale).sum(dim=-1).mean()}

    def evaluate(self, model: nn.Module, device: torch.device, progress: Counting | None = None) -> dict[str, Any]:
        return evaluate(
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

    def save(self, path: Path, tensors: dict[str, Tensor], progress: Progress) -> None:
        facts = dict(self.spec.facts)
        if progress.rows:
            facts["metrics"] = {k: v for k, v in progress.rows[-1].items() if k in ("top1", "top5", "ece", "mAP")}
        weights.save_native(path, tensors, self.spec.changed(facts=facts))


class SimMimWork(ClassifyWork):
    """Masked image modelling: a hidden part of the picture is predicted from the rest; labels are not used."""

    def __init__(self, recipe: Recipe, spec: ModelSpec, train: ClassificationData, val: ClassificationData) -> None:
        super().__init__(recipe, spec, train, val)
        self.main_metric = "negative_loss"

    def collate(self, samples: list[tuple[Tensor, Any]], rng: np.random.Generator) -> Batch:
        images = torch.stack([image for image, _ in samples])
        plan, patch = self.recipe.masking, self.spec.variant.patch_size
        side = images.shape[-1]
        masks = [random_mask(side, plan.cell, patch, plan.ratio, rng) for _ in samples]
        return {"images": images, "mask": torch.from_numpy(np.stack(masks))}

    def losses(self, model: Callable[..., Any], batch: Batch) -> dict[str, Tensor]:
        return {"loss": model(batch["images"], batch["mask"])}

    def evaluate(self, model: nn.Module, device: torch.device, progress: Counting | None = None) -> dict[str, Any]:
        """Return the mean loss on the validation pictures under fixed masks."""
        model.eval()
        total, count = 0.0, 0
        size = min(64, len(self.val))
        still = Augmentation((1, 1), (1, 1), 0, 0, 0, 0, 0, 0)
        with torch.inference_mode():
            for start in range(0, len(self.val), size):
                indices = range(start, min(start + size, len(self.val)))
                rngs = [np.random.default_rng([self.recipe.seed, i, 4]) for i in indices]
                images = [
                    augment(self.val.read(i, self.grey), self.spec.preprocessing, still, r)
                    for i, r in zip(indices, rngs, strict=True)
                ]
                batch = self.collate([(image, 0) for image in images], rngs[0])
                loss = model(batch["images"].to(device), batch["mask"].to(device))
                total, count = total + float(loss) * len(images), count + len(images)
                if progress is not None:
                    progress(count, len(self.val))
        return {"negative_loss": -total / count, "loss": total / count, "count": count}

    def save(self, path: Path, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Write the encoder alone, as a headless network that fine-tuning starts from."""
        kept = {n.removeprefix("encoder."): v for n, v in tensors.items() if n.startswith("encoder.")}
        kept.pop("mask_token")
        super().save(path, kept, progress)

    def draw(self, folder: Path, batch: Batch | None, report: dict[str, Any] | None) -> None:  # noqa: ARG002 - the protocol's
        if batch is not None:
            patch = self.spec.variant.patch_size
            hidden = batch["mask"].repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
            images = batch["images"] * (1 - hidden.to(batch["images"].dtype))
            share = [f"{100 * float(mask.float().mean()):.0f} % hidden" for mask in batch["mask"]]
            runs.draw_batch(folder / "train_batch.jpg", images, share, self.spec.preprocessing)


def precision_of(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """Return the autocast type of validation: the recipe's on an accelerator, none on a CPU, which it makes no faster."""
    return torch.bfloat16 if recipe.precision == "bf16" and device.type == "cuda" else None


def unsmoothed(targets: Tensor, smoothing: float, multi_label: bool) -> Tensor:
    """Return the shares (B, K) of the labels in mixed pictures, without what label smoothing has added."""
    floor = smoothing / 2 if multi_label else smoothing / targets.shape[1]
    return (targets - floor) / (1.0 - smoothing)


def multi_hot(target: list[int], num_classes: int) -> Tensor:
    """Return (K,) float with ones at the given classes."""
    row = torch.zeros(num_classes)
    row[list(target)] = 1.0
    return row


def _balanced(data: ClassificationData, spec: ModelSpec) -> Tensor:
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
