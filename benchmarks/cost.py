"""Where a segmenter's multiply-adds go, part by part, as published systems are built and as this package computes them.

Run ``python -m benchmarks.cost [--size 512 2048]``. Counted from shapes (``swinkit.models.systems``; a test compares with torch's
own counter): matrix products and convolutions, auxiliary head left out.
"""

from __future__ import annotations

import argparse

from rich import box
from rich.console import Console
from rich.table import Table

from swinkit.models.systems import DEFAULT_DECODERS, SYSTEMS, segmenter_macs, system_variant
from swinkit.models.variants import resolve


def main() -> None:
    """Print a table a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="instead of the published sizes")
    arguments = parser.parse_args()
    console = Console(width=150)
    rows = {name: (system_variant(system), system.decoder, system.size) for name, system in SYSTEMS.items()}
    tiny = resolve("swin_tiny")[1].changed(num_classes=150)
    rows |= {f"{kind} on swin_tiny": (tiny, decoder, (512, 512)) for kind, decoder in DEFAULT_DECODERS.items()}
    parts = ["backbone", "pooling", "laterals", "smoothing", "fusion", "neck", "branches", "blocks", "head", "classifier"]
    table = Table(
        "system", "size", *parts, "total", "published", title="10^9 multiply-adds", box=box.SIMPLE, padding=(0, 1, 0, 0)
    )
    for name, (variant, decoder, size) in rows.items():
        size = tuple(arguments.size) if arguments.size else size
        for reordered in (False, True) if decoder.kind == "upernet" else (False,):
            counted = segmenter_macs(variant, decoder, size, reordered)
            cells = [f"{counted[part] / 1e9:.1f}" if part in counted else "" for part in parts]
            published = SYSTEMS[name].gmacs if name in SYSTEMS and not reordered and not arguments.size else None
            label = "  as computed here" if reordered else name
            total = f"{sum(counted.values()) / 1e9:.1f}"
            table.add_row(label, f"{size[0]}x{size[1]}", *cells, total, "" if published is None else f"{published:g}")
    console.print(table)


if __name__ == "__main__":
    main()
