"""The command ``swinkit``: each file here parses one command's options, calls one function and prints.

Libraries that are slow to import (torch, torchvision, pydantic ...) are imported inside the commands, so that
``swinkit --help`` and a misspelt option answer at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import typer

from swinkit.cli.benchmark import benchmark
from swinkit.cli.check_data import check_data
from swinkit.cli.common import say
from swinkit.cli.convert import convert
from swinkit.cli.demo import demo
from swinkit.cli.evaluate import evaluate
from swinkit.cli.export import export
from swinkit.cli.info import info
from swinkit.cli.models import models
from swinkit.cli.predict import predict
from swinkit.cli.recipes import recipes
from swinkit.cli.train import train
from swinkit.errors import SwinkitError, out_of_memory

INTERRUPTED = 128 + signal.SIGINT
UNREAD = 128 + getattr(signal, "SIGPIPE", 13)  # as of a program that the signal ended
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

app = typer.Typer(
    help="Swin Transformers from photo to answer.",
    epilog="--debug, anywhere in the line, shows the traceback of an error.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(predict)
app.command()(train)
app.command()(evaluate)
app.command()(convert)
app.command()(export)
app.command()(benchmark)
app.command()(info)
app.command()(models)
app.command("check-data")(check_data)
app.command()(recipes)
app.command(hidden=True)(demo)


@app.callback(invoke_without_command=True)
def _about(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        import swinkit

        say(f"swinkit {swinkit.__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; every error is one sentence on stderr.

    Args:
        arguments: without the program's name; None means ``sys.argv``.
    """
    words, debug = _without_debug(list(sys.argv[1:] if arguments is None else arguments))
    _open_streams()
    if not any(name in os.environ for name in _WAITING):
        # Threads that wait for the next loop would look for it for 10 ms, and take the cores from whoever shares them. A thousand
        # looks, some 50 us, bridge the gaps between two layers. Both are read when torch is imported, which the commands do.
        os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
    code = _run(words, debug)
    try:
        sys.stdout.flush()
    except OSError as error:
        _leave_stdout()
        if isinstance(error, BrokenPipeError):
            return code or UNREAD
        if not code:
            say(f"swinkit: stdout: cannot be written ({error.strerror}); give another place", error=True)
        return code or 1
    return code


def _run(words: list[str], debug: bool) -> int:
    try:
        app(words, prog_name="swinkit")
    except SystemExit as stop:  # typer's own end, also after wrong usage (2), an interruption, and a pipe that nobody reads
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.__context__, BrokenPipeError):
            _leave_stdout()
            return UNREAD
        if code == INTERRUPTED and _by_a_bare_interrupt(stop):  # a command that ends by its own plan has said more
            say("interrupted", error=True)
        return code
    except SwinkitError as error:
        _report(str(error), debug)
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _report(f"{where}{error.strerror or error}", debug)
    except Exception as error:  # noqa: BLE001 - the border: what nobody foresaw still becomes a sentence
        _report(out_of_memory(error) or f"internal error: {type(error).__name__}: {error}; run with --debug and report it", debug)
    return 1


def _by_a_bare_interrupt(end: BaseException | None) -> bool:
    """Say whether a KeyboardInterrupt, and nothing made of one, led to this end."""
    while end is not None:
        if type(end) is KeyboardInterrupt:
            return True
        end = end.__cause__ or end.__context__
    return False


def _open_streams() -> None:
    """Give closed streams a place: else the next file that is opened takes their number, and what is printed goes into it."""
    handle = os.open(os.devnull, os.O_RDWR)
    while handle <= 2:
        handle = os.open(os.devnull, os.O_RDWR)
    os.close(handle)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed when Python began
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _leave_stdout() -> None:
    """Let what could not be written go, so that Python does not try again, and complain, when it ends."""
    with contextlib.suppress(OSError, ValueError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, sys.__stdout__.fileno() if sys.__stdout__ else 1)
        os.close(handle)


def _without_debug(words: list[str]) -> tuple[list[str], bool]:
    """Take ``--debug`` out of the options, wherever it stands; after ``--`` it is a file's name."""
    end = words.index("--") if "--" in words else len(words)
    options = [word for word in words[:end] if word != "--debug"]
    return options + words[end:], len(options) < end


def _report(sentence: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    say(f"swinkit: {sentence}", error=True)
