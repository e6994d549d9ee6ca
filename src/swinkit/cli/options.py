"""Options of commands that the tasks bring (``swinkit.tasks.commands``), shown beside the command's own."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from swinkit.errors import InputError


def with_task_options(options: Mapping[str, type[Any]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the tasks' options to a command, which takes those that were given as its argument ``given``, by name.

    Args:
        options: dataclasses by whom they are for.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
        added = _parameters(options)

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {name: values.pop(name) for name in added}
            command(**values, given={name: _value(value) for name, value in given.items() if value not in (None, [])})

        parameters = [*own, *added.values()]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameters(options: Mapping[str, type[Any]]) -> dict[str, inspect.Parameter]:
    """Return one parameter for each name; a name of several tasks says all of them."""
    fields: dict[str, list[tuple[str, dataclasses.Field[Any]]]] = {}
    for whose, kind in options.items():
        for item in dataclasses.fields(kind):
            fields.setdefault(item.name, []).append((whose, item))
    found = {}
    for name, rows in fields.items():
        _, item = rows[0]
        whose = " and ".join(whose for whose, _ in rows)
        words = {key: item.metadata[key] for key in ("min", "max", "metavar") if key in item.metadata}
        flags = [f"--{name.replace('_', '-')}"]
        help_text = f"{whose.capitalize()}: {item.metadata['help'][0].lower()}{item.metadata['help'][1:]}"
        if item.default not in (None, False, ()):
            help_text += f" [default: {item.default}]"
        annotation: Any = Annotated[_kind(item), typer.Option(*flags, help=help_text, **words)]
        found[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    return found


def _kind(item: dataclasses.Field[Any]) -> Any:
    """Return the type that the command line reads; the dataclass checks ranges and choices."""
    default = item.default
    if isinstance(default, tuple):
        return list[int] | None
    if isinstance(default, bool):
        return bool | None
    return int | None if isinstance(default, int) else str | None


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def tables_in(kind: type[Any], given: Mapping[str, Any]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the table files that options name: name of the report's rows -> (path, columns).

    Raises:
        InputError: two of them want stdout.
    """
    found = {
        item.name: (given[item.name], item.metadata["columns"])
        for item in dataclasses.fields(kind)
        if "columns" in item.metadata and given.get(item.name) is not None
    }
    if sum(path == "-" for path, _ in found.values()) > 1:
        raise InputError("two tables cannot share stdout; write one of them to a file")
    return found
