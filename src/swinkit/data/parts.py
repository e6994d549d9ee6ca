"""The parts of a data set: how folders and files say which they are, and what is raised when one is not there."""

from __future__ import annotations

import re
from pathlib import PurePath

from swinkit.errors import DatasetError

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
PART_WORDS = {word: part for part, words in PARTS.items() for word in words}


class MissingPart(DatasetError):
    """The data set is there, but not the part of it that was asked for."""


class UndividedData(MissingPart):
    """A part was asked for, and the data set has no parts at all."""


def part_in(path: PurePath, stem: bool = False) -> str | None:
    """Return the part that a folder of a path is called by, as in ``train2017/a.jpg``; with ``stem`` also its file's name."""
    for name in path.parts[:-1]:
        if (word := re.sub(r"[-_]?\d*$", "", name.lower())) in PART_WORDS:
            return PART_WORDS[word]
    words = re.findall("[a-z]+", path.stem.lower()) if stem else []
    return next((PART_WORDS[word] for word in words if word in PART_WORDS), None)
