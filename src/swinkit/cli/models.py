"""``swinkit models``: every variant with its counted and its published figures."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from swinkit.cli.common import say, table
from swinkit.embedded import DEFAULT, embedded_path
from swinkit.models import list_models, task_of
from swinkit.models.systems import SYSTEMS, segmenter_macs, segmenter_parameters, system_variant
from swinkit.models.variants import EMBEDDED_NAME, RELEASES, count_macs, parameter_count


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List all models.

    Parameters and GFLOPs are counted from the shape; what the authors print stands beside.
    """
    rows = [model_facts(name) for name in list_models()]
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    lines = [["name", "task", "params M", "published", "GFLOPs", "published", "top-1 / mIoU %", "weights"]]
    say(table(lines + [_line(row) for row in rows]))


def model_facts(name: str) -> dict[str, Any]:
    """Return what is known about a variant, JSON-ready.

    ``params`` and ``gflops`` (multiply-adds of one image of ``img_size`` pixels, in thousand millions) are counted
    here; ``published_*``, ``top1`` and ``top5`` (ImageNet-1K, per cent) or ``miou`` are the authors', None where they print none.
    """
    if name in SYSTEMS:
        return _system_facts(name)
    release = RELEASES[name]
    variant, published = release.variant, release.published
    return {
        "name": name,
        "task": task_of(name),
        "embedded": name == EMBEDDED_NAME and embedded_path(DEFAULT) is not None,
        "params": parameter_count(variant),
        "gflops": round(count_macs(variant) / 1e9, 4),
        "published_params": published.params,
        "published_gflops": published.gflops,
        "top1": published.top1,
        "top5": published.top5,
        "training": release.training,
        "version": variant.version,
        "img_size": variant.img_size,
        "window_size": variant.window_size,
        "num_classes": variant.num_classes,
        "aliases": list(release.aliases),
    }


def _system_facts(name: str) -> dict[str, Any]:
    """Return the same of a segmentation system; its cost is at the size its authors name, auxiliary head left out."""
    system = SYSTEMS[name]
    variant = system_variant(system)
    return {
        "name": name,
        "task": task_of(name),
        "embedded": False,
        "params": sum(segmenter_parameters(variant, system.decoder).values()),
        "gflops": round(sum(segmenter_macs(variant, system.decoder, system.size).values()) / 1e9, 4),
        "published_params": None if system.params_m is None else system.params_m * 1e6,
        "published_gflops": system.gmacs,
        "top1": None,
        "top5": None,
        "miou": system.miou,
        "training": system.data,
        "version": variant.version,
        "img_size": list(system.size),
        "window_size": variant.window_size,
        "num_classes": variant.num_classes,
        "aliases": list(system.aliases),
    }


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
    ]


def _beside(counted: float, published: float | None, unit: float) -> str:
    """Return the published figure and how far ours is from it."""
    if published is None:
        return "-"
    digits = 3 if unit > 1 else 2
    return f"{published / unit:.{digits}f} ({100 * (counted / published - 1):+.2f} %)"
