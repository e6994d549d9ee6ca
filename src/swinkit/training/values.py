"""Values that people write for recipes: YAML without aliases, numbers that can be used, and echoes of bounded length."""

from __future__ import annotations

import reprlib
from typing import Any

import yaml

from swinkit.errors import RecipeError

_ECHO = reprlib.Repr()
_ECHO.maxlevel, _ECHO.maxlist, _ECHO.maxdict, _ECHO.maxstring, _ECHO.maxother = 2, 4, 3, 60, 60
_LONGEST = 100  # characters of an echo


class _Refused(yaml.MarkedYAMLError):
    """YAML, but not as a recipe may be written."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which every value stands where it is used (aliases can unfold to gigabytes) and every key once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Refused(problem="aliases (& and *) are not read; write the value out", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {echo(key.value)} stands twice; keep one of them"
                    raise _Refused(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """Return what YAML text says; ``where`` names its source in errors.

    Raises:
        RecipeError: not YAML, aliases, a key twice, nested too deeply, a number or a date that does not exist.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except _Refused as error:
        raise RecipeError(f"{where}, line {error.problem_mark.line + 1}: {error.problem}") from None  # type: ignore[union-attr]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())[:200]
        raise RecipeError(f"{where}{line}: not YAML ({reason}); mend it") from None
    except RecursionError:
        raise RecipeError(f"{where}: nested too deeply; a recipe has two levels") from None
    except (ValueError, OverflowError, TypeError, AttributeError, KeyError, IndexError) as error:
        # PyYAML converts what looks like a number or a date: 13 months, 5,000 digits, a lone sign.
        reason = " ".join(str(error).split())[:100]
        raise RecipeError(f"{where}: holds a number or a date that cannot be read ({reason}); mend it") from None


def echo(value: object) -> str:
    """Return a value for a message: at most ``_LONGEST`` characters of it, whatever it is."""
    try:
        text = _ECHO.repr(value)
    except ValueError:  # a number of thousands of digits
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def clipped(text: str, longest: int = 200) -> str:
    """Return a name for a message, its middle left out where it is too long."""
    half = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"
