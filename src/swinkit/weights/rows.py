"""Rows of the tables of names: a pattern language, read in both directions.

``{s}`` and ``{b}`` are stage and block, ``{s+1}``, ``{2s+2}`` arithmetic on them, ``*`` the rest of a key. A pattern matches
a whole key, so the order of rows matters only for the order of tensors in a file.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from swinkit.errors import KeysLeftOver

Indices = dict[str, int]


@dataclass(frozen=True)
class Row:
    """One line of a table: our names, their names, and how the tensors are packed (``dialects.OPERATIONS``)."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    operation: str = "same"


def renamed(tensors: dict[str, Tensor], rows: Iterable[Row], backwards: bool, whose: str) -> dict[str, Tensor]:
    """Rename by one-to-one rows: theirs to ours (``backwards``) or ours to theirs.

    Raises:
        KeysLeftOver: a tensor that no row names; ``whose`` says in what.
    """
    rows, result = tuple(rows), {}
    for key, tensor in tensors.items():
        for row in rows:
            source, target = (row.theirs[0], row.ours[0]) if backwards else (row.ours[0], row.theirs[0])
            indices = match(source, key)
            if indices is not None:
                result[fill(target, indices)] = tensor
                break
        else:
            raise KeysLeftOver(f"{key} {tuple(tensor.shape)} has no place in {whose}")
    return result


@functools.cache
def _compiled(pattern: str) -> tuple[re.Pattern[str], tuple[tuple[str, int, int], ...]]:
    """Return the regular expression of a pattern and (letter, factor, offset) of its numbers."""
    numbers = []
    parts = []
    for piece in re.split(r"(\{[^}]*\}|\*)", pattern):
        if piece == "*":
            parts.append("(?P<rest>.+)")
        elif piece.startswith("{"):
            factor, letter, offset = re.fullmatch(r"\{(\d*)([sb])(?:\+(\d+))?\}", piece).groups()  # type: ignore[union-attr]
            numbers.append((letter, int(factor or 1), int(offset or 0)))
            parts.append(r"(\d{1,4})")
        else:
            parts.append(re.escape(piece))
    return re.compile("".join(parts)), tuple(numbers)


def match(pattern: str, key: str) -> dict | None:
    """Return the indices (and the rest) for which ``pattern`` is ``key``, solving the arithmetic backwards."""
    expression, numbers = _compiled(pattern)
    found = expression.fullmatch(key)
    if found is None:
        return None
    indices: dict = {}
    values = [group for name, group in zip(range(expression.groups), found.groups(), strict=True) if group is not None]
    for (letter, factor, offset), text in zip(numbers, values, strict=False):
        value = int(text) - offset
        if value < 0 or value % factor or str(int(text)) != text:
            return None
        indices[letter] = value // factor
    if "rest" in expression.groupindex:
        indices["rest"] = found["rest"]
    return indices


def fill(pattern: str, indices: dict) -> str:
    """Return the key that a pattern names for these indices."""

    def number(match: re.Match[str]) -> str:
        return str(int(match[1] or 1) * indices[match[2]] + int(match[3] or 0))

    return re.sub(r"\{(\d*)([sb])(?:\+(\d+))?\}", number, pattern).replace("*", str(indices.get("rest", "*")))
