"""``swinkit train``: a recipe and a folder to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swinkit.cli.common import say


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (swinkit recipes) or a YAML file.")],
    data: Annotated[str, typer.Option(help="Folder, zip, zips or table of pictures.", metavar="DIR")],
    model: Annotated[
        str | None, typer.Option(help="Variant or checkpoint to start from, instead of the recipe's.", metavar="SOURCE")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; never overwritten.", metavar="DIR")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value of the recipe; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a network.

    The run's folder keeps the resolved recipe, results, curves, weights and a model card.
    """
    from swinkit.runs.train import train as run

    say(f"the run is in {run(recipe, data=data, model=model, out=out, overrides=changes or [], resume=resume)}")
