"""What is wrong with a data set, found before training: broken files, doubles, leaks between the parts, odd classes."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from swinkit.data.folders import ClassificationData, MissingPart, open_dataset
from swinkit.data.images import count_frames, read_image
from swinkit.errors import ImageError, shown

NEAR_BITS = 20  # of 256; pairs of the same photo lie below, measured on the flowers collection
FEW = 10
MAX_COMPARED = 200_000  # the work of comparing all pairs grows with the square
MAX_PAIRS = 10_000


@dataclass
class Report:
    """What ``check_data`` found. ``fatal`` must be mended before training, ``warnings`` should be looked at."""

    where: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    exact_duplicates: list[list[str]] = field(default_factory=list)
    near_duplicates: list[tuple[str, str, int]] = field(default_factory=list)
    fatal: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def check_data(source: str | Path, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read every picture of every part and report.

    Args:
        source: anything ``open_dataset`` takes.
        progress: called with (done, total) now and then.

    Raises:
        DatasetError: it is no data set at all.
    """
    parts = _parts(str(source))
    report = Report(str(source))
    _check_classes(parts, report)
    rows: list[tuple[str, int, ClassificationData]] = [
        (part, index, data) for part, data in parts.items() for index in range(len(data))
    ]
    found: list[tuple[str, str, str, np.ndarray]] = []
    formats: Counter[str] = Counter()
    with ThreadPoolExecutor(2) as pool:
        for done, ((part, index, data), result) in enumerate(zip(rows, _ahead(pool, _look, rows), strict=True), 1):
            if isinstance(result, ImageError):
                report.broken.append(str(result))
            else:
                found.append((part, data.name(index), *result))
                formats[PurePosixPath(data.name(index)).suffix.lower()] += 1
            if progress is not None:
                progress(done, len(rows))
    if report.broken:
        report.fatal.append(f"{len(report.broken)} pictures cannot be read (first: {report.broken[0]})")
    check_doubles(found, report)
    _check_formats([name for _, name, _, _ in found], formats, report)
    _check_frames(rows, report)
    _check_empty(Path(source), parts, report)
    return report


def _parts(source: str) -> dict[str, ClassificationData]:
    parts = {}
    for split in ("train", "val", "test"):
        try:
            parts[split] = open_dataset(source, split)
        except MissingPart:
            continue
    if not parts:
        parts["all"] = open_dataset(source)
    return parts


def _ahead(pool: ThreadPoolExecutor, function: Callable, rows: list) -> Any:
    """Map in order with a bounded number of pictures in memory."""
    waiting: list = []
    for row in rows:
        waiting.append(pool.submit(function, row))
        if len(waiting) >= 16:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _look(row: tuple[str, int, ClassificationData]) -> tuple[str, np.ndarray] | ImageError:
    _, index, data = row
    try:
        return look(data.encoded(index), data.name(index))[:2]
    except ImageError as error:
        return error


def look(encoded: bytes | Path, name: str) -> tuple[str, np.ndarray, tuple[int, int]]:
    """Return the hash of a picture's pixels, the 256-bit difference hash (32 bytes), and (height, width).

    Raises:
        ImageError: it cannot be read.
    """
    image = read_image(encoded, name=name)
    pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    small = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    return pixels, np.packbits(small[:, 1:] > small[:, :-1]), (image.height, image.width)


def _check_classes(parts: dict[str, ClassificationData], report: Report) -> None:
    first = next(iter(parts.values()))
    for part, data in parts.items():
        targets: Counter[int] = Counter()
        for index in range(len(data)):
            target = data.target(index)
            targets.update(target if isinstance(target, tuple) else [target])
        report.counts[part] = {name: targets[i] for i, name in enumerate(data.classes)}
        for suffix, count in data.skipped.items():
            report.skipped[suffix] = report.skipped.get(suffix, 0) + count
        if data.classes != first.classes:
            differing = sorted(set(data.classes) ^ set(first.classes))
            how = f"{len(differing)} differ, first: {differing[0]!r}" if differing else "the same, in another order"
            report.fatal.append(f"{part} has other classes than {next(iter(parts))} ({how}); give both the same folders")
        for name, count in report.counts[part].items():
            if part in ("train", "all") and count < 2:
                report.fatal.append(f"{part}: class {name!r} has {count} picture; at least 2 are needed")
            elif part in ("train", "all") and count < FEW:
                report.warnings.append(f"{part}: class {name!r} has only {count} pictures")
        counts = [count for count in report.counts[part].values() if count]
        if counts and max(counts) > 10 * min(counts):
            report.warnings.append(
                f"{part}: the largest class has {max(counts)} pictures, the smallest {min(counts)}; "
                "consider class_weights=balanced"
            )
    if len(first.classes) < 2 and not first.multi_label:
        report.fatal.append(f"only one class ({', '.join(first.classes)}); at least 2 are needed")
    if report.skipped:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(report.skipped.items()))
        report.warnings.append(f"files that are no pictures are passed over: {listed}")


