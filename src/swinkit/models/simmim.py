"""SimMIM: predict the hidden pixels of a picture (arXiv 2111.09886; ``models/simmim.py`` of the original code)."""

from __future__ import annotations

import math
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swinkit.models.swin import Swin
from swinkit.specs import Variant


class MaskedSwin(Swin):
    """A Swin whose hidden tokens are replaced by a learned one after the patch norm."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant, dense=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, variant.embed_dim))
        self.norm = nn.LayerNorm(variant.channels[-1])
        self.init_weights()
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return the last map, (B, 8E, h, w); mask (B, H / patch, W / patch), 1 where hidden."""
        x = self.embed(images)
        hidden = mask[..., None].to(x.dtype)  # (B, h, w, 1)
        x = x * (1.0 - hidden) + self.mask_token.to(x.dtype) * hidden
        return self.norm(self.stages(x)[-1]).permute(0, 3, 1, 2)


class SimMIM(nn.Module):
    """Masked pre-training of a Swin with a one-layer decoder.

    Args:
        variant: shape of the network; its ``img_size`` is the pictures' side.
        normalise_targets: side of the window in which target pixels are standardised; 0 compares plain pixels.
    """

    def __init__(self, variant: Variant, normalise_targets: int = 0) -> None:
        super().__init__()
        self.encoder = MaskedSwin(variant)
        self.stride = variant.strides[-1]
        self.normalise_targets = normalise_targets
        self.decoder = nn.Sequential(
            nn.Conv2d(variant.channels[-1], self.stride**2 * variant.in_chans, 1), nn.PixelShuffle(self.stride)
        )

    @overload
    def forward(self, images: Tensor) -> Tensor: ...
    @overload
    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]: ...
    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Return the predicted pixels, or with a mask the loss.

        Args:
            images: (B, C, H, W) normalised, H and W multiples of the last stride.
            targets: (B, H / patch, W / patch), 1 where hidden; the pixels themselves are the truth.

        Returns:
            (B, C, H, W), predicted from all of the picture; with a mask ``error``, the mean absolute error over hidden pixels.
        """
        patch = self.encoder.variant.patch_size
        if targets is None:
            height, width = (-(-side // patch) for side in images.shape[-2:])
            return self.decoder(self.encoder(images, images.new_zeros(images.shape[0], height, width)))
        predicted = self.decoder(self.encoder(images, targets))
        hidden = targets.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None].float()  # (B, 1, H, W)
        truth = local_norm(images, self.normalise_targets) if self.normalise_targets else images
        error = (predicted.float() - truth.float()).abs() * hidden
        return {"error": error.sum() / (hidden.sum() + 1e-5) / images.shape[1]}


def random_mask(side: int, cell: int, patch: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Return a mask of tokens, (side / patch, side / patch) int64: ceil(ratio * cells) whole cells are 1."""
    if side % cell or cell % patch:
        raise ValueError(f"a picture of {side} pixels must be a multiple of the cell ({cell}), a cell of the patch ({patch})")
    cells = side // cell
    mask = np.zeros(cells * cells, dtype=np.int64)
    mask[rng.permutation(cells * cells)[: math.ceil(ratio * cells * cells)]] = 1
    return mask.reshape(cells, cells).repeat(cell // patch, axis=0).repeat(cell // patch, axis=1)


def local_norm(images: Tensor, side: int) -> Tensor:
    """Return pixels minus the mean of their neighbourhood, over its standard deviation (unbiased, eps 1e-6).

    Args:
        images: (B, C, H, W).
        side: odd side of the square neighbourhood; pixels outside the picture do not count.
    """
    padding = side // 2

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, side, 1, padding, count_include_pad=False)

    count = F.avg_pool2d(torch.ones_like(images), side, 1, padding, count_include_pad=True) * side**2
    local = mean(images)
    variance = (mean(images.square()) - local.square()).clamp(min=0) * count / (count - 1)
    return (images - local) / (variance + 1e-6).sqrt()
