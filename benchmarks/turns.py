"""Contenders in turn, each in a process of its own: with the memory, threads and settings that its users get.

One process for all would let each use what another left behind, be it C memory that was told to stay, caches or waiting threads.
Two processes of the same code may differ by a fifth for as long as they live (on a virtual machine, where each has other pages of
the host's memory), so a contender has several, one after the other; what is a part of another's work shares its process, and so
do two that differ by less.
Every turn is a call that does not count, for the others emptied the caches, and calls for half a second, of which the median
counts; long calls are one. A turn is filed by where the processor's cores were before and after it (``processor.py``), for a
virtual machine's cores wander.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import Call, plain
from benchmarks.processor import place as place_of_cores

# What makes a contender's call in a process of its own, or the calls of several.
Makers = Mapping[str, Callable[[], Call | dict[str, Call]]]
WARMUP = 3  # calls before the first turn: engines that compile for a number of pictures do so by then
STEADY = 0.5  # seconds of calls in a turn
LIVES = 3  # processes of a contender, each for so many of its turns
PATIENCE = 120  # seconds that more rounds may take, until enough were with the cores near one another


@dataclass
class Contender:
    """What is known of one of them.

    Attributes:
        near, far: seconds of its turns while the cores shared a cache, and while they did not; ``near`` too where nobody knows.
        other: seconds of turns during which that changed, or the two were one core of the host.
        order: seconds of all turns, as they came: of two contenders the same round.
        answer: of its last call.
        megabytes: most memory a process held from its first turn on; one that converts holds the original too.
        alone: whether the process, and thus its memory, was this contender's alone.
    """

    near: list[float] = field(default_factory=list)
    far: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)
    order: list[float] = field(default_factory=list)
    answer: np.ndarray = field(default_factory=lambda: np.empty(0))
    megabytes: float = math.nan
    alone: bool = True

    def turns(self, place: str) -> list[float]:
        """Return the seconds of the turns of a place, "near" or "far"; of all turns for ""."""
        return getattr(self, place) if place else self.near + self.far + self.other

    def ms(self, place: str) -> float:
        """Return the median milliseconds of these turns."""
        return 1e3 * statistics.median(self.turns(place))

    def part(self, of: Contender) -> float:
        """Return the median of what its turns took of another's in the same round, for the pace of a machine changes."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.order, of.order, strict=True))


def take_turns(
    makers: Callable[..., Makers], arguments: tuple, rounds: int, patience: float = PATIENCE, lives: int = LIVES
) -> dict[str, Contender]:
    """Let contenders take turns.

    Args:
        makers: module-level function that gives name -> maker; called here for the names, and in every process for its own maker.
        arguments: of ``makers``.
        rounds: turns of each; more, for ``patience`` seconds at most, until each has so many with the cores near one another.
        patience: see there.
        lives: processes of each, one after the other.

    Raises:
        SystemExit: one of them failed.
    """
    found: dict[str, Contender] = {}
    for life in range(lives):
        with _started(makers, arguments, first=life == 0) as lines:
            shared = [line for line, several in Counter(lines.values()).items() if several > 1]
            for name, line in lines.items():
                found.setdefault(name, Contender(alone=line not in shared))
            last, end = life == lives - 1, math.inf
            for turn in itertools.count(rounds * life // lives):
                if turn == rounds * (life + 1) // lives:
                    end = time.monotonic() + (patience if last else 0)
                if end < math.inf and (enough(found, "near", rounds) or time.monotonic() >= end):
                    break
                for name, line in lines.items():
                    before = place_of_cores()
                    seconds = _asked(line, name, "turn", name)
                    steady = before == place_of_cores() and before != "one"
                    getattr(found[name], before if steady else "other").append(seconds)
                    found[name].order.append(seconds)
            for name, line in lines.items():
                found[name].answer, megabytes = _asked(line, name, "result", name)
                found[name].megabytes = max(megabytes, found[name].megabytes)  # the first of two where one is NaN
    return found


@contextlib.contextmanager
def _started(makers: Callable[..., Makers], arguments: tuple, first: bool) -> Iterator[dict[str, Connection]]:
    """Make every contender in a process of its own; the lines to them, by the names of the calls."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    opened, processes = [], []
    try:
        for name in makers(*arguments):
            # One after the other: preparing takes all cores. Ours is made twice: what exporting needs is gone with the first
            # process, and the second finds the export, as its users' do.
            for again in range(2 if first and name.startswith("swinkit ") else 1):
                if again:
                    opened[-1].close()
                    processes[-1].join()
                ours, theirs = context.Pipe()
                opened.append(ours)
                processes.append(context.Process(target=_serve, args=(theirs, makers, arguments, name)))
                processes[-1].start()
                theirs.close()
                called = _asked(ours, name)
            lines.update(dict.fromkeys(called, ours))
        yield lines
    finally:
        for line in opened:
            line.close()  # ends its process
        for process in processes:
            process.join(30)
            process.kill()


def enough(contenders: Mapping[str, Contender], place: str, rounds: int) -> bool:
    """Say whether each had so many turns with the cores in a place."""
    return all(len(contender.turns(place)) >= rounds for contender in contenders.values())


def _asked(line: Connection, name: str, *question: str) -> Any:
    try:
        if question:
            line.send(question)
        answer = line.recv()
    except (EOFError, OSError):
        raise SystemExit(f"{name}: its process ended without a word") from None
    if isinstance(answer, str):
        raise SystemExit(f"{name}: {answer}")
    return answer


def _serve(line: Connection, makers: Callable[..., Makers], arguments: tuple, name: str) -> None:
    """Make a contender, tell whose calls there are and answer questions until the line is closed."""
    try:
        torch.manual_seed(0)
        made = makers(*arguments)[name]()
        calls = made if isinstance(made, dict) else {name: made}
        with torch.inference_mode():
            answers = {called: [call() for _ in range(WARMUP)][-1] for called, call in calls.items()}
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
            line.send(list(calls))
            while True:
                question, called = line.recv()
                if question == "turn":
                    call = calls[called]
                    call()
                    seconds: list[float] = []
                    while sum(seconds) < STEADY:
                        began = time.perf_counter()
                        answers[called] = call()
                        seconds.append(time.perf_counter() - began)
                    line.send(statistics.median(seconds))
                else:
                    line.send((plain(answers[called]).float().numpy(), _peak()))
    except (EOFError, OSError):
        return
    except Exception:  # noqa: BLE001 - told to whoever asked
        line.send(traceback.format_exc())


def _peak() -> float:
    try:
        with Path("/proc/self/status").open() as file:
            return next(int(row.split()[1]) / 1024 for row in file if row.startswith("VmHWM"))
    except OSError:
        return math.nan
