"""U-Net's decoder (arXiv 1505.04597) on a backbone's maps: enlarge, join the finer map, two convolutions, again.

Source: ``UpConvBlock``, ``InterpConv`` and ``DeconvModule`` of mmsegmentation's ``unet.py``, chained over the maps of a backbone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from swinkit.models.segmentation.parts import ConvNorm, normalise, resize


class UNetNeck(nn.Module):
    """Maps fine to coarse -> decoded maps deep to fine, as wide as the maps they stand on.

    Args:
        channels_in: widths of the maps, fine to coarse.
        deconv_kernel: side of the transposed convolution that doubles a map; 0 enlarges bilinearly.
    """

    def __init__(self, channels_in: Sequence[int], deconv_kernel: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_UpBlock(coarse, fine, deconv_kernel) for fine, coarse in itertools.pairwise(channels_in))
        self.channels = tuple(reversed(channels_in))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the coarsest map as it is, then one decoded map for each finer one."""
        decoded = [features[-1]]
        for i in range(len(self.blocks) - 1, -1, -1):
            decoded.append(self.blocks[i](decoded[-1], features[i]))
        return decoded


class _Deconv(nn.Module):
    """Transposed convolution of stride 2 with bias, BatchNorm, ReLU: (B, in, H, W) -> (B, out, 2 H, 2 W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, kernel, stride=2, padding=kernel // 2 - 1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return normalise(self.norm, self.conv(x))


class _UpBlock(nn.Module):
    def __init__(self, coarse: int, fine: int, deconv_kernel: int) -> None:
        super().__init__()
        if deconv_kernel:
            self.enlarge: nn.Module = _Deconv(coarse, fine, deconv_kernel)
        else:
            self.reduce = ConvNorm(coarse, fine, 1)
        self.deconv = bool(deconv_kernel)
        self.convs = nn.ModuleList([ConvNorm(2 * fine, fine, 3), ConvNorm(fine, fine, 3)])

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # To the finer map's size, which is twice this one unless it was odd.
        size = skip.shape[-2:]
        x = resize(self.enlarge(x), size) if self.deconv else self.reduce(resize(x, size))
        return self.convs[1](self.convs[0](torch.cat([skip, x], dim=1)))
