"""Random changes of pictures together with their label maps, as segmentation systems are trained.

Source: ``segmentation.md`` of the project's notes; mmsegmentation's ``transforms.py`` and OpenCV's 8-bit colour rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from swinkit.data.masks import IGNORED
from swinkit.data.pixels import pixels_of, scaled
from swinkit.data.transforms import fit_box, normalise
from swinkit.specs import Preprocessing


@dataclass(frozen=True)
class Scene:
    """Options of ``augment_scene``.

    Args:
        crop: (height, width) of the network's training input, pixels.
        ratio: range of the scale on top of the preparation's.
        max_share: largest share a class may have among a crop's pixels that count; up to ten crops are drawn. 1 takes any.
        flip: probability of a mirror image.
        distort: change brightness, contrast, saturation and hue, each with probability one half.
    """

    crop: tuple[int, int] = (512, 512)
    ratio: tuple[float, float] = (0.5, 2.0)
    max_share: float = 0.75
    flip: float = 0.5
    distort: bool = True


def augment_scene(
    image: Image.Image, mask: np.ndarray, preprocessing: Preprocessing, options: Scene, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return a random view of a picture and its label map.

    Args:
        image: upright picture.
        mask: (H, W) uint8 class ids, 255 void.
        preprocessing: "box", "native" or "squash"; its size is what ``options.ratio`` multiplies.
        options: what may change.
        rng: all chance comes from it.

    Returns:
        (C, h, w) float32 and (h, w) int64, ``options.crop`` large; beyond the picture 0 (the mean colour) and 255.
    """
    pixels, targets = _resized(image, mask, preprocessing, float(rng.uniform(*options.ratio)))
    top, left = _crop(targets, options, rng)
    height, width = options.crop
    pixels = pixels[:, top : top + height, left : left + width]
    targets = targets[top : top + height, left : left + width]
    if rng.random() < options.flip:
        pixels, targets = pixels.flip(-1), targets.flip(-1)
    if options.distort and pixels.shape[0] == 3:
        pixels = distort(pixels.permute(1, 2, 0).contiguous().numpy(), rng)
    tensor = normalise(pixels, preprocessing)
    missing = (0, width - tensor.shape[2], 0, height - tensor.shape[1])
    return F.pad(tensor, missing), F.pad(targets.long(), missing, value=IGNORED)


def _resized(image: Image.Image, mask: np.ndarray, preprocessing: Preprocessing, ratio: float) -> tuple[Tensor, Tensor]:
    height, width = mask.shape
    if preprocessing.resize == "box":
        size = fit_box(height, width, preprocessing.size, ratio)
    elif preprocessing.resize == "squash":
        size = (max(1, int(preprocessing.size[0] * ratio + 0.5)), max(1, int(preprocessing.size[1] * ratio + 0.5)))
    else:
        size = (max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5)))
    pixels, targets = pixels_of(image), torch.from_numpy(np.ascontiguousarray(mask))
    if size != (height, width):
        pixels = scaled(pixels, size, preprocessing.interpolation, preprocessing.antialias)
        # torch's "nearest" is OpenCV's; Pillow's and "nearest-exact" sample half a pixel beside it
        targets = F.interpolate(targets[None, None], size=size, mode="nearest")[0, 0]
    return pixels, targets


def _crop(targets: Tensor, options: Scene, rng: np.random.Generator) -> tuple[int, int]:
    """Return (top, left) of a crop in which no class covers too much; after ten tries any."""
    down, across = (max(0, side - crop) for side, crop in zip(targets.shape, options.crop, strict=True))
    top = left = 0
    for _ in range(10):
        top, left = int(rng.integers(0, down + 1)), int(rng.integers(0, across + 1))
        if options.max_share >= 1:
            break
        part = targets[top : top + options.crop[0], left : left + options.crop[1]]
        counts = torch.bincount(part.flatten().long(), minlength=256)[:IGNORED]
        if (counts > 0).sum() > 1 and counts.max() / counts.sum() < options.max_share:
            break
    return top, left


def distort(picture: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Return (3, H, W) uint8 of an (H, W, 3) RGB picture with other light and colours.

    Brightness +-32, contrast and saturation times 0.5..1.5, hue +-18 of 180; contrast before or after the colours. Values are
    clipped and truncated after each step, as there.
    """
    if rng.random() < 0.5:
        picture = _shifted(picture, 1.0, float(rng.uniform(-32, 32)))
    contrast_first = rng.random() < 0.5
    if contrast_first and rng.random() < 0.5:
        picture = _shifted(picture, float(rng.uniform(0.5, 1.5)), 0.0)
    if rng.random() < 0.5:
        picture = change_colours(picture, saturation=float(rng.uniform(0.5, 1.5)))
    if rng.random() < 0.5:
        picture = change_colours(picture, hue=int(rng.integers(-18, 18)))
    if not contrast_first and rng.random() < 0.5:
        picture = _shifted(picture, float(rng.uniform(0.5, 1.5)), 0.0)
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)


def _shifted(picture: np.ndarray, factor: float, offset: float) -> np.ndarray:
    return np.clip(picture.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


def change_colours(picture: np.ndarray, saturation: float = 1.0, hue: int = 0) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB after scaling the saturation and turning the hue (0..179, OpenCV's 8-bit HSV)."""
    values = picture.astype(np.float32)
    largest, smallest = values.max(-1), values.min(-1)
    spread = largest - smallest
    safe = np.where(spread == 0, 1, spread)
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    angle = np.where(
        largest == red, (green - blue) / safe, np.where(largest == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    degrees = np.where(spread == 0, 0, (angle * 60) % 360)
    h = np.round(degrees / 2) % 180
    s = np.round(255 * spread / np.where(largest == 0, 1, largest))
    h, s = (h + hue) % 180, np.clip(s * np.float32(saturation), 0, 255).astype(np.uint8).astype(np.float32)
    # back: https://docs.opencv.org/4.x/de/d25/imgproc_color_conversions.html
    sector, part = np.divmod(h / 30, 1)
    low, falling, rising = (largest * (1 - s / 255 * share) for share in (1, part, 1 - part))
    order = [
        (largest, rising, low), (falling, largest, low), (low, largest, rising),
        (low, falling, largest), (rising, low, largest), (largest, low, falling),
    ]  # fmt: skip
    channels = [np.choose(sector.astype(np.int64) % 6, [row[i] for row in order]) for i in range(3)]
    return np.clip(np.round(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)
