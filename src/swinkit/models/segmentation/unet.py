"""U-Net's decoder (arXiv 1505.04597) on a backbone's maps: enlarge, join the finer map, two convolutions, again.

Source: ``UpConvBlock`` and ``InterpConv`` of mmsegmentation's ``unet.py``, chained over the maps of a backbone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from swinkit.models.segmentation.parts import ConvNorm, resize


class UNetNeck(nn.Module):
    """Maps fine to coarse -> decoded maps deep to fine, as wide as the maps they stand on."""

    def __init__(self, channels_in: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_UpBlock(coarse, fine) for fine, coarse in itertools.pairwise(channels_in))
        self.channels = tuple(reversed(channels_in))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the coarsest map as it is, then one decoded map for each finer one."""
        decoded = [features[-1]]
        for i in range(len(self.blocks) - 1, -1, -1):
            decoded.append(self.blocks[i](decoded[-1], features[i]))
        return decoded


class _UpBlock(nn.Module):
    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(coarse, fine, 1)
        self.convs = nn.ModuleList([ConvNorm(2 * fine, fine, 3), ConvNorm(fine, fine, 3)])

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # To the finer map's size, which is twice this one unless it was odd.
        x = torch.cat([skip, self.reduce(resize(x, skip.shape[-2:]))], dim=1)
        return self.convs[1](self.convs[0](x))
