"""``swinkit check-data``: what is wrong with a data set, before hours of training."""

from __future__ import annotations

from typing import Annotated

import typer

from swinkit.cli.common import STDOUT, progress_bar, say, write_json


def check_data(
    data: Annotated[str, typer.Argument(help="Folder, zip, zips or table of pictures.", metavar="DIR")],
    json_file: Annotated[str | None, typer.Option("--json", help="Write the report; - is stdout.", metavar="FILE")] = None,
) -> None:
    """Find what is wrong with a data set.

    Every picture is read; the exit code is 1 when training could not start.
    """
    from swinkit.data.check import check_data as check
    from swinkit.data.check import summary
    from swinkit.data.check_masks import check_masks, has_masks

    with progress_bar("pictures") as advance:
        report = (check_masks if has_masks(data) else check)(data, progress=advance)
    if json_file is not None:
        write_json(json_file, report.to_dict())
    say(summary(report), error=json_file == STDOUT)
    if report.fatal:
        raise typer.Exit(1)
