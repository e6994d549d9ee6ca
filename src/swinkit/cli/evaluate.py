"""``swinkit evaluate``: how right a checkpoint is on a data set."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from swinkit.cli.common import STDOUT, Device, EngineName, Trust, builds_shown, keep_memory_of, progress_bar, say, write_json
from swinkit.cli.options import tables_in, with_task_options
from swinkit.cli.rows import write_table
from swinkit.errors import InputError
from swinkit.tasks.commands import EVALUATE


@with_task_options(EVALUATE)
def evaluate(
    data: Annotated[str, typer.Option(help="Folder, zip, zips or table of pictures.", metavar="DIR|ZIP")],
    source: Annotated[
        str | None,
        typer.Argument(help="Embedded name, hub id, directory, .safetensors or .pth; may be left out with --predictions."),
    ] = None,
    split: Annotated[str, typer.Option(help="Part: train, val, test; val of a set without parts is all of it.")] = "val",
    json_file: Annotated[str | None, typer.Option("--json", help="Write the report; - is stdout.", metavar="FILE")] = None,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.auto,
    engine: Annotated[EngineName | None, typer.Option(help="What computes; without it torch, of an export its own.")] = None,
    trust: Trust = False,
    *,
    given: dict[str, Any],
) -> None:
    """Measure accuracy on a data set.

    Top-1, top-5, calibration, every class and the surest mistakes, each picture counted once; of a segmenter mIoU, mAcc, aAcc
    and every class, each pixel counted once.
    """
    from swinkit.prediction import load
    from swinkit.runs.evaluate import evaluate as measure
    from swinkit.tasks.table import TASKS

    tables = {name: row for kind in EVALUATE.values() for name, row in tables_in(kind, given).items()}
    outputs = [path for path in (json_file, *(path for path, _ in tables.values())) if path is not None]
    if outputs.count(STDOUT) > 1:
        names = " and ".join(["--json -" if json_file == STDOUT else "", *(f"--{name} -" for name in tables)]).removeprefix(
            " and "
        )
        raise InputError(f"{names} cannot share stdout; write one of them to a file")
    with builds_shown():
        predictor = None if source is None else load(source, device.value, engine and engine.value, trust)
        if predictor is not None:
            keep_memory_of(predictor)
        with progress_bar("pictures") as advance:
            report = measure(predictor, data, split, progress=advance, **given)
    if json_file is not None:
        write_json(json_file, report)
    for name, (path, columns) in tables.items():
        write_table(path, columns, report[name])
    task = predictor.task if predictor is not None else next(task for task in TASKS.values() if task.reads(given))
    say(task.report(report), error=STDOUT in outputs)
