"""How long a person waits: imports and one answer beside torch's own import, a large folder's memory and rate, ``compile``.

Run ``python -m benchmarks.startup [--model SOURCE] [--photos 1000]``, or with ``--compile`` for what the engine ``compile`` costs
alone: building it for a processor that knows nothing yet, for a second network, and every later start. Every command is a fresh
process; commands take turns, and the figures are medians of five turns, those of builds single ones. Seconds of builds are of
the processor, the command's and those of its compilers, for they use all cores.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
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

from swinkit.runs.card import machine

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


def processor_seconds(command: list[str], cache: Path) -> float:
    """Return the seconds of processor time of a command and its children, with a cache of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=os.environ | {"SWINKIT_CACHE": str(cache)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compiled(photo: Path, source: str, console: Console) -> None:
    """Print what ``--engine compile`` costs: the first build, one where the processor's part is there, and later starts."""
    predict = [*CLI, "predict", "--model", source, str(photo)]
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary) / "cache"
        first = processor_seconds([*predict, "--engine", "compile"], cache)
        turns = [[processor_seconds(words, cache) for words in (predict, [*predict, "--engine", "compile"])] for _ in range(5)]
        torch_alone, later = (statistics.median(values) for values in zip(*turns, strict=True))
        shutil.rmtree(cache / "exports")
        second = processor_seconds([*predict, "--engine", "compile"], cache)
    table = Table(f"--engine compile, {source}", "processor seconds", "beyond torch's")
    rows = {"torch": torch_alone, "first build": first, "build, operations there": second, "built": later}
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.1f}", f"{seconds - torch_alone:+.1f}")
    console.print(table)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="swin-nano-cifar10")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--compile", action="store_true", help="what the engine compile costs, alone")
    arguments = parser.parse_args()
    console = Console(width=110)
    console.print("; ".join(machine()))
    with tempfile.TemporaryDirectory() as temporary:
        few, many = Path(temporary) / "few", Path(temporary) / "many"
        make_photos(few, 10)
        if arguments.compile:
            compiled(few / "0000.jpg", arguments.model, console)
            return
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
