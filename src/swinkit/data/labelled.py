"""Pictures with what is known of them: the one form that every folder, zip and table becomes."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from PIL import Image

from swinkit.data.containers import Source
from swinkit.data.images import read_image

Target = int | tuple[int, ...]


@dataclass
class Pictures:
    """Pictures of one kind of data set, wherever they lie.

    Args:
        classes: names in index order.
        items: (source number, name inside it, what belongs to it) of each picture.
        sources: folders and zips the items point into.
    """

    classes: list[str]
    items: list[tuple[int, str, Any]]
    sources: list[Source]

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        """Return the picture's path, for people; members of a zip stand behind its path."""
        source, name, _ = self.items[index]
        return self.sources[source].label(name)

    def encoded(self, index: int) -> bytes | Path:
        """Return the picture as it is stored: its bytes, or the path of its file."""
        source, name, _ = self.items[index]
        return self.sources[source].read(name)

    def read(self, index: int, grey: bool = False) -> Image.Image:
        """Return the upright picture, "RGB" or "L".

        Raises:
            ImageError: it cannot be read; the message starts with its name.
        """
        return read_image(self.encoded(index), name=self.name(index), grey=grey)

    def check(self, index: int) -> None:
        """Read all that belongs to a sample.

        Raises:
            ImageError: it cannot be read.
        """
        self.read(index)

    def meaning(self) -> Any:
        """Return plain values that say how ``items`` are to be understood: the first part of the fingerprint."""
        return self.classes

    def fingerprint(self) -> str:
        """Return a short hash of classes, names and what belongs to them; where the files lie does not count."""
        digest = hashlib.sha256(json.dumps(self.meaning()).encode())
        for _, name, own in self.items:
            digest.update(f"{name}\0{own}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def subset(self, indices: list[int]) -> Self:
        """Return some of the pictures, with the same classes."""
        kept = copy.copy(self)
        kept.items = [self.items[i] for i in indices]
        return kept


@dataclass
class ClassificationData(Pictures):
    """Pictures with their classes: ``items`` hold a class index, or a tuple of them.

    Args:
        multi_label: True when a target is a tuple of class indices.
        skipped: files that are no pictures, by suffix.
    """

    items: list[tuple[int, str, Target]]
    multi_label: bool = False
    skipped: Counter[str] = field(default_factory=Counter)

    def target(self, index: int) -> Any:
        """Return the class index, or the tuple of them (multi-label)."""
        return self.items[index][2]
