"""What several commands share: devices by name, output files, printing that a file's name cannot disturb."""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from swinkit.errors import InputError, shown
from swinkit.files import atomic_path, sweep

if TYPE_CHECKING:
    from swinkit.prediction import Predictor

STDOUT = "-"
Trust = Annotated[bool, typer.Option("--trust", help="Open an export that is code, not yours, and may do anything.")]
_HELD = 2**16  # bytes of an output file that wait to be written


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


def say(text: str | Sequence[str], error: bool = False) -> None:
    """Print a line, or several, to stdout, or to stderr.

    A text is one line whatever stands in it: line breaks, escape sequences and marks that turn the direction are escaped, so that
    no name of a file or a class can forge a line.

    Raises:
        InputError: stdout cannot be written; of stderr nobody could be told.
        BrokenPipeError: nobody reads stdout any more.
    """
    stream = sys.stderr if error else sys.stdout
    lines = [text] if isinstance(text, str) else text
    encoding = stream.encoding or "utf-8"
    printed = "\n".join(map(shown, lines)).encode(encoding, "replace").decode(encoding)
    with contextlib.suppress(OSError) if error else writing("stdout"):
        print(printed, file=stream)


def table_cell(text: str) -> str:
    """Return text for a cell of a CSV: one line, and no formula to a spreadsheet; bytes that are no UTF-8 stay what they are."""
    from swinkit.data.tables import spreadsheet_safe

    return spreadsheet_safe("".join(letter if "\udc80" <= letter <= "\udcff" else shown(letter) for letter in text))


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn a failure to write ``path`` into a sentence; a pipe that nobody reads any more stays one."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as problem:  # the latter: a zero byte in the name
        if isinstance(problem, InputError):
            raise
        reason = getattr(problem, "strerror", None) or problem
        raise InputError(f"{path}: cannot be written ({reason}); give another place") from problem


def regular(path: str, otherwise: str = "") -> Path:
    """Return the path of a file to write, which must not be a folder or a device: renaming would put a file in its place.

    Raises:
        InputError: there is something else.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise InputError(f"{path}: is no regular file; give another name{otherwise}")
    return target


class Output(Protocol):
    """What takes text."""

    def write(self, text: str, /) -> object: ...


class _File:
    """A file by its handle. What could not be written is not tried again when it is closed, as Python's own files do."""

    def __init__(self, handle: int, path: str) -> None:
        self._handle, self._path, self._held = handle, path, bytearray()

    def write(self, text: str, /) -> None:
        # Names of files need not be UTF-8; they are written as the bytes they are.
        self._held += text.encode("utf-8", "surrogateescape")
        if len(self._held) >= _HELD:
            self.flush()

    def flush(self) -> None:
        with writing(self._path):
            while self._held:
                del self._held[: os.write(self._handle, self._held)]


class _Stdout:
    """Standard output, where names of files are written as the bytes they are."""

    def write(self, text: str, /) -> None:
        with writing("stdout"):
            try:
                data = text.encode(sys.stdout.encoding or "utf-8", "surrogateescape")
            except UnicodeEncodeError:
                data = text.encode(sys.stdout.encoding, "backslashreplace")
            sys.stdout.flush()
            sys.stdout.buffer.write(data)


@contextlib.contextmanager
def output_file(path: str) -> Iterator[Output]:
    """Yield what writes a text file that appears under ``path`` when all went well, or stdout for "-".

    Raises:
        InputError: ``path`` cannot be written; said before any work is done, or when the disk is full.
    """
    if path == STDOUT:
        if sys.__stdout__ is None:  # it was closed when Python began
            raise InputError("stdout is closed, and - stands for it; give a file")
        yield _Stdout()
        return
    with contextlib.ExitStack() as stack:
        with writing(path):
            target = regular(path, ", or - for stdout")
            sweep(target.parent)  # what a killed command left
            temporary = stack.enter_context(atomic_path(target))
            handle = os.open(temporary, os.O_WRONLY)
            stack.callback(os.close, handle)
        file = _File(handle, path)
        yield file
        file.flush()
        with writing(path):
            stack.close()


def write_json(path: str, value: Any) -> None:
    """Write ``value`` as indented JSON to a file, or to stdout for "-"."""
    with output_file(path) as file:
        file.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def keep_memory_of(predictor: Predictor) -> None:
    """Let this process keep the memory of one answer for the next, if torch computes on a CPU; others hold their own."""
    from swinkit.engines.memory import keep_memory

    if predictor.engine in ("torch", "compile") and predictor.device.type == "cpu":
        keep_memory()


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
