"""From an upright photo to the network's input: fixed for prediction, random for training.

Every random choice is drawn from a generator handed in, so a sample is a function of (seed, epoch, index) and a
resumed run meets the same pictures as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional as F

from swinkit.data.geometry import Geometry
from swinkit.data.pixels import pixels_of, scaled
from swinkit.specs import Preprocessing


def centred(pixels: Tensor, height: int, width: int) -> Tensor:
    """Return the centre of (C, H, W), black where the picture is smaller; halves are rounded as in torchvision."""
    down, across = max(0, height - pixels.shape[-2]), max(0, width - pixels.shape[-1])
    if down or across:
        pixels = F.pad(pixels, (across // 2, (across + 1) // 2, down // 2, (down + 1) // 2))
    top, left = round((pixels.shape[-2] - height) / 2), round((pixels.shape[-1] - width) / 2)
    return pixels[..., top : top + height, left : left + width]


def corner(pixels: Tensor, height: int, width: int) -> tuple[int, int]:
    """Return the (top, left) pixel of (C, H, W) that ``centred`` begins at; negative where it pads."""
    down, across = height - pixels.shape[-2], width - pixels.shape[-1]
    top = -(down // 2) if down > 0 else round(-down / 2)
    left = -(across // 2) if across > 0 else round(-across / 2)
    return top, left


def fit_box(height: int, width: int, box: tuple[int, int], ratio: float = 1.0) -> tuple[int, int]:
    """Return the (height, width) a photo gets: as large as fits into ``ratio`` times the box (shorter, longer side).

    Source: ``rescale_size`` of mmcv, whose rounding is kept.
    """
    longer, shorter = int(max(box) * ratio), int(min(box) * ratio)
    factor = min(longer / max(height, width), shorter / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resized(image: Image.Image, preprocessing: Preprocessing, ratio: float = 1.0) -> Tensor:
    """Return the photo scaled and cropped, before normalisation: (C, h, w) uint8. As ``placed``, without the way back."""
    return placed(image, preprocessing, ratio)[0]


def placed(image: Image.Image, preprocessing: Preprocessing, ratio: float = 1.0) -> tuple[Tensor, Geometry]:
    """Return the photo scaled and cropped, before normalisation, (C, h, w) uint8, and where that lies in the photo.

    ``ratio`` scales the target of "box", "native" and "squash" (several scales of one photo, for label maps).
    """
    pixels = pixels_of(image)
    height, width = photo = (pixels.shape[-2], pixels.shape[-1])
    mode = preprocessing.interpolation
    if preprocessing.resize != "shorter":
        base = photo if preprocessing.resize == "native" else preprocessing.size
        if preprocessing.resize == "box":
            size = fit_box(height, width, preprocessing.size, ratio)
        else:
            size = (max(1, int(base[0] * ratio + 0.5)), max(1, int(base[1] * ratio + 0.5)))
        if preprocessing.resize == "squash" or size != photo:
            pixels = scaled(pixels, size, mode, preprocessing.antialias)
        return pixels, Geometry(photo, size, (size[0] / height, size[1] / width))
    # The longer side follows by truncation, as in torchvision and in transformers' processors.
    scale = preprocessing.resize_to / min(height, width)
    target = [preprocessing.resize_to, int(width * scale)] if height <= width else [int(height * scale), preprocessing.resize_to]
    cut = (0, 0)
    if max(target) > 16384:  # a strip of thousands to one: cut the ends that the centre crop would drop anyway
        longest = int(16384 / scale)
        cut = corner(pixels, min(height, longest), min(width, longest))
        pixels = centred(pixels, min(height, longest), min(width, longest))
        target = [min(side, 16384) for side in target]
    down, across = target[0] / pixels.shape[-2], target[1] / pixels.shape[-1]
    pixels = scaled(pixels, target, mode)
    top, left = corner(pixels, *preprocessing.size)
    geometry = Geometry(photo, preprocessing.size, (down, across), (top + cut[0] * down, left + cut[1] * across))
    return centred(pixels, *preprocessing.size), geometry


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return (..., C, h, w) uint8 as float32, scaled to 0..1 and standardised by channel."""
    mean, std = (torch.tensor(x, device=pixels.device).view(-1, 1, 1) for x in (preprocessing.mean, preprocessing.std))
    return (pixels.to(torch.float32) / 255.0 - mean) / std


