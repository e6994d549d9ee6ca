"""Pictures with their classes: the one form that every folder, zip and table becomes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from swinkit.data.containers import Source
from swinkit.data.images import read_image

Target = int | tuple[int, ...]


@dataclass
class ClassificationData:
    """Pictures with their classes.

    Args:
        classes: names in index order.
        items: (source number, name inside it, target) of each picture.
        sources: folders and zips the items point into.
        multi_label: True when a target is a tuple of class indices.
        skipped: files that are no pictures, by suffix.
    """

    classes: list[str]
    items: list[tuple[int, str, Target]]
    sources: list[Source]
    multi_label: bool = False
    skipped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        """Return the picture's path, for people; members of a zip stand behind its path."""
        source, name, _ = self.items[index]
        return self.sources[source].label(name)

    def target(self, index: int) -> Any:
        """Return the class index, or the tuple of them (multi-label)."""
        return self.items[index][2]

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

    def encoded(self, index: int) -> bytes | Path:
        """Return the picture as it is stored: its bytes, or the path of its file."""
        source, name, _ = self.items[index]
        return self.sources[source].read(name)

    def fingerprint(self) -> str:
        """Return a short hash of classes, names and targets; where the files lie does not count."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for _, name, target in self.items:
            digest.update(f"{name}\0{target}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def subset(self, indices: list[int]) -> ClassificationData:
        """Return some of the pictures, with the same classes."""
        return ClassificationData(self.classes, [self.items[i] for i in indices], self.sources, self.multi_label)
