"""``swinkit benchmark``: how fast the installed engines run a checkpoint here, and whether they agree."""

from __future__ import annotations

from typing import Annotated

import typer

from swinkit.cli.common import STDOUT, Trust, builds_shown, say, write_json
from swinkit.printing import table


def benchmark(
    source: Annotated[str, typer.Argument(help="Embedded name, hub id, directory, .safetensors or .pth.")],
    engine: Annotated[
        list[str] | None, typer.Option(help="Engine to time; may be repeated. Without it: all that are installed.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Pictures at once; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times each is called, one after the other.")] = 7,
    trust: Trust = False,
    json_file: Annotated[str | None, typer.Option("--json", help="Write the figures; - is stdout.", metavar="FILE")] = None,
) -> None:
    """Time the engines on this machine's processor, in turn.

    Medians, images a second, and the largest difference from torch's answers.
    """
    from swinkit.engines.memory import keep_memory
    from swinkit.prediction.timing import time_engines

    keep_memory()
    with builds_shown():
        rows = time_engines(source, engine or [], batch or [1, 8], rounds, trust)
    if json_file is not None:
        write_json(json_file, rows)
    lines = [["engine", "batch", "ms", "images/s", "x torch", "largest difference"]]
    for row in rows:
        figures = [f"{row['ms']:.1f}", f"{row['images_per_second']:.1f}", f"{row['speedup']:.2f}", f"{row['error']:.1g}"]
        lines.append([row["engine"], str(row["batch"]), *figures])
    say(table(lines), error=json_file == STDOUT)
