"""Paths, globs and folders to a list of image files."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from swinkit.data.images import IMAGE_SUFFIXES


@dataclass
class Found:
    """Image files in order, and how many other files were passed over, by reason."""

    images: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def find_images(paths: Iterable[str | Path]) -> Found:
    """Return the image files that ``paths`` name.

    Args:
        paths: files (taken as they are, whatever their suffix), folders (searched to the bottom, sorted; links to
            folders and hidden folders are passed over), globs (``**`` goes into folders). A path that names nothing
            is kept: reading it says so at its place.
    """
    found = Found()
    for item in paths:
        path = str(item)
        if _is_folder(path):
            _add_folder(path, found)
        elif os.path.lexists(path) or not glob.has_magic(path):
            found.images.append(path)
        else:
            _add_glob(path, found)
    return found


def _is_folder(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - says False where Path.is_dir raises: names longer than the system takes


def _add_glob(pattern: str, found: Found) -> None:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - patterns may be absolute
    if not matches:
        found.images.append(pattern)
    for match in matches:
        if not _is_folder(match):
            _add_file(match, found)
        elif "**" not in pattern:  # which lists a folder's files itself
            _add_folder(match, found)


def _add_folder(folder: str, found: Found) -> None:
    def unreadable(_error: OSError) -> None:
        found.skipped["unreadable folder"] += 1

    for root, folders, files in os.walk(folder, onerror=unreadable):
        visible = sorted(name for name in folders if not name.startswith("."))
        found.skipped["hidden"] += len(folders) - len(visible)
        folders[:] = visible
        for name in sorted(files):
            _add_file(str(Path(root) / name), found)


def _add_file(path: str, found: Found) -> None:
    suffix = Path(path).suffix.lower()
    if Path(path).name.startswith("."):
        found.skipped["hidden"] += 1
    elif suffix not in IMAGE_SUFFIXES:
        found.skipped[suffix or "no suffix"] += 1
    elif not Path(path).is_file():
        found.skipped["no regular file"] += 1
    else:
        found.images.append(path)