def check_doubles(found: list[tuple[str, str, str, np.ndarray]], report: Report) -> None:
    """Add to the report which pictures, (part, name, hash of pixels, difference hash) each, are the same or nearly."""
    same: dict[str, list[int]] = defaultdict(list)
    leaks: list[list[str]] = []
    inside: list[list[str]] = []
    near_leaks: list[tuple[str, str]] = []
    for position, (_, _, pixels, _) in enumerate(found):
        same[pixels].append(position)
    for group in same.values():
        if len(group) > 1:
            names = [found[i][1] for i in group]
            report.exact_duplicates.append(names)
            # By place, not by name: a table may list one file in two parts.
            (leaks if len({found[i][0] for i in group}) > 1 else inside).append(names)
    # A hash without a set bit is that of a flat picture: it says nothing, and all of them would be pairs.
    telling = [position for position, row in enumerate(found) if row[3].any()]
    if len(telling) > MAX_COMPARED:
        report.warnings.append(f"near duplicates were not looked for: {len(telling):,} pictures are more than {MAX_COMPARED:,}")
        telling = []
    pairs = near_pairs(np.array([found[i][3] for i in telling], dtype=np.uint8).reshape(-1, 32))
    if len(pairs) >= MAX_PAIRS:
        report.warnings.append(f"only the first {MAX_PAIRS:,} near duplicates were looked at; there are more")
    for a, b, bits in pairs:
        i, j = telling[a], telling[b]
        if found[i][2] != found[j][2]:
            report.near_duplicates.append((found[i][1], found[j][1], bits))
            if found[i][0] != found[j][0]:
                near_leaks.append((found[i][1], found[j][1]))
    if leaks:
        report.warnings.append(
            f"{len(leaks)} pictures stand in two parts (first: {leaks[0][0]} and {leaks[0][1]}); "
            "figures on them are no test: remove one of each"
        )
    if near_leaks:
        report.warnings.append(
            f"{len(near_leaks)} pairs over two parts are nearly the same photo (first: {near_leaks[0][0]} and "
            f"{near_leaks[0][1]}); look at them"
        )
    if inside:
        report.warnings.append(f"{len(inside)} pictures stand twice in a part (first: {' and '.join(inside[0][:2])})")


def _check_formats(names: list[str], formats: Counter[str], report: Report) -> None:
    """Name the odd ones: a few palette GIFs among photographs are what a download script left behind."""
    rare = formats.get(".gif", 0)
    if 0 < rare <= 0.05 * sum(formats.values()):
        gifs = [name for name in names if name.lower().endswith(".gif")]
        report.warnings.append(f"{rare} GIF among photographs (first: {gifs[0]}); often a placeholder for a lost picture: look")


def _check_frames(rows: list[tuple[str, int, ClassificationData]], report: Report) -> None:
    """Name moving pictures: only their first frame is used."""
    moving = []
    for _, index, data in rows:
        if PurePosixPath(data.items[index][1]).suffix.lower() in (".gif", ".webp"):
            try:
                if count_frames(data.encoded(index)) > 1:
                    moving.append(data.name(index))
            except ImageError:  # already among the broken ones
                continue
    if moving:
        report.warnings.append(f"{len(moving)} moving pictures (first: {moving[0]}); only the first frame of each is used")


def _check_empty(path: Path, parts: dict[str, ClassificationData], report: Report) -> None:
    """Name folders at the end of a tree without a picture: a class that is none."""
    if not path.is_dir() or any(source.root != path for data in parts.values() for source in data.sources):
        return
    used = {str((path / name).parent) for data in parts.values() for _, name, _ in data.items}
    empty = []
    for folder, folders, _ in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        if not folders and folder not in used and Path(folder) != path:
            empty.append(shown(folder))
    if empty:
        report.warnings.append(f"{len(empty)} folders hold no picture and are no class (first: {empty[0]})")


def near_pairs(hashes: np.ndarray, limit: int = NEAR_BITS, most: int = MAX_PAIRS) -> list[tuple[int, int, int]]:
    """Return (i, j, differing bits) of all pairs within ``limit`` bits, i < j.

    Args:
        hashes: (N, 32) uint8.
        limit: at most 31: two hashes that near agree in one of 32 bytes, so only such pairs are compared.
        most: the search ends after this many pairs; a folder of film frames has millions.
    """
    if not 0 <= limit <= 31:
        raise ValueError(f"limit must be within 0..31, got {limit}")
    pairs: dict[tuple[int, int], int] = {}
    for column in range(hashes.shape[1] if len(hashes) else 0):
        order = np.argsort(hashes[:, column], kind="stable")
        edges = np.flatnonzero(np.diff(hashes[order, column])) + 1
        for bucket in np.split(order, edges):
            for start in range(0, len(bucket), 512):
                block = bucket[start : start + 512]
                others = bucket[start:]
                bits = np.bitwise_count(hashes[block][:, None] ^ hashes[others][None]).sum(-1, dtype=np.int32)
                rows, columns = np.nonzero(bits <= limit)
                fresh = columns > rows  # each pair once, no picture with itself
                for a, b in zip(rows[fresh][:most], columns[fresh][:most], strict=True):
                    i, j = int(block[a]), int(others[b])
                    pairs[min(i, j), max(i, j)] = int(bits[a, b])
                if len(pairs) >= most:
                    return sorted((i, j, bits) for (i, j), bits in pairs.items())[:most]
    return sorted((i, j, bits) for (i, j), bits in pairs.items())


def summary(report: Report) -> list[str]:
    """Return the report as lines for a terminal."""
    lines = []
    for part, counts in report.counts.items():
        shown = ", ".join(f"{name} {count}" for name, count in itertools.islice(counts.items(), 12))
        more = f" and {len(counts) - 12} more" if len(counts) > 12 else ""
        lines.append(f"{part}: {sum(counts.values())} in {len(counts)} classes ({shown}{more})")
    lines += [f"FATAL {text}" for text in report.fatal]
    lines += [f"warning {text}" for text in report.warnings]
    if not report.fatal and not report.warnings:
        lines.append("nothing to complain about")
    return lines
