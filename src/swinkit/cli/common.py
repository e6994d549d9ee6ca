"""What several commands share: devices by name, output files, printing that a file's name cannot disturb."""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from swinkit.errors import InputError
from swinkit.files import atomic_path

STDOUT = "-"
Trust = Annotated[bool, typer.Option("--trust", help="Open an export that is code, not yours, and may do anything.")]


class Device(enum.StrEnum):
    """Where a network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class EngineName(enum.StrEnum):
    """What computes; auto is the fastest that is installed."""

    torch = "torch"
    compile = "compile"
    openvino = "openvino"
    onnxruntime = "onnxruntime"
    auto = "auto"


def say(text: str, error: bool = False) -> None:
    """Print to stdout, or to stderr; control characters from file names and labels are shown as "?"."""
    stream = sys.stderr if error else sys.stdout
    shown = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
    encoding = stream.encoding or "utf-8"
    print(shown.encode(encoding, "replace").decode(encoding), file=stream)


@contextlib.contextmanager
def output_file(path: str) -> Iterator[TextIO]:
    """Yield a text file that appears under ``path`` when all went well, or stdout for "-".

    Raises:
        InputError: ``path`` cannot be written; said before any work is done.
    """
    if path == STDOUT:
        yield sys.stdout
        return
    target = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            if target.exists() and not target.is_file():
                raise InputError(f"{path}: is no regular file; give another name, or - for stdout")
            temporary = stack.enter_context(atomic_path(target))
            # Names of files need not be UTF-8; they are written as the bytes they are.
            file = stack.enter_context(temporary.open("w", encoding="utf-8", errors="surrogateescape", newline=""))
        except OSError as problem:
            raise InputError(f"{path}: cannot be written ({problem.strerror}); give another place") from problem
        yield file


def write_json(path: str, value: Any) -> None:
    """Write ``value`` as indented JSON to a file, or to stdout for "-"."""
    with output_file(path) as file:
        file.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def progress_bar(noun: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (done, total) that moves a bar with a rate on stderr; silent when that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _total: None
        return
    began = time.monotonic()
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    # rich would send stdout to its own console, which is stderr here: harmless only when both are the terminal.
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        job = progress.add_task(noun, total=None)

        def advance(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - began, 1e-6)
            progress.update(job, completed=done, total=total, description=f"{rate:.1f} {noun}/s")

        yield advance


@contextlib.contextmanager
def builds_shown() -> Iterator[list[float]]:
    """Say on stderr what is built inside, step by step, and how long that took; yield a list of the seconds of each build."""
    from swinkit.engines.steps import Building, heard_by

    seconds: list[float] = []

    def show(build: Building) -> None:
        if build.finished:
            seconds.append(build.seconds)
            if not build.failed:
                say(f"built {build.what} in {build.seconds:.0f} s", error=True)
        elif build.step:
            say(f"building {build.what}: step {build.step} of {build.steps}, {build.doing}, {build.seconds:.0f} s", error=True)

    with heard_by(show, functools.partial(say, error=True)):
        yield seconds


def table(rows: list[list[str]]) -> str:
    """Return rows as aligned columns, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
