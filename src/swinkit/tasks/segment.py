"""Semantic segmentation as a task: how its data is opened, what its network is, and the ``Work`` of the loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from swinkit import weights
from swinkit.data.folders import MissingPart
from swinkit.data.masks import IGNORED, palette_of
from swinkit.data.names import part_path
from swinkit.data.scenes import Scene, augment_scene
from swinkit.data.segmentation import SegmentationData, open_segmentation
from swinkit.errors import DatasetError
from swinkit.evaluation import evaluate_segmentation
from swinkit.evaluation.pictures import draw_confusion, draw_label_maps
from swinkit.models.segmentation.losses import cross_entropy, dice
from swinkit.models.systems import DEFAULT_DECODERS
from swinkit.specs import Decoder, MaskRules, ModelSpec
from swinkit.tasks.works import precision_of
from swinkit.training import runs
from swinkit.training.batches import Counting
from swinkit.training.checkpoint import Progress
from swinkit.training.recipe import Recipe

Batch = dict[str, Any]


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


def open_parts(data: str, plan: Recipe) -> tuple[SegmentationData, SegmentationData]:
    """Return the training and the validation part, with the same classes and colours."""
    rules = MaskRules(plan.data.void) if plan.data.void else None
    whole = str(part_path(data, plan.data.train)) if plan.data.train else data
    train = open_segmentation(whole, "train", plan.data.classes, rules)
    try:
        where = str(part_path(data, plan.data.val)) if plan.data.val else data
        return train, open_segmentation(where, "val", train.classes, train.rules)
    except MissingPart:
        pass
    count = max(1, round(plan.data.val_fraction * len(train)))
    if len(train) < 2:
        raise DatasetError(f"{data}: {len(train)} pair is too few; at least 2 are needed to keep one for validation")
    held = set(np.random.default_rng(plan.seed).permutation(len(train))[:count].tolist())
    return train.subset([i for i in range(len(train)) if i not in held]), train.subset(sorted(held))


def describe(spec: ModelSpec, plan: Recipe, data: SegmentationData) -> ModelSpec:
    """Return the description with decoder, classes and colours: the checkpoint's decoder, or the recipe's."""
    wishes = {name: value for name, value in plan.decoder.model_dump().items() if value is not None}
    kind = wishes.pop("kind", None)
    if spec.decoder is not None and kind in (None, spec.decoder.kind):
        decoder = spec.decoder
    else:
        decoder = DEFAULT_DECODERS[kind or "upernet"]
    decoder = Decoder(**{**decoder.to_dict(), "pool_scales": decoder.pool_scales, **wishes})
    return spec.changed(decoder=decoder, masks=data.rules, labels=tuple(data.classes))


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


class SegmentWork:
    """Label maps: cross entropy, an auxiliary head's and perhaps Dice; mIoU.

    Args:
        recipe: options.
        spec: the network's description.
        train, val: data with the same classes.
    """

    main_metric = "mIoU"

    def __init__(self, recipe: Recipe, spec: ModelSpec, train: SegmentationData, val: SegmentationData) -> None:
        self.recipe, self.spec, self.train, self.val = recipe, spec, train, val
        plan = recipe.scene
        self.scene = Scene(plan.crop, plan.ratio, plan.max_share, recipe.augment.flip, plan.distort)
        self.class_weights = median_frequency(train) if recipe.class_weights == "balanced" else None
        self.sheet = Sheet(val, spec)

    def __len__(self) -> int:
        return len(self.train)

    def fingerprint(self) -> str:
        return f"{self.train.fingerprint()}-{self.val.fingerprint()}"

    def sample(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        image = self.train.read(index, grey=len(self.spec.preprocessing.mean) == 1)
        mask = self.train.mask(index, (image.height, image.width))
        return augment_scene(image, mask, self.spec.preprocessing, self.scene, rng)

    def collate(self, samples: list[tuple[Tensor, Tensor]], rng: np.random.Generator) -> Batch:  # noqa: ARG002 - the protocol's
        return {"images": torch.stack([i for i, _ in samples]), "targets": torch.stack([t for _, t in samples])}

    def losses(self, model: Callable[..., Any], batch: Batch) -> dict[str, Tensor]:
        plan, targets = self.recipe.loss, batch["targets"]
        logits, auxiliary = model(batch["images"], auxiliary=True)
        scale = None if self.class_weights is None else self.class_weights.to(logits.device)
        found = {"loss": cross_entropy(logits.float(), targets, plan.divide, scale)}
        if auxiliary is not None and plan.auxiliary:
            found["auxiliary"] = plan.auxiliary * cross_entropy(auxiliary.float(), targets, plan.divide, scale)
        if plan.dice:
            found["dice"] = plan.dice * dice(logits.float(), targets)
        return found

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

    def save(self, path: Path, tensors: dict[str, Tensor], progress: Progress) -> None:
        facts = dict(self.spec.facts)
        if progress.rows:
            facts["metrics"] = {k: v for k, v in progress.rows[-1].items() if k in ("mIoU", "mAcc", "aAcc")}
        weights.save_native(path, tensors, self.spec.changed(facts=facts))


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
