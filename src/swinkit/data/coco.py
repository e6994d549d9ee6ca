"""COCO annotations as label maps: a file is checked to its last number when it is read, and then only drawn.

Every entry names one picture and every picture has one entry; ids stand once; whatever is wrong is refused with file, row, field.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from swinkit.data.images import MAX_PIXELS
from swinkit.data.masks import IGNORED, MAX_CLASSES
from swinkit.data.names import checked_labels
from swinkit.data.parts import part_in
from swinkit.errors import DatasetError, ImageError, shown
from swinkit.files import parse_json

MAX_BYTES = 2**30  # COCO's train2017 has 450 MB
MAX_COORDINATE = 1e6  # pixels; polygons reach a little beyond their picture
MAX_POINTS = 50_000  # of a polygon
MAX_POINT_ROWS = 1_000_000_000  # points of a picture's polygons times its rows, and
MAX_CROSSINGS = 20_000_000  # rows that their edges cross: each about a second of drawing
BACKGROUND = "background"

Rings = list[np.ndarray]  # each (points, 2) float64, x and y
Runs = tuple[tuple[int, int], np.ndarray]  # (height, width) and lengths of runs of 0 and 1 in turn, down the columns


@dataclass(frozen=True)
class Drawing:
    """What is drawn over one picture.

    Args:
        size: (height, width) of the picture as the file says it; None where it does not.
        shapes: (class id or 255, polygons or runs), largest first.
    """

    size: tuple[int, int] | None
    shapes: list[tuple[int, Rings | Runs]]

    def draw(self, size: tuple[int, int], name: str) -> np.ndarray:
        """Return the class ids, (H, W) uint8: 0 where nothing is, later (smaller) shapes on top.

        Args:
            size: (height, width) of the upright picture.
            name: for messages.

        Raises:
            ImageError: the picture has another size than the file says, or the polygons have too many points.
        """
        stated = [self.size] if self.size else []
        stated += [shape[0] for _, shape in self.shapes if isinstance(shape, tuple)]
        for height, width in stated:
            if (height, width) != size:
                turned = " (it is turned by its EXIF orientation, they are not)" if (width, height) == size else ""
                raise ImageError(
                    f"{name}: is {size[1]} x {size[0]}, its annotations are of {width} x {height}{turned}; make both alike"
                )
        rings = [ring for _, shape in self.shapes if isinstance(shape, list) for ring in shape]
        points = sum(map(len, rings))
        rows = [np.clip(ring[:, 1], 0, size[0]) for ring in rings]
        crossings = sum(float(np.abs(np.diff(row, append=row[0])).sum()) for row in rows)
        if points * size[0] > MAX_POINT_ROWS or crossings > MAX_CROSSINGS:
            raise ImageError(f"{name}: its polygons have {points:,} points, too many for {size[0]:,} rows; simplify them")
        canvas = Image.new("L", size[::-1], 0)
        pen = ImageDraw.Draw(canvas)
        for label, shape in self.shapes:
            if isinstance(shape, tuple):
                filled = np.repeat(np.arange(len(shape[1])) % 2 == 1, shape[1]).reshape(size, order="F")
                canvas.paste(label, mask=Image.fromarray(filled.astype(np.uint8) * 255))
                continue
            for ring in shape:
                pen.polygon([(x, y) for x, y in ring.tolist()], fill=label)
        return np.array(canvas)


def read_coco(content: bytes, label: str, file: str, pictures: Iterable[str]) -> tuple[list[str], dict[str, Drawing]]:
    """Return (class names, picture -> what is drawn over it); class 0 is the background, crowds are void.

    Args:
        content: of the file.
        label: its path, for messages.
        file: its name inside the folder or zip.
        pictures: names inside the folder or zip.

    Raises:
        DatasetError: anything that is not as COCO says, not unique, or out of range.
    """
    truth = parse_json(content, label, DatasetError)
    if not isinstance(truth, dict):
        raise DatasetError(f"{label}: is no COCO annotation file (no object); give another")
    classes = _categories(truth, label)
    if len(classes) >= MAX_CLASSES:
        raise DatasetError(f"{label}: {len(classes) + 1} classes are more than {MAX_CLASSES}; keep those you need")
    names = checked_labels([BACKGROUND, *(name for _, name in classes)], label)
    found, sizes = _images(truth, label, file, pictures)
    shapes = _annotations(truth, label, {number: place for place, (number, _) in enumerate(classes, 1)}, sizes)
    drawn = {}
    for number, picture in found.items():
        rows = sorted(shapes.get(number, []), key=lambda row: -row[0])
        drawn[picture] = Drawing(sizes[number], [(kind, shape) for _, kind, shape in rows])
    return names, drawn


def _categories(truth: dict[str, Any], label: str) -> list[tuple[int, str]]:
    """Return (id, name) of each category by id."""
    found: dict[int, str] = {}
    for row, where in _rows(truth, "categories", label):
        number = _whole(row, "id", where)
        if number in found:
            raise DatasetError(f"{where}: the id {number} stands twice; give each category its own")
        found[number] = _text(row, "name", where)
    return sorted(found.items())


def _images(
    truth: dict[str, Any], label: str, file: str, pictures: Iterable[str]
) -> tuple[dict[int, str], dict[int, tuple[int, int] | None]]:
    """Return (picture of each image id, in the order of the file names; size of each)."""
    by_name: dict[str, list[str]] = {}
    for picture in pictures:
        by_name.setdefault(PurePosixPath(picture).name, []).append(picture)
    found: dict[int, str] = {}
    sizes: dict[int, tuple[int, int] | None] = {}
    taken: dict[str, str] = {}  # picture -> file_name
    for row, where in _rows(truth, "images", label):
        number, name = _whole(row, "id", where), _text(row, "file_name", where)
        if number in found:
            raise DatasetError(f"{where}: the id {number} stands twice; give each image its own")
        picture = _picture(name, file, by_name, where)
        if picture in taken:
            raise DatasetError(f"{where}: means {picture!r}, as {taken[picture]!r} does; name each picture once, by its path")
        taken[picture], found[number], sizes[number] = name, picture, _size(row, where)
    return dict(sorted(found.items(), key=lambda item: taken[item[1]])), sizes


def _picture(name: str, file: str, by_name: dict[str, list[str]], where: str) -> str:
    """Return the picture that ``file_name`` means: the one whose path ends most like it, never one of another part."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    candidates = by_name.get(parts[-1], []) if parts else []
    for base in (PurePosixPath(file).parent, PurePosixPath()):
        if (exact := (base / name).as_posix()) in candidates:
            return exact
    wanted = part_in(PurePosixPath(*parts)) or part_in(PurePosixPath(file), stem=True)
    if wanted:
        candidates = [picture for picture in candidates if part_in(PurePosixPath(picture)) in (None, wanted)]
    shared = {picture: _common_end(PurePosixPath(picture).parts, parts) for picture in candidates}
    best = [picture for picture in candidates if shared[picture] == max(shared.values())]
    if len(best) > 1 and wanted:
        best = [picture for picture in best if part_in(PurePosixPath(picture)) == wanted] or best
    if not best:
        part = f" in the part {wanted!r}" if wanted else ""
        raise DatasetError(f"{where}: names the picture {shown(name)!r}, which is not there{part}; unpack the pictures")
    if len(best) > 1:
        raise DatasetError(f"{where}: {shown(name)!r} may be {best[0]!r} or {best[1]!r}; write more of the path as file_name")
    return best[0]


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count


