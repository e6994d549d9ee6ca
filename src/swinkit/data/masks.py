"""Label maps: read as numbers, turned into class ids with 255 for void, shown in colours.

| stored as | becomes |
|---|---|
| P (palette), L, 1 | its indices; the palette only gives colours |
| 16-bit grey | its values |
| RGB, RGBA, LA, CMYK | refused: colours are no class ids |
| JPEG | refused: it changes values |
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from swinkit.data.images import open_encoded, quiet, reason_of
from swinkit.errors import ImageError
from swinkit.specs import MaskRules

IGNORED = 255
MAX_CLASSES = 255  # ids 0..254 in 8 bits, 255 is void; stored values may be larger
PAINTED_ROWS = 256  # at once
MASK_SUFFIXES = frozenset([".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm"])


def read_mask(source: bytes | Path, name: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return (values as stored, palette).

    Args:
        source: the encoded label map, or its path.
        name: for messages.

    Returns:
        (H, W) uint8, uint16 or int32, and red, green, blue of each index in turn; empty when the file has no palette.

    Raises:
        ImageError: unreadable, too large, or no map of numbers.
    """
    try:
        with quiet(), open_encoded(source, name) as image:
            if image.format in ("JPEG", "MPO"):
                raise ImageError(f"{name}: is a JPEG, which changes class ids; save masks as PNG")
            if image.mode not in ("P", "L", "1", "I", "I;16", "I;16L", "I;16B"):
                raise ImageError(
                    f"{name}: is a colour picture ({image.mode}), not class ids; save the ids themselves as an 8- or 16-bit PNG"
                )
            palette = tuple(image.getpalette("RGB") or ()) if image.mode == "P" else ()
            values = np.asarray(image)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{name}: too large for the memory of this machine; scale it down") from error
    except Exception as error:  # damaged files raise whatever their decoder does
        raise ImageError(f"{name}: cannot be read as a mask; it {reason_of(error)}") from error
    if values.ndim != 2 or values.size == 0:
        raise ImageError(f"{name}: has no pixels; write it again")
    return values.astype(np.uint8 if values.dtype == bool else values.dtype.newbyteorder("=")), palette


@dataclass(frozen=True)
class MaskReader:
    """Turns stored values into class ids by ``MaskRules``.

    Args:
        rules: which values are void.
        num_classes: classes; a value beyond them is an error.
    """

    rules: MaskRules
    num_classes: int

    def table(self) -> np.ndarray:
        """Return (65536,) int16: class id of each value, 255 void, -1 no class."""
        lookup = np.full(65536, -1, np.int16)
        void = {*self.rules.void, IGNORED}
        classes = (value for value in range(65536) if value not in void)
        for index, value in zip(range(self.num_classes), classes, strict=False):
            lookup[value] = index
        lookup[list(void)] = IGNORED
        return lookup

    def read(self, source: bytes | Path, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the class ids of a label map, (H, W) uint8, 255 void.

        Args:
            source: the encoded label map.
            name: for messages.
            size: (height, width) of its picture, upright; None takes any.

        Raises:
            ImageError: as ``read_mask``; another size than the picture's; a value that is no class.
        """
        values, _ = read_mask(source, name)
        if size is not None and values.shape != size:
            turned = " (the picture is turned by its EXIF orientation, the mask is not)" if values.shape == size[::-1] else ""
            raise ImageError(
                f"{name}: is {values.shape[1]} x {values.shape[0]}, its picture {size[1]} x {size[0]}{turned}; make both alike"
            )
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{name}: holds the value {values.min() if values.min() < 0 else values.max()}; ids are 0 to 65535")
        ids = self.table()[values]
        if ids.min() < 0:
            odd = np.unique(values[ids < 0])
            void = f", void {', '.join(map(str, self.rules.void))} and 255" if self.rules.void else ", void 255"
            raise ImageError(
                f"{name}: holds the value {odd[0]}{f' and {len(odd) - 1} more' if len(odd) > 1 else ''}, which is no class "
                f"({self.num_classes} classes{void}); name it void or mend the mask"
            )
        return ids.astype(np.uint8)


def palette_of(rules: MaskRules | None, num_classes: int) -> np.ndarray:
    """Return the colours of the classes, (num_classes, 3) uint8: the data's own, or well separated hues."""
    if rules is not None and len(rules.palette) >= 3 * num_classes:
        return np.array(rules.palette[: 3 * num_classes], np.uint8).reshape(-1, 3)
    rows = []
    for index in range(num_classes):
        hue = (index * 0.618033988749895) % 1.0  # golden ratio: neighbours differ
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (index % 2), 0.95 - 0.25 * (index // 2 % 3))
        rows.append([round(255 * value) for value in (red, green, blue)])
    return np.array(rows, np.uint8).reshape(-1, 3)


def encode_mask(ids: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Return (H, W) uint8 class ids as a palette picture whose indices are the ids; void is black."""
    image = Image.fromarray(ids).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette[:256]
    image.putpalette(colours.tobytes())
    return image


def paint(image: Image.Image, ids: np.ndarray, palette: np.ndarray, strength: float = 0.55) -> Image.Image:
    """Return the picture with its label map over it in colours; void stays as it is.

    Args:
        image: of the label map's size.
        ids: (H, W) uint8 class ids, 255 void.
        palette: (K, 3) uint8.
        strength: share of the colour, 0..1.
    """
    pixels = np.array(image.convert("RGB"))
    colours = np.zeros((256, 3), np.float32)
    colours[: len(palette)] = palette
    for top in range(0, len(pixels), PAINTED_ROWS):  # floats of a whole large photo would be a gigabyte
        rows = slice(top, top + PAINTED_ROWS)
        share = np.where(ids[rows] == IGNORED, 0.0, strength).astype(np.float32)[..., None]
        pixels[rows] = (pixels[rows] * (1 - share) + colours[ids[rows]] * share).round()
    return Image.fromarray(pixels)
