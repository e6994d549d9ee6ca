"""``check-data`` for pictures with label maps: pairs, sizes, values, and what the check of pictures looks for."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from swinkit.data.check import Report, check_doubles, look
from swinkit.data.containers import FolderSource, Source, ZipSource
from swinkit.data.masks import IGNORED, read_mask
from swinkit.data.parts import PARTS, MissingPart
from swinkit.data.segmentation import SegmentationData, find_pairs, named, names_a_layout, open_segmentation, part_of
from swinkit.errors import ImageError, InputError
from swinkit.specs import MaskRules


def has_masks(source: str | Path) -> bool:
    """Return whether a folder or zip holds pictures with label maps, in any layout."""
    path = Path(source)
    if not path.is_dir() and not (path.suffix.lower() == ".zip" and path.is_file()):
        return False
    place: Source = FolderSource(path) if path.is_dir() else ZipSource(path)
    names = place.names()
    pairs = find_pairs(names)
    return bool(pairs.pictures and pairs.masks) or names_a_layout(names)


def check_masks(source: str | Path, progress: Callable[[int, int], None] | None = None, void: Sequence[int] = ()) -> Report:
    """Read every pair and report: ``counts`` are the pictures of each part that have a class (a value, without names).

    Args:
        source: folder or zip in a layout that ``open_segmentation`` knows.
        progress: called with (done, total) now and then.
        void: values besides 255 that mean nothing, where the data does not say it.

    Raises:
        DatasetError: nothing of these layouts is there.
        InputError: ``void`` for a layout that has its own.
    """
    path = Path(source)
    place: Source = FolderSource(path) if path.is_dir() else ZipSource(path)
    names = place.names()
    if names_a_layout(names):
        if void:
            raise InputError(f"{path}: its layout says what is void; leave out --void")
        return _check_opened(path, progress)
    report, pairs = Report(str(source)), find_pairs(names)
    classes, rules = named(place, names, path, [], MaskRules(tuple(void)) if void else None)
    nothing = {*rules.void, IGNORED}
    values_of = [value for value in range(65536) if value not in nothing][: len(classes)]
    names_of = dict(zip(values_of, classes, strict=True))
    for what, lone in zip(("pictures without a mask", "masks without a picture"), pairs.alone, strict=True):
        if lone:
            report.fatal.append(f"{len(lone)} {what} (first: {place.label(lone[0])}); pairs have the same name")
    if pairs.doubled:
        first, second = (place.label(name) for name in pairs.doubled[0])
        report.fatal.append(f"{len(pairs.doubled)} names stand twice (first: {first} and {second}); keep one of each")
    found: list[tuple[str, str, str, np.ndarray]] = []
    seen: dict[str, Counter[int]] = {}
    sizes: list[str] = []
    empty: list[str] = []
    keys = sorted(pairs.pictures.keys() & pairs.masks.keys())
    for done, key in enumerate(keys, 1):
        part, picture, mask = part_of(key) or "all", pairs.pictures[key], pairs.masks[key]
        report.pictures[part] = report.pictures.get(part, 0) + 1
        try:
            pixels, bits, size = look(place.read(picture), place.label(picture))
            found.append((part, place.label(picture), pixels, bits))
            values, _ = read_mask(place.read(mask), place.label(mask))
        except ImageError as error:
            report.broken.append(str(error))
        else:
            if values.shape != size:
                sizes.append(f"{place.label(mask)}: {values.shape[1]} x {values.shape[0]}, its picture {size[1]} x {size[0]}")
            there = {int(value) for value in np.unique(values)}
            seen.setdefault(part, Counter()).update(there)
            report.void[part] = report.void.get(part, 0) + bool(there & nothing)
            if there <= nothing:
                empty.append(place.label(mask))
        if progress is not None:
            progress(done, len(keys))
    total = sum(seen.values(), Counter())
    order = values_of if classes else sorted(total.keys() - nothing)
    report.counts = {
        part: {names_of.get(value, str(value)): seen.get(part, Counter())[value] for value in order} for part in report.pictures
    }
    _sum_up_broken(report)
    if sizes:
        report.fatal.append(f"{len(sizes)} masks have another size than their picture (first: {sizes[0]})")
    unknown = Counter({value: count for value, count in total.items() if value not in nothing and value not in names_of})
    if classes and unknown:
        value, count = unknown.most_common(1)[0]
        report.fatal.append(
            f"{len(unknown)} values are no class of the {len(classes)} (most often {value}, in {count} masks); name them void or "
            "mend the masks"
        )
    if empty:
        report.warnings.append(f"{len(empty)} masks are void from edge to edge (first: {empty[0]})")
    if not classes:
        report.warnings.append(
            "no classes.txt names the classes; values are counted as they stand, and one that means nothing (--void) as a class"
        )
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
    report.pictures = {part: len(data) for part, data in parts.items()}
    report.counts = {part: dict.fromkeys(data.classes, 0) for part, data in parts.items()}
    report.void = dict.fromkeys(parts, 0)
    for done, (part, data, index) in enumerate(pairs, 1):
        source, picture, _ = data.items[index]
        try:
            pixels, bits, size = look(data.sources[source].read(picture), data.name(index))
            found.append((part, data.name(index), pixels, bits))
            values = np.unique(data.mask(index, size))
        except ImageError as error:
            report.broken.append(str(error))
        else:
            report.void[part] += IGNORED in values
            for value in values[values != IGNORED]:
                report.counts[part][data.classes[value]] += 1
        if progress is not None:
            progress(done, len(pairs))
    _sum_up_broken(report)
    check_doubles(found, report)
    return report


def _sum_up_broken(report: Report) -> None:
    if report.broken:
        report.fatal.append(f"{len(report.broken)} files cannot be read or used (first: {report.broken[0]})")