def _size(row: dict[str, Any], where: str) -> tuple[int, int] | None:
    if row.get("width") is None and row.get("height") is None:
        return None
    return _bounded(_whole(row, "height", where), _whole(row, "width", where), where)


def _bounded(height: int, width: int, where: str) -> tuple[int, int]:
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise DatasetError(f"{where}: a picture of {width} x {height} pixels is not possible here; mend its size")
    return height, width


def _annotations(
    truth: dict[str, Any], label: str, classes: dict[int, int], sizes: dict[int, tuple[int, int] | None]
) -> dict[int, list[tuple[float, int, Rings | Runs]]]:
    """Return (area, class id or 255, shape) of every annotation by image id."""
    found: dict[int, list[tuple[float, int, Rings | Runs]]] = {}
    seen: set[int] = set()
    for row, where in _rows(truth, "annotations", label):
        if row.get("id") is not None:
            number = _whole(row, "id", where)
            if number in seen:
                raise DatasetError(f"{where}: the id {number} stands twice; give each annotation its own")
            seen.add(number)
        image, category = _whole(row, "image_id", where), _whole(row, "category_id", where)
        for value, known, what in ((image, sizes, "image"), (category, classes, "category")):
            if value not in known:
                raise DatasetError(f"{where}: '{what}_id' is {value}, which no {what} has; mend it or remove the annotation")
        crowd = row.get("iscrowd", 0)
        if crowd not in (0, 1) or type(crowd) not in (int, bool):
            raise DatasetError(f"{where}: 'iscrowd' is {reprlib.repr(crowd)}, not 0 or 1; mend it")
        area = row.get("area", 0)
        if type(area) not in (int, float) or not 0 <= area < math.inf:
            raise DatasetError(f"{where}: 'area' is {reprlib.repr(area)}, not a number from 0; mend it")
        shape = _shape(row.get("segmentation"), sizes[image], where)
        if shape is not None:
            found.setdefault(image, []).append((float(area), IGNORED if crowd else classes[category], shape))
    if truth["annotations"] and not found:
        raise DatasetError(f"{label}: none of its {len(truth['annotations']):,} annotations has a shape; boxes are no label maps")
    return found


