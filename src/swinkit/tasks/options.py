"""The tasks' own options of the commands ``predict``, ``evaluate`` and ``check-data``. Plain data: no torch is imported here.

Each is a dataclass; a field's metadata says how the command line shows it: ``help``, ``metavar``, ``min``, ``columns`` (the
option names a table file for the report's rows of that name).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from swinkit.errors import InputError, nearest

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class NoOptions:
    """A command for which a task has no options of its own."""


@dataclass(frozen=True)
class Together:
    """Photos that are answered in batches.

    Args:
        batch: photos that go through the network together.
    """

    batch: int = field(default=16, metadata={"min": 1, "help": "Photos that go through the network together."})

    def __post_init__(self) -> None:
        at_least_one(batch=self.batch)


def at_least_one(**numbers: Any) -> None:
    """Raise InputError unless every value is a whole number of at least 1."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")


def chosen(kind: type[Kind], given: Mapping[str, Any], others: Mapping[str, type[Any]], noun: str) -> Kind:
    """Return the options ``kind`` with the values that were given.

    Args:
        kind: the dataclass of the task.
        given: values by name.
        others: the same command's dataclasses of all tasks, by task.
        noun: what the task's networks are called.

    Raises:
        InputError: a name that is no option of this task, or a value out of range.
    """
    known = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in given:
        if name in known:
            continue
        owners = [task for task, other in others.items() if name in {item.name for item in dataclasses.fields(other)}]
        if owners:
            raise InputError(f"{name} is an option of the task {owners[0]}, and this is a {noun}; leave it out")
        raise InputError(f"a {noun} has no option {name!r}{nearest(name, known)}")
    return kind(**given)
