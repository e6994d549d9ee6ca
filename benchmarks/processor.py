"""What this processor can do at most, and where its cores are, measured by ``processor.cpp``.

The cores of a virtual machine wander over those of its host. While they sit in one complex they share a cache; while they do not,
whatever one core writes and the other reads takes several times as long, and so does everything that is no product. And at times
two of them are one core of the host, which then does half as much for each.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import subprocess
import tempfile
from pathlib import Path

import torch

from swinkit.engines.kernels import compiler

# Seconds from core to core: about 30 ns in a complex of EPYC, more than 150 ns between two; 65 to 125 ns in a Xeon, whose cores
# all share one cache.
NEAR = 140e-9
APART = 1.4  # times as much as one core: what two do at least; about 1 while they are one, about 2 while they are two


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return ``processor.cpp``, compiled; None where there is no compiler or it cannot."""
    found = compiler()
    if found is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "processor.so"
        command = [
            found,
            "-O2",
            "-march=native",
            "-std=c++17",
            "-ffp-contract=fast",
            "-pthread",
            "-shared",
            "-fPIC",
            "-o",
            str(path),
        ]
        made = subprocess.run([*command, str(Path(__file__).with_suffix(".cpp"))], capture_output=True, check=False)
        if made.returncode:
            return None
        library = ctypes.CDLL(str(path))
    library.peak.restype = library.between.restype = ctypes.c_double
    return library


def peak() -> float:
    """Return the floating point operations a second that torch's number of threads can do at most; not a number if unknown."""
    return _peak(_cores()[: torch.get_num_threads()], 20_000_000, 5)


def place() -> str:
    """Return where the first two cores are: "near" or "far" from one another, or "one" if the host has one core for both.

    "near" too where there is one core, or nobody knows.
    """
    first, *others = _cores()
    short = 400_000  # steps: a millisecond
    if others and _peak([first, others[0]], short, 3) < APART * _peak([first], short, 3):
        return "one"
    return "far" if distance() > NEAR else "near"


def distance() -> float:
    """Return the seconds from the first core to the second; not a number where there is one core, or no compiler."""
    library, cores = _library(), _cores()
    if library is None or len(cores) < 2 or not hasattr(os, "sched_getaffinity"):
        return math.nan
    return float(library.between(cores[0], cores[1], 1000))


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))  # where no thread can be pinned


def _peak(cores: list[int], steps: int, rounds: int) -> float:
    library = _library()
    if library is None:
        return math.nan
    return max(library.peak((ctypes.c_int * len(cores))(*cores), len(cores), ctypes.c_long(steps)) for _ in range(rounds))
