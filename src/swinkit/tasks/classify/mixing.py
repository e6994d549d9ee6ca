"""Mixup and CutMix on a batch, and the soft targets they make.

Sources: arXiv 1710.09412, arXiv 1905.04899; the batch mode of timm 0.4.12's ``Mixup`` that the Swin recipe uses.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def smooth_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return (B, K) rows of ``smoothing / K``, and ``1 - smoothing`` more at the label, from (B,) int64."""
    rows = torch.full((labels.shape[0], num_classes), smoothing / num_classes, device=labels.device)
    return rows.scatter_(1, labels[:, None], 1.0 - smoothing + smoothing / num_classes)


def mix_batch(
    images: Tensor, targets: Tensor, mixup: float, cutmix: float, switch: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return the batch mixed with itself in reverse order, one strength for all.

    Args:
        images: (B, C, H, W) float; changed in place by CutMix.
        targets: (B, K) float rows.
        mixup, cutmix: alpha of each Beta distribution; 0 switches it off.
        switch: probability of CutMix when both are on.
        rng: source of the choice, the strength and the box.
    """
    if mixup <= 0 and cutmix <= 0:
        return images, targets
    use_cutmix = cutmix > 0 and (mixup <= 0 or rng.random() < switch)
    alpha = cutmix if use_cutmix else mixup
    strength = float(rng.beta(alpha, alpha))
    if use_cutmix:
        height, width = images.shape[-2:]
        cut = math.sqrt(1.0 - strength)
        centre_y, centre_x = int(rng.integers(0, height)), int(rng.integers(0, width))
        top, bottom = (min(max(centre_y + sign * int(height * cut) // 2, 0), height) for sign in (-1, 1))
        left, right = (min(max(centre_x + sign * int(width * cut) // 2, 0), width) for sign in (-1, 1))
        images[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        strength = 1.0 - (bottom - top) * (right - left) / (height * width)
    else:
        images = images * strength + images.flip(0) * (1.0 - strength)
    return images, targets * strength + targets.flip(0) * (1.0 - strength)
