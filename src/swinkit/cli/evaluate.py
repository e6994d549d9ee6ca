"""``swinkit evaluate``: how right a checkpoint is on a data set."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swinkit.cli.common import (
    STDOUT,
    Device,
    EngineName,
    Trust,
    builds_shown,
    keep_memory_of,
    progress_bar,
    say,
    table,
    write_json,
)
from swinkit.cli.rows import write_table
from swinkit.errors import InputError

if TYPE_CHECKING:
    from swinkit.engines.dense import Passes
    from swinkit.prediction import Predictor

MOST_CLASSES = 30  # more than these are only in the JSON
MOST_MISTAKES = 10  # more than these are only in the files


class ScaleRule(enum.StrEnum):
    """What ``--scales`` multiply: the size a picture is prepared to, or its own."""

    box = "box"
    picture = "picture"


def evaluate(
    data: Annotated[str, typer.Option(help="Folder, zip, zips or table of pictures.", metavar="DIR|ZIP")],
    source: Annotated[
        str | None,
        typer.Argument(help="Embedded name, hub id, directory, .safetensors or .pth; may be left out with --predictions."),
    ] = None,
    split: Annotated[str, typer.Option(help="Part: train, val, test; val of a set without parts is all of it.")] = "val",
    json_file: Annotated[str | None, typer.Option("--json", help="Write the report; - is stdout.", metavar="FILE")] = None,
    mistakes: Annotated[
        str | None, typer.Option(help="Classifiers: write every wrong answer, surest first; - is stdout.", metavar="CSV")
    ] = None,
    groups: Annotated[Path | None, typer.Option(help="Table file,group: the accuracy of each group.", metavar="CSV")] = None,
    real: Annotated[Path | None, typer.Option(help="ImageNet ReaL labels: any of several is right.", metavar="JSON")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that go through the network together.")] = 32,
    predictions: Annotated[
        str | None, typer.Option(help="Segmenters: measure the PNGs in this folder instead of the network.", metavar="DIR")
    ] = None,
    scales: Annotated[str, typer.Option(help="Segmenters: scales to average, for example 0.5,0.75,1,1.25,1.5,1.75.")] = "1",
    scales_of: Annotated[ScaleRule, typer.Option(help="Segmenters: what the scales multiply.")] = ScaleRule.box,
    flip: Annotated[bool, typer.Option(help="Segmenters: average with mirror images.")] = False,
    window: Annotated[int, typer.Option(min=0, help="Segmenters: side of a sliding window, pixels; 0 is the whole.")] = 0,
    stride: Annotated[int, typer.Option(min=0, help="Segmenters: step of the window; 0 is two thirds of it.")] = 0,
    tile: Annotated[int, typer.Option(min=0, help="Segmenters: cut pictures into tiles of so many pixels; 0 does not.")] = 0,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.auto,
    engine: Annotated[EngineName | None, typer.Option(help="What computes; without it torch, of an export its own.")] = None,
    trust: Trust = False,
) -> None:
    """Measure accuracy on a data set.

    Top-1, top-5, calibration, every class and the surest mistakes, each picture counted once; of a segmenter mIoU, mAcc, aAcc
    and every class, each pixel counted once.
    """
    from swinkit.engines.dense import Passes
    from swinkit.prediction import load

    try:
        ratios = tuple(float(value) for value in scales.split(","))
        options = Passes(ratios, flip, window, stride, scales_of == "picture", tile)
    except ValueError as error:
        raise InputError(f"--scales {scales}, --window {window}, --stride {stride}, --tile {tile}: {error}") from None
    if source is None and predictions is None:
        raise InputError("nothing to measure; name a checkpoint, or give --predictions with a folder of label maps")
    if json_file == mistakes == STDOUT:
        raise InputError("--json - and --mistakes - cannot share stdout; write one of them to a file")
    with builds_shown():
        predictor = None if source is None else load(source, device.value, engine and engine.value, trust)
    if predictor is not None:
        keep_memory_of(predictor)
    if predictor is None or predictor.spec.task == "segment":
        if groups or real or mistakes:
            raise InputError("--groups, --real and --mistakes are for classifiers; leave them out")
        if predictions is not None and options != Passes():
            raise InputError("label maps of a folder are measured as they are; leave out --scales, --flip, --window and --tile")
        _evaluate_label_maps(predictor, data, split, json_file, predictions, options)
        return
    if predictions or options != Passes():
        raise InputError(
            "--predictions, --scales, --flip, --window, --stride and --tile are for segmenters; this is a classifier"
        )
    _evaluate_classifier(predictor, data, split, json_file, mistakes, batch, groups, real)


def _evaluate_classifier(
    predictor: Predictor,
    data: str,
    split: str,
    json_file: str | None,
    mistakes: str | None,
    batch: int,
    groups: Path | None,
    real: Path | None,
) -> None:
    from swinkit.data import open_dataset
    from swinkit.data.folders import UndividedData
    from swinkit.data.matching import match_classes
    from swinkit.evaluation import evaluate as measure

    try:
        pictures = open_dataset(data, split=split)
    except UndividedData:
        if split != "val":  # the default also means: all there is
            raise
        pictures = open_dataset(data)
    if mistakes and predictor.spec.multi_label:
        raise InputError("--mistakes is for models that give one label a picture; leave it out")
    matched = match_classes(pictures, predictor.labels)
    with builds_shown(), progress_bar("pictures") as advance:
        report = measure(
            predictor.model,
            matched,
            predictor.preprocessing,
            batch=batch,
            device=predictor.device,
            multi_label=predictor.spec.multi_label,
            groups=groups,
            real=real,
            progress=advance,
        )
    if json_file is not None:
        write_json(json_file, report)
    if mistakes is not None:
        write_table(mistakes, ("file", "truth", "answer", "probability"), report["mistakes"])
    say(_shown(report, predictor.preprocessing.describe()), error=STDOUT in (json_file, mistakes))


def _evaluate_label_maps(
    predictor: Predictor | None,
    data: str,
    split: str,
    json_file: str | None,
    predictions: str | None,
    options: Passes,
) -> None:
    from swinkit.data.folders import MissingPart
    from swinkit.data.segmentation import open_segmentation
    from swinkit.evaluation import evaluate_predictions, evaluate_segmentation

    # What the model knows, a folder without classes.txt need not say.
    classes, rules = ([], None) if predictor is None else (predictor.labels, predictor.spec.masks)
    try:
        truth = open_segmentation(data, split, classes, rules)
    except MissingPart:
        if split != "val":  # the default also means: all there is
            raise
        truth = open_segmentation(data, None, classes, rules)
    if predictor is not None and truth.classes != classes:
        raise InputError(f"{data}: has other classes than the model (first: {truth.classes[0]!r}); evaluate on its own kind")
    if predictions is not None:
        report = evaluate_predictions(predictions, truth)
    else:
        assert predictor is not None
        with builds_shown(), progress_bar("pictures") as advance:
            report = evaluate_segmentation(
                predictor.model, truth, predictor.preprocessing, options=options, device=predictor.device, progress=advance
            )
    if json_file is not None:
        write_json(json_file, report)
    figures = [[name, f"{100 * report[name]:.2f} %"] for name in ("mIoU", "mAcc", "aAcc")]
    figures += [["pictures", f"{report['count']:,}"], ["pixels", f"{report['pixels']:,}"]]
    rows = [["class", "IoU", "Acc", "pixels"]]
    for name, row in report["per_class"].items():
        parts = ["absent" if row[key] is None else f"{100 * row[key]:.2f} %" for key in ("IoU", "Acc")]
        rows.append([name, *parts, f"{row['pixels']:,}"])
    lines = [*table(figures), *table(rows), report["passes"]]
    say([*lines, *filter(None, [report.get("preprocessing")])], error=json_file == STDOUT)


def _shown(report: dict[str, Any], preprocessing: str) -> list[str]:
    """Return the report as lines for a terminal."""
    """Return the report for a terminal: figures, groups, classes that have pictures."""
    figures = [
        [name, f"{100 * report[name]:.2f} %" if "top" in name else f"{report[name]:.4f}"]
        for name in ("top1", "top5", "real_top1", "mAP", "f1_micro", "f1_macro", "ece")
        if isinstance(report.get(name), float)
    ]
    macro = [[f"macro {name}", f"{100 * share:.2f} %"] for name, share in report["macro"].items()]
    lines = [*table([*figures, *macro, ["count", f"{report['count']:,}"]]), f"photos were {preprocessing}"]
    if report.get("groups"):
        lines += table([[name, _per_cent(row["accuracy"]), f"{row['count']:,}"] for name, row in report["groups"].items()])
    rows = {name: row for name, row in report["per_class"].items() if row["count"]}
    if rows and len(rows) <= MOST_CLASSES:
        columns = (["average_precision"] if "mAP" in report else []) + ["precision", "recall", "f1"]
        lines += table(
            [["class", *(name.replace("_", " ") for name in columns), "count"]]
            + [[name, *(_per_cent(row[key]) for key in columns), f"{row['count']:,}"] for name, row in rows.items()]
        )
    wrong = report.get("mistakes", [])
    if wrong:
        first = f", the {MOST_MISTAKES} surest" if len(wrong) > MOST_MISTAKES else ""
        lines.append(f"{len(wrong):,} wrong answers{first}:")
        lines += table(
            [[row["file"], row["truth"], f"-> {row['answer']}", _per_cent(row["probability"])] for row in wrong[:MOST_MISTAKES]]
        )
    return lines


def _per_cent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.2f} %"
