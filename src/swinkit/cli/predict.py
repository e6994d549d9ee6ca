"""``swinkit predict``: photos to answers."""

from __future__ import annotations

import contextlib
import csv
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from swinkit.cli.common import STDOUT, Device, output_file, progress_bar, say
from swinkit.errors import InputError

if TYPE_CHECKING:
    from collections import Counter

    from swinkit.prediction import ClassificationResult

MOST_BARS = 10  # more images than this get a line each
_Write = Callable[["ClassificationResult"], None]


def predict(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders or globs.", metavar="PATHS...")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Embedded name, hub id, directory, .safetensors or .pth; the embedded model if left out.",
            metavar="SOURCE",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to name for each photo.")] = 5,
    json_file: Annotated[str | None, typer.Option("--json", help="Write results; - is stdout.", metavar="FILE")] = None,
    csv_file: Annotated[str | None, typer.Option("--csv", help="Write results; - is stdout.", metavar="FILE")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Photos that go through the network together.")] = 16,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.auto,
) -> None:
    """Classify photos.

    Those that cannot be read are named, counted and passed over; the exit code is 1 when none was left.
    """
    if json_file == csv_file == STDOUT:
        raise InputError("--json - and --csv - cannot share stdout; write one of them to a file")
    from swinkit.prediction import find_images, load
    from swinkit.weights import DEFAULT

    found = find_images(paths)
    if not found.images:
        raise InputError(f"{', '.join(paths)}: no images found{_passed_over(found.skipped)}; give photos or a folder")
    to_stderr = STDOUT in (json_file, csv_file)
    bars = len(found.images) <= MOST_BARS
    failed = 0
    count = len(found.images)
    with _sinks(json_file, csv_file) as write, progress_bar("images") as advance:
        predictor = load(model or DEFAULT, device)
        start = time.perf_counter()
        results = enumerate(predictor.stream(found.images, batch=batch, top=top), start=1)
        for done, result in results:
            advance(done, count)
            write(result)
            failed += result.error is not None
            if result.error is not None:
                say(result.error, error=True)
            else:
                say(result.bars() if bars else _line(result), error=to_stderr)
    seconds = time.perf_counter() - start
    summary = f"classified {count - failed:,} of {count:,} images in {seconds:.1f} s ({count / seconds:.1f} images/s)"
    summary += f" with {predictor.spec.name or model or DEFAULT} on {predictor.device}"
    if failed:
        summary += f"; {failed:,} could not be read"
    written = [path for path in (json_file, csv_file) if path not in (None, STDOUT)]
    if written:
        summary += f"; wrote {' and '.join(map(str, written))}"
    say(summary + _passed_over(found.skipped), error=to_stderr)
    if failed == count:
        raise typer.Exit(1)


def _passed_over(skipped: Counter[str]) -> str:
    """Return "; passed over 3 other files: 2 .txt, 1 hidden", or "" when there were none."""
    kinds = ", ".join(f"{count:,} {reason}" for reason, count in skipped.most_common() if count)
    return f"; passed over {skipped.total():,} other files: {kinds}" if kinds else ""


def _line(result: ClassificationResult) -> str:
    return f"{result.source}  {result.top.label}  {100 * result.top.probability:.1f} %"


@contextlib.contextmanager
def _sinks(json_file: str | None, csv_file: str | None) -> Iterator[_Write]:
    """Yield a function that adds a result to the files asked for; they appear when all went well."""
    with contextlib.ExitStack() as stack:
        writers: list[_Write] = []
        if json_file is not None:
            writers.append(stack.enter_context(_json_list(json_file)))
        if csv_file is not None:
            writers.append(stack.enter_context(_csv_table(csv_file)))

        def write(result: ClassificationResult) -> None:
            for writer in writers:
                writer(result)

        yield write


@contextlib.contextmanager
def _json_list(path: str) -> Iterator[_Write]:
    """A JSON list, written item by item so that any number of results needs no memory."""
    with output_file(path) as file:
        separator = "[\n"

        def write(result: ClassificationResult) -> None:
            nonlocal separator
            file.write(separator + json.dumps(result.to_dict(), allow_nan=False))
            separator = ",\n"

        yield write
        file.write("\n]\n")


@contextlib.contextmanager
def _csv_table(path: str) -> Iterator[_Write]:
    """A row for each image and rank; an image that could not be read has one row with its error."""
    with output_file(path) as file:
        table = csv.writer(file)
        table.writerow(["source", "rank", "label", "index", "probability", "error"])

        def write(result: ClassificationResult) -> None:
            if result.error is not None:
                table.writerow([result.source, "", "", "", "", result.error])
            for rank, best in enumerate(result.predictions, start=1):
                table.writerow([result.source, rank, best.label, best.index, f"{best.probability:.6f}", ""])

        yield write
