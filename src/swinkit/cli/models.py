"""``swinkit models``: every variant and every embedded model with its counted and its published figures."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from swinkit.cli.common import say
from swinkit.embedded import DEFAULT, embedded_names
from swinkit.models import list_models
from swinkit.models.catalogue import embedded_facts, model_facts
from swinkit.printing import table


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List all models.

    Parameters and GFLOPs are counted from the shape; what the authors print stands beside. Embedded weights have their
    own licence, which need not be the code's.
    """
    rows = [model_facts(name) for name in list_models()]
    rows += [embedded_facts(name) for name in embedded_names() if name != DEFAULT]
    if as_json:
        say(json.dumps(rows, indent=2).split("\n"))
        return
    lines = [["name", "task", "params M", "published", "GFLOPs", "published", "top-1 / mIoU %", "weights", "licence"]]
    say(table(lines + [_line(row) for row in rows]))


def _line(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        row["task"],
        f"{row['params'] / 1e6:.3f}",
        _beside(row["params"], row["published_params"], 1e6),
        f"{row['gflops']:.2f}",
        _beside(row["gflops"], row["published_gflops"], 1.0),
        next((f"{row[key]:.1f}" for key in ("top1", "miou") if row.get(key) is not None), "-"),
        "embedded" if row["embedded"] else "elsewhere",
        row["licence"] or "-",
    ]


def _beside(counted: float, published: float | None, unit: float) -> str:
    """Return the published figure and how far ours is from it."""
    if published is None:
        return "-"
    digits = 3 if unit > 1 else 2
    return f"{published / unit:.{digits}f} ({100 * (counted / published - 1):+.2f} %)"
