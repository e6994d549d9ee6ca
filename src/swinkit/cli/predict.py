"""``swinkit predict``: photos to answers."""

from __future__ import annotations

import contextlib
import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swinkit.cli.common import STDOUT, Device, EngineName, Trust, builds_shown, output_file, progress_bar, say
from swinkit.errors import InputError

if TYPE_CHECKING:
    from collections import Counter

    from swinkit.prediction import SegmentationResult

MOST_BARS = 10  # more images than this get a line each
_Write = Callable[[Any], None]


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
    engine: Annotated[EngineName | None, typer.Option(help="What computes; without it torch, of an export its own.")] = None,
    trust: Trust = False,
    out: Annotated[
        Path | None, typer.Option(help="Segmenters: folder for masks (PNG) and overlays (JPEG).", metavar="DIR")
    ] = None,
    tile: Annotated[int, typer.Option(min=0, help="Segmenters: cut photos into tiles of so many pixels.")] = 0,
) -> None:
    """Classify photos, or segment them with a segmenter.

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
    with _sinks(json_file, csv_file) as write, builds_shown() as built, progress_bar("images") as advance:
        predictor = load(model or DEFAULT, device.value, engine and engine.value, trust)
        if out is not None and predictor.spec.task != "segment":
            raise InputError(f"--out is for label maps; {model or DEFAULT} is a classifier: use --json or --csv")
        start, built_before = time.perf_counter(), sum(built)
        results = enumerate(predictor.stream(found.images, batch=batch, top=top, tile=tile), start=1)
        for done, result in results:
            advance(done, count)
            write(result)
            if out is not None and result.error is None:
                _write_label_map(result, out)
            failed += result.error is not None
            if result.error is not None:
                say(result.error, error=True)
            else:
                say(result.bars() if bars else _line(result), error=to_stderr)
    building = sum(built)
    seconds = time.perf_counter() - start - (building - built_before)
    verb = "segmented" if predictor.spec.task == "segment" else "classified"
    summary = f"{verb} {count - failed:,} of {count:,} images in {seconds:.1f} s ({count / seconds:.1f} images/s)"
    summary += f" with {predictor.spec.name or model or DEFAULT} on {predictor.device} by {predictor.engine}"
    if building:
        summary += f", after {building:.0f} s of building"
    if failed:
        summary += f"; {failed:,} could not be read"
    written = [path for path in (json_file, csv_file, out) if path not in (None, STDOUT)]
    if written:
        summary += f"; wrote {' and '.join(map(str, written))}"
    say(summary + _passed_over(found.skipped), error=to_stderr)
    note = getattr(predictor.model, "note", "")
    if note:
        say(note, error=True)
    if failed == count:
        raise typer.Exit(1)


def _passed_over(skipped: Counter[str]) -> str:
    """Return "; passed over 3 other files: 2 .txt, 1 hidden", or "" when there were none."""
    kinds = ", ".join(f"{count:,} {reason}" for reason, count in skipped.most_common() if count)
    return f"; passed over {skipped.total():,} other files: {kinds}" if kinds else ""


def _write_label_map(result: SegmentationResult, folder: Path) -> None:
    """Write the mask and the overlay of one photo; names of photos that share one get a number."""
    from swinkit.files import atomic_path

    stem, number = Path(result.source).stem, 2
    while (folder / f"{stem}.png").exists():
        stem, number = f"{Path(result.source).stem}_{number}", number + 1
    result.save(folder / f"{stem}.png")
    with atomic_path(folder / f"{stem}_overlay.jpg") as temporary:
        result.overlay().save(temporary, format="JPEG", quality=90)


def _line(result: Any) -> str:
    if hasattr(result, "mask"):
        shares = ", ".join(f"{area.label} {100 * area.share:.0f} %" for area in result.areas[:4])
        return f"{result.source}  {shares}"
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

        def write(result: Any) -> None:
            for writer in writers:
                writer(result)

        yield write


@contextlib.contextmanager
def _json_list(path: str) -> Iterator[_Write]:
    """A JSON list, written item by item so that any number of results needs no memory."""
    with output_file(path) as file:
        separator = "[\n"

        def write(result: Any) -> None:
            nonlocal separator
            file.write(separator + json.dumps(result.to_dict(), allow_nan=False))
            separator = ",\n"

        yield write
        file.write("\n]\n")


@contextlib.contextmanager
def _csv_table(path: str) -> Iterator[_Write]:
    """A row for each image and rank; an image that could not be read has one row with its error.

    Of a label map a row for each class in it, ``probability`` giving way to ``pixels`` and ``share``.
    """
    with output_file(path) as file:
        table = csv.writer(file)
        headed = False

        def write(result: Any) -> None:
            nonlocal headed
            areas = hasattr(result, "mask")
            if not headed:
                table.writerow(
                    ["source", "rank", "label", "index", *(("pixels", "share") if areas else ("probability",)), "error"]
                )
                headed = True
            if result.error is not None:
                table.writerow([result.source, "", "", "", *([""] * (2 if areas else 1)), result.error])
                return
            if areas:
                for rank, area in enumerate(result.areas, start=1):
                    table.writerow([result.source, rank, area.label, area.index, area.pixels, f"{area.share:.6f}", ""])
                return
            for rank, best in enumerate(result.predictions, start=1):
                table.writerow([result.source, rank, best.label, best.index, f"{best.probability:.6f}", ""])

        yield write
