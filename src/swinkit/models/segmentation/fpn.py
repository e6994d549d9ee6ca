"""Semantic FPN (arXiv 1901.02446): a feature pyramid, each level brought to the finest by steps of two, then summed.

Source: ``fpn.py`` and ``fpn_head.py`` of mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from swinkit.models.segmentation.parts import ConvNorm, classifier, resize


class FpnNeck(nn.Module):
    """Feature pyramid: laterals, nearest top-down sums, 3x3 convolutions; no norm, no activation (arXiv 1612.03144)."""

    def __init__(self, channels_in: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in channels_in)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in channels_in)
        for layer in (*self.lateral, *self.smooth):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return as many maps as came, all ``channels`` wide, sizes unchanged."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], size=levels[i - 1].shape[-2:], mode="nearest")
        return [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]


class FpnHead(nn.Module):
    """Pyramid to logits: level i goes through i steps of conv-norm-ReLU and doubling; the sum is classified."""

    def __init__(self, levels: int, channels_in: int, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.ModuleList(ConvNorm(channels_in if step == 0 else channels, channels, 3) for step in range(max(1, level)))
            for level in range(levels)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits at the finest map's size: maps (B, channels_in, h_i, w_i) -> (B, num_classes, h_0, w_0)."""
        size = features[0].shape[-2:]
        total = None
        for level, (branch, x) in enumerate(zip(self.branches, features, strict=True)):
            assert isinstance(branch, nn.ModuleList)
            for step in branch:
                x = step(x)
                if level:  # exactly twice, so odd sizes overshoot; the last resize brings them back, as in the original
                    x = resize(x, (2 * x.shape[-2], 2 * x.shape[-1]))
            total = x if total is None else total + resize(x, size)
        return self.classifier(self.dropout(total))
