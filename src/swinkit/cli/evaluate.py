"""``swinkit evaluate``: how right a checkpoint is on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swinkit.cli.common import Device, say, write_json


def evaluate(
    source: Annotated[str, typer.Argument(help="Embedded name, hub id, directory, .safetensors or .pth.")],
    data: Annotated[str, typer.Option(help="Folder, zip, zips or table of pictures.", metavar="DIR|ZIP")],
    split: Annotated[str, typer.Option(help="Part of the data set.")] = "val",
    json_file: Annotated[str | None, typer.Option("--json", help="Write the report; - is stdout.", metavar="FILE")] = None,
    groups: Annotated[Path | None, typer.Option(help="Table file,group: accuracy of each group.", metavar="CSV")] = None,
    real: Annotated[Path | None, typer.Option(help="ImageNet ReaL labels: any of several is right.", metavar="JSON")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that go through the network together.")] = 32,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.auto,
) -> None:
    """Measure accuracy on a data set.

    Top-1, top-5, calibration and every class; each picture counts once.
    """
    E
