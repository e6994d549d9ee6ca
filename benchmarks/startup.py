"""How long a person waits: imports and one answer beside torch's own import, and a large folder's memory and rate.

Run ``python -m benchmarks.startup [--model SOURCE] [--photos 1000]``. Every command is a fresh process; commands take turns, and
the figures are medians of five turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from swinkit.cards import machine

CLI = [sys.executable, "-c", "import sys; from swinkit.cli import main; sys.exit(main())"]


def make_photos(folder: Path, count: int) -> None:
    """Write ``count`` different JPEG photos of 1200 x 900 pixels."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((1200, 900), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:04}.jpg", quality=90)


def run(command: list[str]) -> tuple[float, float]:
    """Return (seconds, peak resident MB) of a command."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {said.decode()[-500:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="swin-nano-cifar10")
    parser.add_argument("--photos", type=int, default=1000)
    arguments = parser.parse_args()
    console = Console(width=110)
    console.print("; ".join(machine()))
    with tempfile.TemporaryDirectory() as temporary:
        few, many = Path(temporary) / "few", Path(temporary) / "many"
        make_photos(few, 10)
        make_photos(many, arguments.photos)
        predict = [*CLI, "predict", "--model", arguments.model]
        commands = {
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
            "import swinkit, every public name": [
                sys.executable,
                "-c",
                "import torch, swinkit; [getattr(swinkit, n) for n in swinkit.__all__]",
            ],
            "swinkit --help": [*CLI, "--help"],
            "swinkit predict, one photo": [*predict, str(few / "0000.jpg")],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(5):
            for name, command in commands.items():
                seconds[name].append(run(command)[0])
        table = Table("command", "seconds", "beyond torch's import")
        torch_alone = statistics.median(seconds["python -c 'import torch'"])
        for name, values in seconds.items():
            median = statistics.median(values)
            table.add_row(name, f"{median:.2f}", f"{median - torch_alone:+.2f}")
        console.print(table)
        table = Table("swinkit predict FOLDER", "seconds", "peak memory MB", "photos/s beyond the small folder")
        short, little = run([*predict, str(few)])
        long, much = run([*predict, str(many)])
        table.add_row("10 photos", f"{short:.1f}", f"{little:.0f}", "")
        table.add_row(
            f"{arguments.photos} photos", f"{long:.1f}", f"{much:.0f}", f"{(arguments.photos - 10) / (long - short):.1f}"
        )
        console.print(table)


if __name__ == "__main__":
    main()
