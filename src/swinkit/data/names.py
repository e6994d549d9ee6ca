"""Names that come from outside: of files, of parts of a data set, of classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from swinkit.errors import DatasetError, shown

MAX_LABEL = 200  # characters of a class's name
MAX_LABELS = 100_000  # classes of a data set; ImageNet's longest list has 21,841


def part_path(root: str | Path, name: str) -> Path:
    """Return the path of a part of a data set: a file, folder or pattern below ``root``.

    Links are followed, for whoever owns the folder put them there.

    Raises:
        DatasetError: the name leads out of the folder, or is no name of one file, folder or pattern.
    """
    where = shown(str(root))
    if not name.strip() or "\x00" in name:
        raise DatasetError(f"{where}: {name!r} is no name of a part; give a file, folder or pattern below it")
    if Path(name).is_absolute() or ".." in re.split(r"[/\\]", name):
        raise DatasetError(f"{where}: {name!r} leads out of the folder; use names below it")
    path = Path(root) / name
    if "," in name and not path.exists():
        raise DatasetError(f"{where}: {name!r} is a list; name one file, folder or pattern, for example train-[0-3].zip")
    return path


def checked_labels(names: Sequence[str], where: str) -> list[str]:
    """Return the names of classes, each of which can be shown in one line and means one class.

    Args:
        names: in index order.
        where: the file or folder they come from, for messages.

    Raises:
        DatasetError: no name, one too long, one that cannot be shown, one that stands twice, or too many.
    """
    if len(names) > MAX_LABELS:
        raise DatasetError(f"{where}: {len(names):,} classes are more than {MAX_LABELS:,}; check which column or folders they are")
    for name in names:
        if not name.strip():
            raise DatasetError(f"{where}: a class has no name; give each one")
        if not name.isprintable():
            raise DatasetError(f"{where}: the class {name[:MAX_LABEL]!r} has a name that cannot be shown; rename it")
        if len(name) > MAX_LABEL:
            raise DatasetError(f"{where}: the class {name[:40]!r}... has a name of {len(name):,} letters; shorten it to {MAX_LABEL}")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        doubled = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DatasetError(f"{where}: the class {doubled!r} is named twice; give each its own name")
    return list(names)
