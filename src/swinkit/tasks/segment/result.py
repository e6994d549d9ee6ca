"""What a segmenter says about one image: the label map, its shares, its drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from swinkit.data.masks import encode_mask, paint
from swinkit.errors import InputError, shown
from swinkit.files import atomic_path
from swinkit.tasks.base import drawn_on
from swinkit.tasks.chart import bar_chart

_INK, _PAPER = (33, 37, 41), (255, 255, 255)


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

    columns: ClassVar[tuple[str, ...]] = ("rank", "label", "index", "pixels", "share")
    suffix: ClassVar[str] = ".png"

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
        mask = self._mask()
        assert self.palette is not None
        picture = drawn_on(self.source, self.picture)
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
        return bar_chart(self.source, [(area.label, area.share) for area in self.areas])

    def rows(self) -> list[tuple[Any, ...]]:
        """Return a row a class that occurs: rank, label, index, pixels, share."""
        return [(rank, a.label, a.index, a.pixels, f"{a.share:.6f}") for rank, a in enumerate(self.areas, start=1)]

    def line(self) -> str:
        """Return the source and the largest classes."""
        shares = ", ".join(f"{area.label} {100 * area.share:.0f} %" for area in self.areas[:4])
        return f"{self.source}  {shares}"

    def text(self) -> list[str]:
        """Return ``bars`` as lines."""
        return self.bars().split("\n")

    def draw(self) -> Image.Image:
        """Return ``overlay``."""
        return self.overlay()

    def _mask(self) -> np.ndarray:
        if self.mask is None:
            raise InputError(self.error or f"{self.source}: there is no label map")
        return self.mask


def with_legend(picture: Image.Image, areas: Sequence[Area], palette: np.ndarray) -> Image.Image:
    """Return the picture with a strip below it that names the colours, largest area first.

    Args:
        picture: RGB.
        areas: classes that occur.
        palette: (K, 3) uint8.
    """
    size = max(10, min(32, picture.width // 36))
    font = ImageFont.load_default(size)
    entries = [(area, f"{area.label} {100 * area.share:.0f} %") for area in areas]
    rows: list[list[tuple[int, Area, str]]] = [[]]
    left = size
    for area, text in entries:
        width = round(2 * size + font.getlength(text) + size)
        if left + width > picture.width and rows[-1]:
            rows.append([])
            left = size
        rows[-1].append((left, area, text))
        left += width
    height = round(1.7 * size)
    whole = Image.new("RGB", (picture.width, picture.height + height * len(rows) + size), _PAPER)
    whole.paste(picture, (0, 0))
    pen = ImageDraw.Draw(whole)
    for line, row in enumerate(rows):
        top = picture.height + size // 2 + line * height
        for left, area, text in row:
            pen.rectangle((left, top, left + 1.4 * size, top + size), tuple(int(v) for v in palette[area.index]), _INK)
            pen.text((left + 2 * size, top - 0.1 * size), text, _INK, font)
    return whole
