"""Values of descriptions, each held against its kind and its bounds; what does not fit is a sentence that names the field."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from swinkit.errors import InputError, shown

MAX_NAME = 500  # letters of a label or a name
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they change the order of what follows


def settle(spec: Any, check: Callable[..., Any], names: tuple[str, ...], *bounds: float) -> None:
    """Replace fields of a frozen description by what ``check(name, value, *bounds)`` makes of them."""
    for name in names:
        object.__setattr__(spec, name, check(name, getattr(spec, name), *bounds))


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number from ``least`` to ``most``."""
    # Integral: numpy's count too, but JSON does not know them.
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= value <= most:  # type: ignore[operator]
        raise InputError(f"{name} must be a whole number from {least:,} to {most:,}, got {shown(value)}")
    return int(value)


def real(name: str, value: Any, least: float, most: float) -> float:
    """Return a finite number from ``least`` to ``most``."""
    fits = isinstance(value, Real) and not isinstance(value, bool) and least <= value <= most  # type: ignore[operator]
    if not fits or not math.isfinite(value):
        raise InputError(f"{name} must be a number from {least:g} to {most:g}, got {shown(value)}")
    return value if isinstance(value, int | float) else float(value)


def rate(name: str, value: Any, least: float, below: float) -> float:
    """Return a number from ``least`` to just below ``below``."""
    number = real(name, value, least, below)
    if number == below:
        raise InputError(f"{name} must be less than {below:g}, got {shown(value)}")
    return number


def wholes(name: str, value: Any, least: int, most: int, longest: int = 64) -> tuple[int, ...]:
    """Return at most ``longest`` whole numbers from ``least`` to ``most``."""
    if not isinstance(value, list | tuple) or len(value) > longest:
        raise InputError(f"{name} must be a list of at most {longest:,} whole numbers, got {shown(value)}")
    return tuple(whole(f"{name}[{place}]", item, least, most) for place, item in enumerate(value))


def reals(name: str, value: Any, least: float, most: float, longest: int = 64) -> tuple[float, ...]:
    """Return at most ``longest`` finite numbers from ``least`` to ``most``."""
    if not isinstance(value, list | tuple) or len(value) > longest:
        raise InputError(f"{name} must be a list of at most {longest:,} numbers, got {shown(value)}")
    return tuple(real(f"{name}[{place}]", item, least, most) for place, item in enumerate(value))


def switch(name: str, value: Any) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {shown(value)}")
    return value


def text(name: str, value: Any) -> str:
    """Return a text that can stand in a line: no control characters, line ends or turned directions."""
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise InputError(f"{name} must be a text of at most {MAX_NAME} letters, got {shown(value)}")
    if not value.isprintable() and any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _TURNING for letter in value
    ):
        raise InputError(f"{name} holds a character that cannot be shown ({shown(value)!r}); write it without")
    return value
