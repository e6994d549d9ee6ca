"""``swinkit check-data``: what is wrong with a data set, before hours of training."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from swinkit.cli.common import STDOUT, progress_bar, say, write_json
from swinkit.cli.options import with_task_options
from swinkit.tasks.commands import CHECK


@with_task_options(CHECK)
def check_data(
    data: Annotated[str, typer.Argument(help="Folder, zip, zips or table of pictures.", metavar="DIR")],
    json_file: Annotated[str | None, typer.Option("--json", help="Write the report; - is stdout.", metavar="FILE")] = None,
    *,
    given: dict[str, Any],
) -> None:
    """Find what is wrong with a data set.

    Every picture is read; the exit code is 1 when training could not start.
    """
    from swinkit.data.check import summary
    from swinkit.runs.check import check

    with progress_bar("pictures") as advance:
        report = check(data, progress=advance, **given)
    if json_file is not None:
        write_json(json_file, report.to_dict())
    say(summary(report), error=json_file == STDOUT)
    if report.fatal:
        raise typer.Exit(1)
