"""Ctrl-C and SIGTERM in the middle of many answers: what is finished stays, whole, and the exit code says which it was."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

PATIENCE = 2  # signals that wait for what must not be cut; a third means that it does not end


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number  # as shells report it


class Stopping:
    """Raises ``Stopped`` when a signal comes: at once, or after what must not be cut."""

    def __init__(self) -> None:
        self._came: list[int] = []
        self._held = False

    def arrive(self, number: int, _frame: FrameType | None = None) -> None:
        """Take a signal."""
        self._came.append(number)
        if not self._held or len(self._came) > PATIENCE:
            raise Stopped(number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait while the body runs; ``heed`` raises them."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def heed(self) -> None:
        """Raise ``Stopped`` if a signal came, also one whose exception was lost in a destructor."""
        if self._came:
            raise Stopped(self._came[0])


@contextlib.contextmanager
def stoppable() -> Iterator[Stopping]:
    """Yield what takes SIGINT and SIGTERM while the body runs; a signal that is ignored (``nohup``, ``&``) stays ignored."""
    stopping = Stopping()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, stopping.arrive)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
