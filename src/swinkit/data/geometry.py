"""Where a prepared picture lies in its photo."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """What preparation did to a photo, and the way back.

    A point (x, y) of the prepared picture lies at ((x + left) / across, (y + top) / down) of the photo.

    Args:
        photo: (height, width) of the upright photo, pixels.
        size: (height, width) of the prepared picture, pixels.
        scale: (down, across): prepared pixels for one pixel of the photo.
        crop: (top, left): prepared pixels that were cut off above and to the left; negative where the picture was padded.
    """

    photo: tuple[int, int]
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[float, float] = (0.0, 0.0)

    def points(self, points: Tensor) -> Tensor:
        """Return points of the prepared picture as points of the photo, kept inside it.

        Args:
            points: (..., 2) float, x and y in pixels.

        Returns:
            (..., 2), pixels of the photo.
        """
        height, width = self.photo
        crop = torch.tensor(self.crop[::-1], dtype=points.dtype, device=points.device)
        scale = torch.tensor(self.scale[::-1], dtype=points.dtype, device=points.device)
        largest = torch.tensor((width, height), dtype=points.dtype, device=points.device)
        return ((points + crop) / scale).clamp(min=torch.zeros_like(largest), max=largest)

    def boxes(self, boxes: Tensor) -> Tensor:
        """Return boxes (..., 4) xyxy of the prepared picture as boxes of the photo, kept inside it."""
        return self.points(boxes.unflatten(-1, (2, 2))).flatten(-2)
