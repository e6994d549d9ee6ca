"""Losses of label maps: logits (B, K, H, W) at the map's size against targets (B, H, W), 255 ignored."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORED = 255
Divisor = Literal["all", "valid"]


def cross_entropy(logits: Tensor, targets: Tensor, divide: Divisor = "valid", weights: Tensor | None = None) -> Tensor:
    """Return softmax cross entropy.

    Args:
        logits: (B, K, H, W).
        targets: (B, H, W) int64, class ids and 255.
        divide: "all" divides the sum by every pixel of the batch, ignored ones and padding too (the authors' fork and
            mmsegmentation's default: 10 % ignored is a step 10 % smaller); "valid" by the pixels that count, or by
            their weights (torch, transformers).
        weights: (K,) of each class.

    Returns:
        A scalar; 0 when every pixel is ignored.
    """
    total = F.cross_entropy(logits, targets, weights, ignore_index=IGNORED, reduction="sum")
    if divide == "all":
        return total / targets.numel()
    valid = targets != IGNORED
    if weights is None:
        return total / valid.sum().clamp(min=1)
    counted = torch.where(valid, weights[targets.masked_fill(~valid, 0)], weights.new_zeros(()))
    return total / counted.sum().clamp(min=torch.finfo(total.dtype).tiny)


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Return one minus the Dice coefficient, over classes and pixels of a picture together, averaged over pictures.

    1 - 2 sum(p q) / (sum(p^2) + sum(q^2) + 2e-3), p softmax, q one-hot (mmsegmentation's ``dice_loss.py``). There, as here,
    ignored pixels have no q but keep their p.
    """
    classes = logits.shape[1]
    probabilities = logits.softmax(dim=1).flatten(1)
    valid = targets != IGNORED
    hot = F.one_hot(targets.masked_fill(~valid, 0), classes) * valid[..., None]
    hot = hot.permute(0, 3, 1, 2).flatten(1).to(probabilities.dtype)
    overlap = (probabilities * hot).sum(1)
    spread = probabilities.square().sum(1) + hot.square().sum(1) + 2e-3
    return (1 - 2 * overlap / spread).mean()


class SegmentationLoss(nn.Module):
    """The losses of a segmenter, weighted.

    Args:
        divide: as for ``cross_entropy``.
        auxiliary: weight of the auxiliary head's loss; 0 leaves it out.
        dice: weight of a Dice loss beside; 0 leaves it out.
        class_weights: as for ``cross_entropy``.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        divide: Literal["all", "valid"] = "valid",
        auxiliary: float = 0.4,
        dice: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.divide, self.auxiliary, self.dice = divide, auxiliary, dice
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, auxiliary: Tensor | None, targets: Tensor) -> dict[str, Tensor]:
        """Return ``cross_entropy`` and, where they count, ``auxiliary`` and ``dice``: scalars whose sum is trained.

        Args:
            logits, auxiliary: (B, K, H, W), of the head and of the auxiliary head.
            targets: (B, H, W) class ids, 255 void.
        """
        scale = self.class_weights
        found = {"cross_entropy": cross_entropy(logits.float(), targets, self.divide, scale)}
        if auxiliary is not None and self.auxiliary:
            found["auxiliary"] = self.auxiliary * cross_entropy(auxiliary.float(), targets, self.divide, scale)
        if self.dice:
            found["dice"] = self.dice * dice(logits.float(), targets)
        return found
