"""``swinkit evaluate``: how right a checkpoint is on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from swinkit.cli.common import STDOUT, Device, say, table, write_json

MOST_CLASSES = 30  # more than these are only in the JSON


def evaluate(
    source: Annotated[str, typer.Argument(help="Embedded name, hub id, directory, .safetensors or .pth.")],
    data: Annotated[str, typer.Option(help="Folder, zip, zips or table of pictures.", metavar="DIR|ZIP")],
    split: Annotated[str, typer.Option(help="Part of the data set: train, val, test.")] = "val",
    json_file: Annotated[str | None, typer.Option("--json", help="Write the report; - is stdout.", metavar="FILE")] = None,
    groups: Annotated[Path | None, typer.Option(help="Table file,group: the accuracy of each group.", metavar="CSV")] = None,
    real: Annotated[Path | None, typer.Option(help="ImageNet ReaL labels: any of several is right.", metavar="JSON")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that go through the network together.")] = 32,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.auto,
) -> None:
    """Measure accuracy on a data set.

    Top-1, top-5, calibration and every class; each picture counts once.
    """
    from swinkit.data import open_dataset
    from swinkit.data.matching import match_classes
    from swinkit.evaluation import evaluate as measure
    from swinkit.prediction import load

    predictor = load(source, device)
    matched = match_classes(open_dataset(data, split=split), predictor.labels)
    report = measure(
        predictor.model,
        matched,
        predictor.preprocessing,
        batch=batch,
        device=predictor.device,
        multi_label=predictor.spec.multi_label,
        groups=groups,
        real=real,
    )
    if json_file is not None:
        write_json(json_file, report)
    say(_shown(report, predictor.preprocessing.describe()), error=json_file == STDOUT)


def _shown(report: dict[str, Any], preprocessing: str) -> str:
    """Return the report for a terminal: figures, groups, classes that have pictures."""
    figures = [
        [name, f"{100 * report[name]:.2f} %" if name.startswith("top") else f"{report[name]:.4f}"]
        for name in ("top1", "top5", "mAP", "ece", "real")
        if isinstance(report.get(name), float)
    ]
    lines = [table([*figures, ["count", f"{report['count']:,}"]]), f"photos were {preprocessing}"]
    for kind in ("groups", "per_class"):
        rows = {name: row for name, row in report.get(kind, {}).items() if row["count"]}
        if rows and (kind == "groups" or len(rows) <= MOST_CLASSES):
            lines.append(table([[name, f"{100 * row['accuracy']:.2f} %", f"{row['count']:,}"] for name, row in rows.items()]))
    return "\n".join(lines)
