"""What takes a while to build says what it does; whoever called for it may listen. Without a listener nothing is said."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

Listener = Callable[["Building"], None]


@dataclass
class Building:
    """Something that is being built.

    Args:
        what: its name, as in "building WHAT".
        steps: how many there are.
        step: the number of the one that began last, from 1; 0 before the first.
        doing: what that is.
        began: ``time.monotonic()`` of the beginning.
        finished: it is there, or given up.
        failed: it is given up.
    """

    what: str
    steps: int
    step: int = 0
    doing: str = ""
    began: float = field(default_factory=time.monotonic)
    finished: bool = False
    failed: bool = False

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_current: ContextVar[Building | None] = ContextVar("current", default=None)
_told: ContextVar[Callable[[str], None] | None] = ContextVar("told", default=None)


@contextlib.contextmanager
def heard_by(listener: Listener, told: Callable[[str], None]) -> Iterator[None]:
    """Call ``listener`` at the beginning, at every step and at the end of what is built inside, ``told`` with sentences."""
    tokens = _listener.set(listener), _told.set(told)
    try:
        yield
    finally:
        _listener.reset(tokens[0])
        _told.reset(tokens[1])


@contextlib.contextmanager
def building(what: str, steps: int) -> Iterator[None]:
    """Announce something that is built inside."""
    current = Building(what, steps)
    token = _current.set(current)
    try:
        _say(current)
        yield
    except BaseException:
        current.failed = True
        raise
    finally:
        current.finished = True
        _say(current)
        _current.reset(token)


def step(doing: str) -> None:
    """Say that the next step of what is being built begins."""
    current = _current.get()
    if current is not None:
        current.step, current.doing = current.step + 1, doing
        _say(current)


def tell(sentence: str) -> None:
    """Say something that the user should know but that stops nothing."""
    told = _told.get()
    if told is not None:
        told(sentence)


def _say(current: Building) -> None:
    listener = _listener.get()
    if listener is not None:
        listener(current)
