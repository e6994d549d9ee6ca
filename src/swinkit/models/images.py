"""What a network may be given."""

from __future__ import annotations

import torch
from torch import Tensor

from swinkit.errors import InputError


def check_images(images: Tensor, channels: int, dtype: torch.dtype = torch.float32) -> None:
    """Refuse what a network cannot take: another number of axes or channels, no pixels, whole numbers.

    Args:
        images: (B, channels, H, W), normalised.
        channels: of the network.
        dtype: of its weights; float64 images are for float64 weights alone.

    Raises:
        InputError: with what to do.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != channels:
        got = tuple(images.shape) if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise InputError(f"images must be (B, {channels}, H, W), got {got}; a single image needs images[None]")
    if not images.is_floating_point() or (images.dtype == torch.float64 and dtype != torch.float64):
        kind = str(dtype).removeprefix("torch.")
        raise InputError(
            f"images must be normalised {kind} numbers, got {images.dtype}; of pixels of 0..255 make "
            "((images / 255 - mean) / std).float(), and give photos to swinkit.load(...).predict"
        )
    if images.shape[0] == 0 or images.shape[2] == 0 or images.shape[3] == 0:
        raise InputError(f"images must hold pixels, got {tuple(images.shape)}; leave empty pictures and batches out")
