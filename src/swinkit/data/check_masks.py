"""``check-data`` for pictures with label maps: pairs, sizes, values, and what the check of pictures looks for."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from swinkit.data.check import Report, check_doubles, look
from swinkit.data.containers import FolderSource, Source, ZipSource
from swinkit.data.folders import PARTS, MissingPart
from swinkit.data.masks import IGNORED, read_mask
from swinkit.data.segmentation import (
    SegmentationData,
    named,
    names_a_layout,
    open_segmentation,
    part_of,
    pictures_and_masks,
)
from swinkit.errors import ImageError
from swinkit.specs import MaskRules


def has_masks(source: str | Path) -> bool:
    """Return whether a folder or zip holds pictures with label maps, in any layout."""
    path = Path(source)
    if not path.is_dir() and not (path.suffix.lower() == ".zip" and path.is_file()):
        return False
    place: Source = FolderSource(path) if path.is_dir() else ZipSource(path)
    names = place.names()
    pictures, masks = pictures_and_masks(names)
    return bool(pictures and masks) or names_a_layout(names)


def check_masks(source: str | Path, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read every pair and report: ``counts`` are the pictures of each part that have a class (a value, without names).

    Args:
        source: folder or zip in a layout that ``open_segmentation`` knows.
        progress: called with (done, total) now and then.

    Raises:
        DatasetError: nothing of these layouts is there.
    """
    path = Path(source)
    place: Source = FolderSource(path) if path.is_dir() else ZipSource(path)
    names = place.names()
    if names_a_layout(names):
        return _check_opened(path, progress)
    pictures, masks = pictures_and_masks(names)
    report = Report(str(source))
    classes, rules = named(place, names, path, [], MaskRules())
    void = {*rules.void, IGNORED}
    values_of = [value for value in range(65536) if value not in void][: len(classes)]
    names_of = dict(zip(values_of, classes, strict=True))
    for what, lone in (
        ("pictures without a mask", [pictures[key] for key in sorted(pictures.keys() - masks.keys())]),
        ("masks without a picture", [masks[key] for key in sorted(masks.keys() - pictures.keys())]),
    ):
        if lone:
            report.fatal.append(f"{len(lone)} {what} (first: {place.label(lone[0])}); pairs have the same name")
    found: list[tuple[str, str, str, np.ndarray]] = []
    sizes: list[str] = []
    empty: list[str] = []
    unknown: Counter[int] = Counter()
    pairs = sorted(pictures.keys() & masks.keys())
    for done, key in enumerate(pairs, 1):
        part, label = part_of(key) or "all", place.label(masks[key])
        counts = report.counts.setdefault(part, dict.fromkeys(classes, 0))
        try:
            pixels, bits, size = look(place.read(pictures[key]), place.label(pictures[key]))
            found.append((part, place.label(pictures[key]), pixels, bits))
            values, _ = read_mask(place.read(masks[key]), label)
        except ImageError as error:
            report.broken.append(str(error))
            continue
        if values.shape != size:
            sizes.append(f"{label}: {values.shape[1]} x {values.shape[0]}, its picture {size[1]} x {size[0]}")
        present = [int(value) for value in np.unique(values) if value not in void]
        if not present:
            empty.append(label)
        for value in present:
            if classes and value not in names_of:
                unknown[value] += 1
            else:
                name = names_of.get(value, str(value))
                counts[name] = counts.get(name, 0) + 1
        if progress is not None:
            progress(done, len(pairs))
    _sum_up_broken(report)
    if sizes:
        report.fatal.append(f"{len(sizes)} masks have another size than their picture (first: {sizes[0]})")
    if unknown:
        value, count = unknown.most_common(1)[0]
        report.fatal.append(
            f"{len(unknown)} values are no class of the {len(classes)} (most often {value}, in {count} masks); name them void or "
            "mend the masks"
        )
    if empty:
        report.warnings.append(f"{len(empty)} masks are void from edge to edge (first: {empty[0]})")
    if not classes:
        report.warnings.append("no classes.txt names the classes; values are counted as they stand")
    check_doubles(found, report)
    return report


def _check_opened(path: Path, progress: Callable[[int, int], None] | None) -> Report:
    """Check a layout that names its pairs itself, as its reader opens it."""
    report, found = Report(str(path)), []
    parts: dict[str, SegmentationData] = {}
    for part in PARTS:
        with contextlib.suppress(MissingPart):
            parts[part] = open_segmentation(path, part)
    pairs = [(part, data, index) for part, data in parts.items() for index in range(len(data))]
    for done, (part, data, index) in enumerate(pairs, 1):
        counts = report.counts.setdefault(part, dict.fromkeys(data.classes, 0))
        source, picture, _ = data.items[index]
        try:
            pixels, bits, size = look(data.sources[source].read(picture), data.name(index))
            found.append((part, data.name(index), pixels, bits))
            values = data.mask(index, size)
        except ImageError as error:
            report.broken.append(str(error))
            continue
        for value in np.unique(values[values != IGNORED]):
            counts[data.classes[value]] += 1
        if progress is not None:
            progress(done, len(pairs))
    _sum_up_broken(report)
    check_doubles(found, report)
    return report


def _sum_up_broken(report: Report) -> None:
    if report.broken:
        report.fatal.append(f"{len(report.broken)} files cannot be read or used (first: {report.broken[0]})")
