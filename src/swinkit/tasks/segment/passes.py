"""Logits of label maps: whole images, sliding windows, several scales and mirror images, and their way back to a photo."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from swinkit.data.transforms import prepare
from swinkit.specs import Preprocessing

Network = Callable[[Tensor], Tensor]
BAND_VALUES = 2**24  # logits enlarged at once: 64 MB
OVERLAP = 0.25  # share of a tile that the next one covers again


@dataclass(frozen=True)
class Passes:
    """How often and how a photo goes through the network.

    Args:
        ratios: scales of the prepared photo; several are averaged as probabilities.
        flip: each of them also mirrored.
        crop: side of a sliding window, pixels of the network's input; 0 takes the photo whole.
        stride: step of the window; 0 means two thirds of the crop.
        of_picture: ratios multiply the photo's own size, not the size it is prepared to (mmsegmentation 1.x; the authors' numbers
            are of the other rule).
        tile: side of the tiles the photo is cut into, pixels of the photo, each answered once like a photo of its own, seams
            blended; 0 does not cut.
    """

    ratios: tuple[float, ...] = (1.0,)
    flip: bool = False
    crop: int = 0
    stride: int = 0
    of_picture: bool = False
    tile: int = 0

    def __post_init__(self) -> None:
        if not self.ratios or not all(0 < ratio <= 16 for ratio in self.ratios):  # NaN is in no range
            raise ValueError(f"ratios must be between 0 and 16, got {self.ratios}")
        if self.crop < 0 or self.stride < 0 or (self.crop and self.stride > self.crop):
            raise ValueError(f"a stride of {self.stride} with windows of {self.crop} leaves holes; make it at most the window")
        if self.tile and not 16 <= self.tile <= 16384:
            raise ValueError(f"a tile is 16 to 16384 pixels wide, got {self.tile}")
        if self.tile and (self.ratios != (1.0,) or self.flip or self.crop):
            raise ValueError("tiles go through the network once; leave out scales, mirror images and windows")

    def describe(self) -> str:
        """Return a few words for reports."""
        if self.tile:
            return f"tiles of {self.tile} pixels, seams blended"
        step = self.stride or max(1, 2 * self.crop // 3)
        how = f"windows of {self.crop} every {step} pixels" if self.crop else "whole image"
        scales = f", scales {'/'.join(f'{ratio:g}' for ratio in self.ratios)}"
        scales = "" if self.ratios == (1.0,) else scales + (" of the picture" if self.of_picture else "")
        return how + scales + (", with mirror images" if self.flip else "")


def slide(network: Network, images: Tensor, crop: int, stride: int) -> Tensor:
    """Return the mean logits of overlapping windows.

    Args:
        network: (B, C, h, w) -> (B, K, h, w).
        images: (B, C, H, W).
        crop, stride: side and step of the windows, pixels. The last window of a row is moved back inside; a side
            shorter than the crop is taken whole.

    Returns:
        (B, K, H, W). One window that covers the image gives exactly the network's answer.

    Source: ``slide_inference`` of mmsegmentation's ``encoder_decoder.py``.
    """
    height, width = images.shape[-2:]
    total, count = None, images.new_zeros(1, 1, height, width)
    for top in starts(height, crop, stride):
        for left in starts(width, crop, stride):
            rows, columns = slice(top, min(top + crop, height)), slice(left, min(left + crop, width))
            logits = network(images[:, :, rows, columns])
            if total is None:
                total = logits.new_zeros(logits.shape[0], logits.shape[1], height, width)
            total[:, :, rows, columns] += logits
            count[:, :, rows, columns] += 1
    assert total is not None
    return total / count


def starts(length: int, crop: int, stride: int) -> list[int]:
    """Return where windows or tiles of ``crop`` pixels begin along a side; the last is moved back inside."""
    steps = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(step * stride + crop, length) - crop, 0) for step in range(steps)]


def passes_of(
    network: Network, image: Image.Image, preprocessing: Preprocessing, options: Passes, device: torch.device | str = "cpu"
) -> list[Tensor]:
    """Return the logits of every pass, mirrored ones mirrored back: each (K, h, w) at the size of its input, on the CPU."""
    found = []
    if options.of_picture:
        preprocessing = dataclasses.replace(preprocessing, resize="native")
    for ratio in options.ratios:
        images = prepare(image, preprocessing, ratio)[None].to(device)
        for mirrored in (False, True) if options.flip else (False,):
            turned = images.flip(-1) if mirrored else images
            if options.crop:
                logits = slide(network, turned, options.crop, options.stride or max(1, 2 * options.crop // 3))
            else:
                logits = network(turned)
            found.append((logits.flip(-1) if mirrored else logits)[0].float().cpu())
    return found


def bands(passes: Sequence[Tensor], height: int, width: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, scores of these rows) of the photo, (K, rows, width), from top to bottom.

    Scores are enlarged logits of one pass, or the mean probabilities of several. Never more than ``BAND_VALUES`` of a pass are
    held, so the photo may be of any size.
    """
    step = max(1, BAND_VALUES // (passes[0].shape[0] * width))
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        if len(passes) == 1:
            yield rows, _enlarged(passes[0], height, width, rows)
        else:
            yield rows, torch.stack([_enlarged(logits, height, width, rows).softmax(dim=0) for logits in passes]).mean(0)


def class_map(passes: Sequence[Tensor], height: int, width: int) -> np.ndarray:
    """Return the most probable class of every pixel of the photo: (height, width) uint8."""
    answer = np.empty((height, width), np.uint8)
    for rows, scores in bands(passes, height, width):
        answer[rows] = scores.argmax(dim=0).to(torch.uint8).numpy()
    return answer


def label_map(
    network: Network, image: Image.Image, preprocessing: Preprocessing, options: Passes, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Return the class of every pixel of the photo, (height, width) uint8, however ``options`` takes it through the network."""
    if options.tile:
        return tiled_map(network, image, preprocessing, options.tile, device=device)
    return class_map(passes_of(network, image, preprocessing, options, device), image.height, image.width)


def tiled_map(
    network: Network,
    image: Image.Image,
    preprocessing: Preprocessing,
    tile: int,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Return the class of every pixel of a large photo, tile by tile, seams blended.

    Each tile is prepared and answered like a photo of its own; where tiles overlap their probabilities are averaged,
    weighted by the distance to the tile's edge. Only the rows of two rows of tiles are held.

    Args:
        network: (1, C, h, w) -> (1, K, h, w).
        image: upright photo.
        preprocessing: of each tile.
        tile: side of a tile, pixels of the photo.
        device: where the network runs.

    Returns:
        (H, W) uint8.
    """
    width, height = image.size
    tops, lefts = (starts(side, tile, round(tile * (1 - OVERLAP))) for side in (height, width))
    answer = np.empty((height, width), np.uint8)
    total: Tensor | None = None  # weighted sums; the argmax does not need their division by the weights
    first = 0  # the photo's row that ``total`` begins at
    for top in tops:
        bottom = min(top + tile, height)
        if total is not None:  # rows above this tile are finished
            answer[first:top] = total[:, : top - first].argmax(dim=0).to(torch.uint8).numpy()
            total = total[:, top - first :]
        first = top
        for left in lefts:
            right = min(left + tile, width)
            part = passes_of(network, image.crop((left, top, right, bottom)), preprocessing, Passes(), device)[0]
            scores = _enlarged(part, bottom - top, right - left, slice(0, bottom - top)).softmax(dim=0)
            if total is None:
                total = scores.new_zeros(scores.shape[0], 0, width)
            grown = bottom - first - total.shape[1]
            if grown > 0:
                total = F.pad(total, (0, 0, 0, grown))
            total[:, : bottom - top, left:right] += scores * _ramp(bottom - top)[:, None] * _ramp(right - left)
    assert total is not None
    answer[first:] = total.argmax(dim=0).to(torch.uint8).numpy()
    return answer


def _ramp(length: int) -> Tensor:
    """Return the weight of each place by its distance to the nearer edge, 0 < w <= 1."""
    places = torch.arange(length, dtype=torch.float32)
    return (torch.minimum(places, length - 1 - places) + 1) / ((length + 1) // 2)


def _enlarged(logits: Tensor, height: int, width: int, rows: slice) -> Tensor:
    """Return some rows of the bilinear resize of (K, h, w) to (K, height, width)."""
    if logits.shape[1:] == (height, width):
        return logits[:, rows]
    source = logits.shape[1]
    # The rows that these ones lie between, with torch's rule for corners that are not aligned.
    places = ((torch.arange(rows.start, rows.stop, dtype=torch.float32) + 0.5) * (source / height) - 0.5).clamp(min=0)
    upper = places.floor().long().clamp(max=source - 1)
    lower = (upper + 1).clamp(max=source - 1)
    share = (places - upper)[None, :, None]
    wide = F.interpolate(
        logits[None, :, int(upper[0]) : int(lower[-1]) + 1],
        size=(int(lower[-1]) + 1 - int(upper[0]), width),
        mode="bilinear",
        align_corners=False,
    )[0]
    upper, lower = upper - upper[0], lower - upper[0]
    return wide[:, upper] * (1 - share) + wide[:, lower] * share
