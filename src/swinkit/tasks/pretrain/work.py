"""What the training loop asks of SimMIM: pictures with a mask, the error on hidden pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swinkit.data import ClassificationData
from swinkit.data.transforms import Augmentation, augment
from swinkit.models.simmim import random_mask
from swinkit.specs import ModelSpec
from swinkit.tasks.base import PictureWork
from swinkit.tasks.pretrain.recipe import PretrainRecipe
from swinkit.training import runs
from swinkit.training.batches import Batch, Counting
from swinkit.training.checkpoint import Progress
from swinkit.training.log import Metric

METRICS = (Metric("negative_loss", "loss", share=False, negative=True),)


class PretrainWork(PictureWork):
    """Masked image modelling: a hidden part of the picture is predicted from the rest; labels are not used.

    Args:
        recipe: options.
        spec: the network's description.
        train, val: pictures.
    """

    def __init__(self, recipe: PretrainRecipe, spec: ModelSpec, train: ClassificationData, val: ClassificationData) -> None:
        super().__init__(METRICS, spec, train, val)
        self.recipe = recipe
        self.options = Augmentation(**{name: getattr(recipe.augment, name) for name in Augmentation.__dataclass_fields__})

    def sample(self, index: int, rng: np.random.Generator) -> Any:
        return augment(self.train.read(index, self.grey), self.spec.preprocessing, self.options, rng), None

    def collate(self, samples: list[tuple[Tensor, Any]], rng: np.random.Generator) -> Batch:
        images = torch.stack([image for image, _ in samples])
        plan, patch = self.recipe.masking, self.spec.variant.patch_size
        masks = [random_mask(images.shape[-1], plan.cell, patch, plan.ratio, rng) for _ in samples]
        return {"images": images, "targets": torch.from_numpy(np.stack(masks))}

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
                batch = self.collate([(image, None) for image in images], rngs[0])
                loss = model(batch["images"].to(device), batch["targets"].to(device))["error"]
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
            masks, patch = batch["targets"], self.spec.variant.patch_size
            hidden = masks.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
            images = batch["images"] * (1 - hidden.to(batch["images"].dtype))
            share = [f"{100 * float(mask.float().mean()):.0f} % hidden" for mask in masks]
            runs.draw_batch(folder / "train_batch.jpg", images, share, self.spec.preprocessing)
