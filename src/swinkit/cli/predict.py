"""``swinkit predict``: photos to answers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swinkit.cli.common import STDOUT, Device, EngineName, Trust, builds_shown, keep_memory_of, progress_bar, say, writing
from swinkit.cli.options import with_task_options
from swinkit.cli.rows import row_files
from swinkit.cli.stopping import Stopped, stoppable
from swinkit.errors import InputError, SwinkitError
from swinkit.files import sweep
from swinkit.tasks.commands import PREDICT

if TYPE_CHECKING:
    from collections import Counter

    from swinkit.prediction import Predictor

MOST_LONG = 10  # more images than this get a line each


@with_task_options(PREDICT)
def predict(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders or globs.", metavar="PATHS...")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Embedded name, hub id, directory, .safetensors or .pth; the embedded model if left out.",
            metavar="SOURCE",
        ),
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", help="Write results; - is stdout.", metavar="FILE")] = None,
    csv_file: Annotated[str | None, typer.Option("--csv", help="Write results; - is stdout.", metavar="FILE")] = None,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.auto,
    engine: Annotated[EngineName | None, typer.Option(help="What computes; without it torch, of an export its own.")] = None,
    trust: Trust = False,
    out: Annotated[Path | None, typer.Option(help="Folder for drawings (JPEG) and label maps (PNG).", metavar="DIR")] = None,
    *,
    given: dict[str, Any],
) -> None:
    """Answer photos: classify them, or segment them with a segmenter.

    Those that cannot be read are named, counted and passed over; the exit code is 1 when none was left. Ctrl-C and SIGTERM
    keep what is finished, in every file.
    """
    if json_file == csv_file == STDOUT:
        raise InputError("--json - and --csv - cannot share stdout; write one of them to a file")
    from swinkit.prediction import find_images, load
    from swinkit.weights import DEFAULT

    found = find_images(paths)
    if not found.images:
        raise InputError(f"{', '.join(paths)}: no images found{_passed_over(found.skipped)}; give photos or a folder")
    to_stderr = STDOUT in (json_file, csv_file)
    few = len(found.images) <= MOST_LONG
    tally = _Tally(len(found.images), _called(model or DEFAULT))
    stopped: Stopped | None = None
    try:
        with (
            stoppable() as stopping,
            row_files(json_file, csv_file, stopping) as write,
            builds_shown() as built,
            progress_bar("images") as advance,
        ):
            predictor = load(model or DEFAULT, device.value, engine and engine.value, trust)
            keep_memory_of(predictor)
            if out is not None:
                sweep(out)  # what a killed command left
            tally.begin(predictor, built)
            for result in predictor.stream(found.images, **given):
                with stopping.held():
                    if out is not None and result.error is None:
                        _write_pictures(result, out)
                    write(result)
                    tally.add(result)
                stopping.heed()
                advance(tally.done, tally.total)
                if result.error is not None:
                    say(result.error, error=True)
                else:
                    say(result.text() if few else result.line(), error=to_stderr)
    except Stopped as signalled:
        stopped = signalled
    except SwinkitError:
        if 0 < tally.done < tally.total:
            say(f"stopped early: {tally.summary()}", error=True)
        raise
    written = [str(path) for path in (json_file, csv_file, out) if path not in (None, STDOUT)]
    tally.notes += [f"wrote {' and '.join(written)}"] if written else []
    if stopped is not None:
        say(f"interrupted: {tally.summary()}" if tally.done else "interrupted", error=True)
        raise typer.Exit(stopped.exit_code)
    say(tally.summary() + _passed_over(found.skipped), error=to_stderr)
    if note := getattr(predictor.model, "note", ""):
        say(note, error=True)
    if tally.failed == tally.total:
        raise typer.Exit(1)


@dataclass
class _Tally:
    """What the last line says.

    Args:
        total: images that were found.
        model: as the user calls it.
    """

    total: int
    model: str
    done: int = 0
    failed: int = 0
    notes: list[str] = field(default_factory=list)
    _predictor: Predictor | None = None
    _built: list[float] = field(default_factory=list)
    _built_before: float = 0.0
    _start: float = 0.0

    def begin(self, predictor: Predictor, built: list[float]) -> None:
        """Start the clock; ``built`` are the seconds that an engine's builds took, those to come as well."""
        self._predictor, self._built, self._built_before = predictor, built, sum(built)
        self._start = time.perf_counter()

    def add(self, result: Any) -> None:
        self.done += 1
        self.failed += result.error is not None

    def summary(self) -> str:
        assert self._predictor is not None
        building = sum(self._built)
        seconds = time.perf_counter() - self._start - (building - self._built_before)
        text = f"{self._predictor.task.verb} {self.done - self.failed:,} of {self.total:,} images in {seconds:.1f} s "
        text += f"({self.done / seconds:.1f} images/s) with {self.model} on {self._predictor.device} by {self._predictor.engine}"
        if building:
            text += f", after {building:.0f} s of building"
        failed = [f"{self.failed:,} could not be read"] if self.failed else []
        return "; ".join([text, *failed, *self.notes])


def _called(source: str) -> str:
    """Return the name of what answers: as it was typed, or of a folder that was typed as dots its own."""
    return source if source.strip("./\\") else Path(source).resolve().name


def _passed_over(skipped: Counter[str]) -> str:
    """Return "; passed over 3 other files: 2 .txt, 1 hidden", or "" when there were none."""
    kinds = ", ".join(f"{count:,} {reason}" for reason, count in skipped.most_common() if count)
    return f"; passed over {skipped.total():,} other files: {kinds}" if kinds else ""


def _write_pictures(result: Any, folder: Path) -> None:
    """Write the answer's own file and its drawing; names of photos that share one get a number."""
    from swinkit.files import atomic_path

    own = "picture" if result.picture is not None else Path(result.source).stem  # data: URLs have no name
    stem, number = own, 2
    while (folder / f"{stem}{result.suffix}").exists():
        stem, number = f"{own}_{number}", number + 1
    if result.suffix != ".jpg":  # else the answer's file is the drawing
        drawing = result.draw()
        with writing(str(folder / f"{stem}_overlay.jpg")), atomic_path(folder / f"{stem}_overlay.jpg") as temporary:
            drawing.save(temporary, format="JPEG", quality=90)
    with writing(str(folder / f"{stem}{result.suffix}")):
        result.save(folder / f"{stem}{result.suffix}")
