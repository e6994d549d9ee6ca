"""What this processor can do at most, and whether its cores share a cache, measured by ``processor.cpp``.

The cores of a virtual machine wander over those of its host. While they sit in one complex they share a cache; while they do not,
whatever one core writes and the other reads takes several times as long, and so does everything that is no product.
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

from swinkit.engines.operations import compiler

# Seconds from core to core: about 30 ns in a complex of EPYC, more than 150 ns between two; 65 to 125 ns in a Xeon, whose cores
# all share one cache.
NEAR = 140e-9


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
    library, cores = _library(), _cores()
    threads = min(torch.get_num_threads(), len(cores))
    return math.nan if library is None else max(library.peak((ctypes.c_int * threads)(*cores), threads) for _ in range(5))


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