def prepare(image: Image.Image, preprocessing: Preprocessing, ratio: float = 1.0) -> Tensor:
    """Return the network's input for one upright photo.

    Args:
        image: 8-bit picture with as many channels as ``preprocessing`` has means.
        preprocessing: stored with the weights.
        ratio: of the size that it says; see ``resized``.

    Returns:
        (C, h, w) float32.
    """
    return normalise(resized(image, preprocessing, ratio), preprocessing)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training pictures; zeros switch a change off.

    Args:
        crop_scale: range of the crop's area over the picture's; (1, 1) takes the whole picture.
        crop_ratio: range of the crop's aspect, drawn log-uniformly.
        flip: probability of a mirror image.
        randaugment: operations a picture (RandAugment, arXiv 1909.13719, as timm's ``rand-m9-mstd0.5-inc1``).
        magnitude, magnitude_std: mean and spread of their strength, 0..10.
        soften: probability of losing detail first (scaled down to 1/4 .. 1 of the input's size and up again).
        erase: probability of filling a rectangle with noise (arXiv 1708.04896).
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    randaugment: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    soften: float = 0.0
    erase: float = 0.25


def augment(image: Image.Image, preprocessing: Preprocessing, options: Augmentation, rng: np.random.Generator) -> Tensor:
    """Return a random view of a photo as the network's input, (C, h, w) float32."""
    top, left, height, width = _crop_box(image.height, image.width, options, rng)
    pixels = pixels_of(image.crop((left, top, left + width, top + height)))
    size, mode = list(preprocessing.size), preprocessing.interpolation
    if options.soften and rng.random() < options.soften:
        factor = float(rng.uniform(0.25, 1.0))
        pixels = scaled(pixels, [max(2, round(side * factor)) for side in size], mode)
    if list(pixels.shape[-2:]) != size:
        pixels = scaled(pixels, size, mode)
    if rng.random() < options.flip:
        pixels = pixels.flip(-1)
    if options.randaugment:
        fill = tuple(round(255 * value) for value in preprocessing.mean)
        array = pixels.permute(1, 2, 0).contiguous().numpy()
        picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
        pixels = pixels_of(rand_augment(picture, options, fill, rng))
    tensor = normalise(pixels, preprocessing)
    if options.erase and rng.random() < options.erase:
        _erase(tensor, rng)
    return tensor


def _crop_box(height: int, width: int, options: Augmentation, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) as torchvision's RandomResizedCrop draws it: ten tries, then the centre."""
    low, high = (math.log(value) for value in options.crop_ratio)
    for _ in range(10):
        area = height * width * rng.uniform(*options.crop_scale)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    ratio = min(max(width / height, options.crop_ratio[0]), options.crop_ratio[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    w, h = max(w, 1), max(h, 1)
    return (height - h) // 2, (width - w) // 2, h, w


def _erase(tensor: Tensor, rng: np.random.Generator) -> None:
    """Fill one random rectangle with N(0, 1) noise, in place, after normalisation (timm's ``pixel`` mode)."""
    channels, height, width = tensor.shape
    for _ in range(10):
        area = height * width * rng.uniform(0.02, 1 / 3)
        ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            noise = rng.standard_normal((channels, h, w), dtype=np.float32)
            tensor[:, top : top + h, left : left + w] = torch.from_numpy(noise)
            return


Operation = Callable[[Image.Image, float, tuple[int, ...]], Image.Image]


def _moved(image: Image.Image, matrix: tuple[float, ...], fill: tuple[int, ...]) -> Image.Image:
    colour = fill if image.mode != "L" else fill[0]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=colour)


def _enhanced(kind: type) -> Operation:
    return lambda image, level, _fill: kind(image).enhance(max(0.0, 1.0 + 0.9 * level))


def _solarize_add(image: Image.Image, level: float, _fill: tuple[int, ...]) -> Image.Image:
    added = int(110 * abs(level))
    lookup = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(lookup * len(image.getbands()))


def _rotated(image: Image.Image, level: float, fill: tuple[int, ...]) -> Image.Image:
    return image.rotate(30.0 * level, resample=Image.Resampling.BICUBIC, fillcolor=fill if image.mode != "L" else fill[0])


# Level is magnitude / 10, and for operations with a direction its sign is drawn at random (timm 0.4.12,
# ``auto_augment.py``: the "increasing" set of 15, drawn with replacement).
_SIGNED: dict[str, Operation] = {
    "rotate": _rotated,
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": lambda image, level, fill: _moved(image, (1, 0.3 * level, 0, 0, 1, 0), fill),
    "shear_y": lambda image, level, fill: _moved(image, (1, 0, 0, 0.3 * level, 1, 0), fill),
    "translate_x": lambda image, level, fill: _moved(image, (1, 0, 0.45 * level * image.width, 0, 1, 0), fill),
    "translate_y": lambda image, level, fill: _moved(image, (1, 0, 0, 0, 1, 0.45 * level * image.height), fill),
}
_UNSIGNED: dict[str, Operation] = {
    "auto_contrast": lambda image, _level, _fill: ImageOps.autocontrast(image),
    "equalize": lambda image, _level, _fill: ImageOps.equalize(image),
    "invert": lambda image, _level, _fill: ImageOps.invert(image),
    "posterize": lambda image, level, _fill: ImageOps.posterize(image, max(1, 4 - int(4 * level))),
    "solarize": lambda image, level, _fill: ImageOps.solarize(image, 256 - int(256 * level)),
    "solarize_add": _solarize_add,
}
OPERATIONS: dict[str, Operation] = {**_UNSIGNED, **_SIGNED}


def rand_augment(image: Image.Image, options: Augmentation, fill: tuple[int, ...], rng: np.random.Generator) -> Image.Image:
    """Return the picture after ``options.randaugment`` random operations, each applied with probability one half."""
    names = list(OPERATIONS)
    for choice in rng.integers(0, len(names), size=options.randaugment):
        if rng.random() >= 0.5:
            continue
        magnitude = min(max(rng.normal(options.magnitude, options.magnitude_std), 0.0), 10.0)
        level = magnitude / 10.0
        name = names[choice]
        if name in _SIGNED and rng.random() < 0.5:
            level = -level
        image = OPERATIONS[name](image, level, fill)
    return image
