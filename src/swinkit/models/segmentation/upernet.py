"""UPerNet (arXiv 1807.10221): pooled context on the coarsest map, a top-down pyramid, all levels fused at the finest.

Source: ``uper_head.py`` and ``psp_head.py`` of mmsegmentation, which the Swin authors used. Parameter names are neutral
ones; ``weights/heads/segment.py`` has those of the other code bases.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swinkit.models.segmentation.parts import ConvNorm, classifier, resize


class UPerHead(nn.Module):
    """Pyramid to logits.

    Args:
        channels_in: widths of the maps, fine to coarse.
        channels: width of everything inside.
        pool_scales: cells a side of the pooled maps.
        num_classes: classes.
        dropout: rate of whole channels before the classifier.
    """

    def __init__(
        self, channels_in: Sequence[int], channels: int, pool_scales: Sequence[int], num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        *finer, coarsest = channels_in
        self.pool_scales = tuple(pool_scales)
        self.ppm = nn.ModuleList(ConvNorm(coarsest, channels, 1) for _ in pool_scales)
        self.ppm_fuse = ConvNorm(coarsest + len(self.pool_scales) * channels, channels, 3)
        self.lateral = nn.ModuleList(ConvNorm(width, channels, 1) for width in finer)
        self.smooth = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in finer)
        self.fuse = ConvNorm(len(channels_in) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits at the finest map's size.

        Args:
            features: maps fine to coarse, (B, C_i, h_i, w_i).

        Returns:
            (B, num_classes, h_0, w_0).
        """
        levels = [lateral(x) for lateral, x in zip(self.lateral, features, strict=False)]
        levels.append(self._context(features[-1]))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1].shape[-2:])
        levels = [smooth(x) for smooth, x in zip(self.smooth, levels, strict=False)] + levels[-1:]
        return self.classifier(self.dropout(self._fused(levels)))

    def _context(self, x: Tensor) -> Tensor:
        """Pool to a few cells a side, spread each over the map again, fuse with the map."""
        pooled = [conv(F.adaptive_avg_pool2d(x, scale)) for conv, scale in zip(self.ppm, self.pool_scales, strict=True)]
        return self.ppm_fuse(torch.cat([x, *(resize(cell, x.shape[-2:]) for cell in pooled)], dim=1))

    def _fused(self, levels: list[Tensor]) -> Tensor:
        """Resize all levels to the finest and fuse them by one 3x3 convolution.

        That convolution is two thirds of UPerNet's cost, most of it spent on enlarged copies. In evaluation it is
        computed at each level's own size instead: exactly the same sum in another order (``_enlarged_conv``).
        """
        size = levels[0].shape[-2:]
        if self.training:
            return self.fuse(torch.cat([resize(level, size) for level in levels], dim=1))
        parts = self.fuse.conv.weight.split([level.shape[1] for level in levels], dim=1)
        total = F.conv2d(levels[0], parts[0], padding=1)
        for level, part in zip(levels[1:], parts[1:], strict=True):
            total = total + _enlarged_conv(level, part, size)
        return self.fuse.normalise(total)


def _enlarged_conv(x: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
    """Return ``conv2d(resize(x, size), weight, padding=1)`` with the products at x's own size.

    A 1x1 product commutes with bilinear resizing, and a 3x3 convolution is nine 1x1 products, shifted and summed. So
    the products are made small, and rows and columns are enlarged, shifted and summed one after the other.
    """
    out, channels = weight.shape[:2]
    height, width = size
    rows = []
    for row in range(3):
        taps = weight[:, :, row].permute(2, 0, 1).reshape(3 * out, channels, 1, 1)
        left, middle, right = resize(F.conv2d(x, taps), (x.shape[-2], width)).chunk(3, dim=1)
        # The kernel's left tap sees the column before: its product moves one column to the right.
        rows.append(middle + F.pad(left, (1, 0))[..., :-1] + F.pad(right, (0, 1))[..., 1:])
    above, centre, below = (resize(row, (height, width)) for row in rows)
    return centre + F.pad(above, (0, 0, 1, 0))[..., :-1, :] + F.pad(below, (0, 0, 0, 1))[..., 1:, :]
