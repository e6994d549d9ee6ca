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

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class SwinkitError(Exception):
    """Base of all errors this package raises on purpose; its message is one line, whatever the names in it hold."""

    exit_code = 1

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*(brief(item, 1000) if isinstance(item, str) else item for item in arguments), **options)


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


def shown(text: str) -> str:
    """Return text fit for one line: control characters, line ends, marks that turn the direction and lone bytes are escaped."""
    if text.isprintable():  # nearly every text is, and each picture that is read asks for its name
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def brief(value: object, limit: int = 200) -> str:
    """Return a value fit for a message: text ``shown``, anything else as Python writes it, its middle left out if it is long."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001 - an integer of very many digits, a class of somebody else
        text = f"a {type(value).__name__}"
    if len(text) > limit:
        text = f"{text[: limit * 2 // 3]}...{text[len(text) - limit // 4 :]}"
    return shown(text)


def out_of_memory(error: BaseException) -> str | None:
    """Return the sentence for memory that could not be had, None when the error is another: torch has no kind for it on a CPU."""
    text = str(error)
    lacking = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | OSError) and any(word in text for word in lacking)):
        return "out of memory; use smaller pictures, a smaller --batch or a smaller model"
    return None


@contextlib.contextmanager
def refusing(error: type[SwinkitError], what: str, fix: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into ``error``, whose message is "what (reason); fix".

    For readers of files from outside: a list of exceptions would forget one. Errors that are of the kind ``error`` already
    pass as they are; others of the tree keep their sentence.
    """
    try:
        yield
    except error:
        raise
    except SwinkitError as problem:
        raise error(str(problem)) from problem
    except Exception as problem:
        reason = brief((str(problem).strip() or type(problem).__name__).splitlines()[0])
        raise error(f"{what}: {lacking}" if (lacking := out_of_memory(problem)) else f"{what} ({reason}); {fix}") from problem


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
