"""Recipes of every task: read from YAML, unknown keys refused with the nearest name, keys of other tasks by theirs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from swinkit.errors import RecipeError, nearest
from swinkit.files import read_text
from swinkit.tasks.table import TASKS
from swinkit.training.recipe import FORMER, MOST_BYTES, Recipe, packaged, recipe_names
from swinkit.training.values import clipped, echo, parse_yaml


def load_recipe(source: str, overrides: list[str] | None = None) -> Recipe:
    """Return a recipe.

    Args:
        source: name of a packaged recipe, or path of a YAML file.
        overrides: ``key=value`` strings, dotted for sections (``optimiser.learning_rate=1e-4``); values are YAML.

    Raises:
        RecipeError: no such recipe, not YAML, an unknown key (nearest named), a value out of range.
    """
    where, text = _read(source)
    data = parse_yaml(text, where)
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: a recipe is a table of keys and values, found {type(data).__name__}")
    for item in overrides or []:
        _override(data, item)
    return parse_recipe(data, where)


def parse_recipe(data: dict[str, Any], where: str) -> Recipe:
    """Return a recipe from plain values, of the task that they name; ``where`` names their source in errors.

    Raises:
        RecipeError: no such task, an unknown key, a key of another task, a value out of range.
    """
    name = data.get("task", next(iter(TASKS)))
    if not isinstance(name, str) or name not in TASKS:
        raise RecipeError(f"{where}: task: must be {', '.join(TASKS)}, got {echo(name)}{nearest(str(name)[:100], TASKS)}")
    kind = TASKS[name].recipe
    try:
        return kind.model_validate(_own(kind, data, name, where))
    except ValidationError as error:
        raise RecipeError(f"{where}: {_sentence(error, kind)}") from None


def _own(kind: type[Recipe], data: dict[str, Any], task: str, where: str) -> dict[str, Any]:
    """Return the values without other tasks' defaults, which earlier versions wrote into every ``recipe.yaml``.

    Raises:
        RecipeError: a key of another task that says something.
    """
    kept = dict(data)
    for section in ("", *FORMER):
        table, fields = (kept, kind.model_fields) if not section else (kept.get(section), _fields(kind, section))
        if not isinstance(table, dict) or not fields:
            continue
        for key in [key for key in table if key not in fields]:
            owner, default = _owner(section, str(key))
            if owner is None:
                continue  # an unknown key, which the recipe's own check names
            if table[key] != default:
                path = f"{section}.{key}" if section else key
                raise RecipeError(f"{where}: {path} is a setting of the task {owner}, and this is {task}; leave it out")
            table = {name: value for name, value in table.items() if name != key}
        kept = {**kept, section: table} if section else table
    return kept


def _fields(kind: type[Recipe], section: str) -> dict[str, Any]:
    field = kind.model_fields.get(section)
    return {} if field is None else field.annotation.model_fields  # type: ignore[union-attr]


def _owner(section: str, key: str) -> tuple[str | None, Any]:
    """Return the first task whose recipes have this key, and its default there."""
    for name, task in TASKS.items():
        fields = _fields(task.recipe, section) if section else task.recipe.model_fields
        if key in fields:
            plain = task.recipe().model_dump(mode="json")
            return name, plain[section][key] if section else plain[key]
    return None, None


def _read(source: str) -> tuple[str, str]:
    names = recipe_names()
    if source in names:
        return f"recipe {source}", packaged(f"{source}.yaml")
    there = False
    with contextlib.suppress(OSError, ValueError):  # a name too long, a zero byte
        there = Path(source).exists()
    if not there:
        alike = nearest(source[:200], names)
        raise RecipeError(f"there is no recipe or file {echo(source)} ('swinkit recipes' lists them){alike}")
    where = clipped(source)
    return where, read_text(source, MOST_BYTES, RecipeError, where, "give a YAML file")


def _override(data: dict[str, Any], item: str) -> None:
    where = f"--set {clipped(item, 100)}"
    key, sign, value = item.partition("=")
    if not sign or not key:
        raise RecipeError(f"{where}: write key=value, for example --set epochs=10")
    *sections, name = key.strip().split(".")
    table: Any = data
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{where}: {clipped(section, 60)} is a value, not a section")
    table[name] = parse_yaml(value, where)
    if isinstance(table[name], str):  # YAML 1.1 reads 1e-4 as text
        with contextlib.suppress(ValueError):
            table[name] = float(table[name])


def _sentence(error: ValidationError, kind: type[Recipe]) -> str:
    """Return the first complaint in words, and how many follow."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path = ".".join(clipped(str(part), 60) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        section: Any = kind
        for part in first["loc"][:-1]:
            section = section.model_fields[str(part)].annotation
        return f"unknown key {path!r}{nearest(str(first['loc'][-1])[:100], section.model_fields)}{more}"
    reason = first["msg"].removeprefix("Value error, ")[:200]
    if not path:
        return f"{reason}{more}"
    return f"{path}: {reason[0].lower()}{reason[1:]}, got {echo(first['input'])}{more}"
