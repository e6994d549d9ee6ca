"""``swinkit check-data``: what is wrong with a data set, before hours of training."""

from __future__ import annotations

from typing import Annotated

import typer

from swinkit.cli.common import STDOUT, progress_bar, say, write_json
from swinkit.errors import InputError


def check_data(
    data: Annotated[str, typer.Argument(help="Folder, zip, zips or table of pictures.", metavar="DIR")],
    void: Annotated[
        list[int] | None, typer.Option(min=0, max=65535, help="Label maps: a value besides 255 that means nothing; repeat it.")
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", help="Write the report; - is stdout.", metavar="FILE")] = None,
) -> None:
    """Find what is wrong with a data set.

    Every picture is read; the exit code is 1 when training could not start.
    """
    from swinkit.data.check import check_data as check
    from swinkit.data.check import summary
    from swinkit.data.check_masks import check_masks, has_masks

    masks = has_masks(data)
    if void and not masks:
        raise InputError(f"{data}: holds no label maps; leave out --void")
    with progress_bar("pictures") as advance:
        report = check_masks(data, advance, void or ()) if masks else check(data, advance)
    if json_file is not None:
        write_json(json_file, report.to_dict())
    say(summary(report), error=json_file == STDOUT)
    if report.fatal:
        raise typer.Exit(1)