def _shape(shape: Any, size: tuple[int, int] | None, where: str) -> Rings | Runs | None:
    """Return polygons or runs; None where there is nothing to draw."""
    if shape is None or shape == []:
        return None
    if isinstance(shape, list):
        rings = [ring for number, value in enumerate(shape) if (ring := _ring(value, f"{where}: polygon {number}")) is not None]
        return rings or None
    if isinstance(shape, dict):
        return _runs(shape, size, where)
    raise DatasetError(f"{where}: 'segmentation' is {reprlib.repr(shape)}, neither polygons nor runs; write it again")


def _ring(ring: Any, where: str) -> np.ndarray | None:
    """Return (points, 2) float64; None for fewer than three points, which COCO itself has and which cover nothing."""
    if not isinstance(ring, list) or not set(map(type, ring)) <= {int, float}:
        raise DatasetError(f"{where}: is {reprlib.repr(ring)}, not a list of numbers; write it again")
    if len(ring) % 2 or len(ring) > 2 * MAX_POINTS:
        what = "a number without its partner" if len(ring) % 2 else f"more than {MAX_POINTS:,} points"
        raise DatasetError(f"{where}: has {what}; give x and y of each point")
    points = np.array(ring, np.float64).reshape(-1, 2)
    if not (np.abs(points) <= MAX_COORDINATE).all():
        raise DatasetError(f"{where}: has a point beyond {MAX_COORDINATE:,.0f} pixels; mend it")
    return points if len(points) >= 3 else None


def _runs(table: dict[str, Any], size: tuple[int, int] | None, where: str) -> Runs:
    """Return a run-length table, which fills its picture: a list of runs, or COCO's compressed text."""
    counts, stated = table.get("counts"), table.get("size")
    if not isinstance(counts, str) and (not isinstance(counts, list) or not set(map(type, counts)) <= {int}):
        raise DatasetError(f"{where}: the runs of its mask are {reprlib.repr(counts)}, no list of whole numbers; write it again")
    if not isinstance(stated, list) or len(stated) != 2 or not set(map(type, stated)) <= {int}:
        raise DatasetError(f"{where}: the size of its mask is {reprlib.repr(stated)}, not [height, width]; write it again")
    height, width = _bounded(stated[0], stated[1], where)
    if size is not None and (height, width) != size:
        raise DatasetError(f"{where}: its mask is {width} x {height}, its picture {size[1]} x {size[0]}; write it again")
    if isinstance(counts, str):
        runs = _unpacked(counts, height * width, where)
    elif sum(counts) == height * width and min(counts) >= 0:
        runs = np.array(counts, np.int64)
    else:
        runs = np.array([-1])
    if runs.min() < 0 or runs.sum() != height * width:
        raise DatasetError(f"{where}: its run-length mask does not fill the picture; write it again")
    return (height, width), runs


def _unpacked(text: str, pixels: int, where: str) -> np.ndarray:
    """Return the runs in COCO's compressed text: (runs,) int64, each within a few times ``pixels``.

    A character is its code minus 48: five bits of a number, lowest first, and 32 where more follow; 16 in the last one is the
    sign. From the fourth number on, each is the difference to the one before the last. Source: ``maskApi.c`` of
    cocoapi. Its own reader (``pycocotools.mask``) trusts the text: numbers of any length, sums that overflow; so this one stays.
    """
    codes = np.frombuffer(text.encode() if text.isascii() else b"", np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate((np.zeros(1, np.int64), last[:-1] + 1))
    # Seven characters hold any run of the largest picture; differences beyond the picture lead to no runs.
    whole = len(codes) and codes.min() >= 0 and codes.max() < 64 and len(last) and last[-1] == len(codes) - 1
    if not whole or (last - starts).max() >= 7 or len(last) > pixels + 2:
        raise DatasetError(f"{where}: its compressed run-length mask is {reprlib.repr(text)}, which is damaged; write it again")
    place = np.arange(len(codes)) - np.repeat(starts, last - starts + 1)
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (5 * (last - starts + 1)), 0)
    if np.abs(numbers).max() > pixels:
        raise DatasetError(f"{where}: its run-length mask does not fill the picture; write it again")
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def _rows(truth: dict[str, Any], kind: str, label: str) -> Iterable[tuple[dict[str, Any], str]]:
    """Yield each object of a list with its place in the file, for messages."""
    rows = truth.get(kind)
    if not isinstance(rows, list):
        raise DatasetError(f"{label}: is no COCO annotation file (it has no list {kind!r}); give another")
    for number, row in enumerate(rows):
        where = f"{label}: {kind}[{number}]"
        if not isinstance(row, dict):
            raise DatasetError(f"{where}: is {reprlib.repr(row)}, not an object; write the file again")
        yield row, where


def _whole(row: dict[str, Any], field: str, where: str) -> int:
    value = row.get(field)
    if type(value) is not int:
        raise DatasetError(f"{where}: {field!r} is {reprlib.repr(value)}, not a whole number; mend it")
    return value


def _text(row: dict[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value or "\x00" in value:
        raise DatasetError(f"{where}: {field!r} is {reprlib.repr(value)}, not a name; mend it")
    return value
