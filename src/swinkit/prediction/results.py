"""What a network says about one image, as typed values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swinkit.data.images import read_image
from swinkit.data.masks import encode_mask, paint
from swinkit.errors import InputError, shown
from swinkit.files import atomic_path

BAR_CELLS = 30
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Prediction:
    """One class: its name, its index among the network's outputs, its probability (0..1)."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class ClassificationResult:
    """The answer for one image.

    Args:
        source: path of the image, or a description of one that came without.
        predictions: most probable first; empty when the image could not be read.
        error: why the image could not be read, one sentence; None when it could.
    """

    source: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None

    @property
    def top(self) -> Prediction:
        """The most probable class.

        Raises:
            InputError: the image could not be read; the message is ``error``.
        """
        if not self.predictions:
            raise InputError(self.error or f"{self.source}: there are no predictions")
        return self.predictions[0]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: ``source``, ``predictions`` (``label``, ``index``, ``probability``), ``error``."""
        return {
            "source": self.source,
            "predictions": [asdict(prediction) for prediction in self.predictions],
            "error": self.error,
        }

    def bars(self) -> str:
        """Return a line a class: name, bar, per cent; under the source as a heading."""
        if self.error is not None:
            return shown(self.error)
        return _chart(self.source, [(prediction.label, prediction.probability) for prediction in self.predictions])


@dataclass(frozen=True)
class Area:
    """One class in a label map: its name, its index, its pixels and their share of the picture (0..1)."""

    label: str
    index: int
    pixels: int
    share: float


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """The label map of one image.

    Args:
        source: path of the image, or a description of one that came without.
        mask: (H, W) uint8 class indices at the upright image's size; None when it could not be read.
        labels: class names in index order.
        palette: (K, 3) uint8, a colour for each class.
        error: why the image could not be read, one sentence; None when it could.
        picture: the image itself where it came in memory; of a file, which is read again when a drawing is asked for, None.
    """

    source: str
    mask: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    palette: np.ndarray | None = field(default=None, repr=False)
    error: str | None = None
    picture: Image.Image | None = field(default=None, repr=False)

    @property
    def areas(self) -> tuple[Area, ...]:
        """The classes that occur, largest first."""
        mask = self._mask()
        counts = np.bincount(mask.ravel(), minlength=len(self.labels))
        order = sorted(np.flatnonzero(counts), key=lambda index: -counts[index])
        return tuple(Area(self.labels[i], int(i), int(counts[i]), float(counts[i] / mask.size)) for i in order)

    def overlay(self, strength: float = 0.55) -> Image.Image:
        """Return the photo with the label map over it and a legend below.

        Raises:
            InputError: the image could not be read, or its file has another size than when it was answered.
        """
        from swinkit.prediction.draw import with_legend

        mask = self._mask()
        assert self.palette is not None
        picture = self.picture if self.picture is not None else read_image(Path(self.source))
        if picture.size != mask.shape[::-1]:
            raise InputError(
                f"{self.source}: is {picture.width}x{picture.height} now, and was {mask.shape[1]}x{mask.shape[0]} when it was "
                "segmented; segment it again"
            )
        return with_legend(paint(picture, mask, self.palette, strength), self.areas, self.palette)

    def save(self, path: str | Path) -> None:
        """Write the label map as a palette PNG whose values are the class indices.

        Raises:
            InputError: the image could not be read.
        """
        mask = self._mask()
        assert self.palette is not None
        with atomic_path(path) as temporary:
            encode_mask(mask, self.palette).save(temporary, format="PNG")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: ``source``, ``size`` (width, height), ``areas``, ``error``."""
        if self.mask is None:
            return {"source": self.source, "size": None, "areas": [], "error": self.error}
        size = [self.mask.shape[1], self.mask.shape[0]]
        return {"source": self.source, "size": size, "areas": [asdict(area) for area in self.areas], "error": None}

    def bars(self) -> str:
        """Return a line a class that occurs: name, bar, per cent of the picture; under the source as a heading."""
        if self.error is not None:
            return shown(self.error)
        return _chart(self.source, [(area.label, area.share) for area in self.areas])

    def _mask(self) -> np.ndarray:
        if self.mask is None:
            raise InputError(self.error or f"{self.source}: there is no label map")
        return self.mask


def _chart(heading: str, rows: list[tuple[str, float]]) -> str:
    """Return a heading and a line for each label and share (0..1); no name can bring a line of its own."""
    named = [(shown(label), share) for label, share in rows]
    width = max((len(label) for label, _ in named), default=0)
    lines = [f"  {label:<{width}}  {_bar(share)} {100 * share:5.1f} %" for label, share in named]
    return "\n".join([shown(heading), *lines])


def _bar(share: float) -> str:
    full, eighths = divmod(round(share * BAR_CELLS * 8), 8)
    return ("█" * full + (_EIGHTHS[eighths] if eighths else "")).ljust(BAR_CELLS)
