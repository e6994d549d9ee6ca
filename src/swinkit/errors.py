"""What can go wrong, as a tree; every branch knows the exit code of the command that meets it.

::

    SwinkitError                 exit 1: one sentence, no traceback (--debug shows it)
    ├─ InputError                the user's file, folder or argument
    │  ├─ ImageError             a picture that cannot be read
    │  ├─ DatasetError           a folder, zip or table that is no data set
    │  └─ UnknownName            a model, recipe or label nobody knows (nearest named)
    ├─ CheckpointError           weights that cannot be used
    │  ├─ UnsafeFile             would run code, or is larger than it may be
    │  ├─ UnknownDialect         keys of no known code base
    │  ├─ KeysLeftOver           some keys found no place, or some places no key
    │  └─ ShapesDiffer           a tensor of another shape than the network's
    ├─ ExportError               an export that cannot be made, was changed, or answers otherwise than its network
    ├─ RecipeError               an unknown key (nearest named) or a value out of range
    ├─ RunError                  a run that cannot start, go on or be resumed
    └─ MissingExtraError         an optional library is not installed (also an ImportError)

A message says what was found, where, and what to do, in one sentence.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def shown(text: str) -> str:
    """Return text fit for one line: control characters, line breaks, marks that turn the direction and lone bytes are escaped."""
    if text.isprintable():  # nearly every text is, and each picture that is read asks for its name
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class SwinkitError(Exception):
    """Base of all errors this package raises on purpose; whatever names stand in the message, it is one line."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(shown(message))


class InputError(SwinkitError, ValueError):
    """A file, folder or argument given by the user cannot be used."""


class ImageError(InputError):
    """A picture cannot be read; the message starts with its path."""


class DatasetError(InputError):
    """A folder, zip or table is not a data set."""


class UnknownName(InputError):
    """A name that is in no table."""


class CheckpointError(SwinkitError, ValueError):
    """Weights cannot be used."""


class UnsafeFile(CheckpointError):
    """A file that would run code, or that announces more than may be read."""


class UnknownDialect(CheckpointError):
    """A state dict whose keys belong to no known code base."""


class KeysLeftOver(CheckpointError):
    """Keys without a place in the network, or places without a key."""


class ShapesDiffer(CheckpointError):
    """A tensor whose shape is not the network's."""


class ExportError(SwinkitError, RuntimeError):
    """An export that cannot be made, was changed since, or answers otherwise than the network it was made from."""


class RecipeError(SwinkitError, ValueError):
    """A recipe with an unknown key or a value out of range."""


class RunError(SwinkitError, RuntimeError):
    """A run that cannot start, go on or be resumed."""


class MissingExtraError(SwinkitError, ImportError):
    """An optional library is not installed."""


def nearest(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.4) -> str:
    """Return "; did you mean 'a', 'b' or 'c'?" for the names nearest to ``name``, or "" when none is near.

    ``cutoff`` is how alike (0..1) a name must be; 0 always finds ``count`` of them.
    """
    found = difflib.get_close_matches(name.lower(), sorted(set(known)), n=count, cutoff=cutoff)
    if not found:
        return ""
    quoted = [f"'{item}'" for item in found]
    listed = quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
    return f"; did you mean {listed}?"
