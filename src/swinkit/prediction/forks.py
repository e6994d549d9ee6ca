"""Predictors in processes that ``os.fork`` made, where no thread of the parent lives on.

The pools of OpenMP, TBB and ONNX Runtime do not notice: the child waits for threads that are not there, for ever. Torch on a CPU
answers with one thread; nothing else can be mended from outside, and is refused with a sentence.
"""

from __future__ import annotations

import functools
import os

import torch

from swinkit.errors import RunError

_forks = 0  # between the first process that made a predictor and this one


def generation() -> int:
    """Return how often this process's line was forked since the first predictor; from then on a child's torch has one thread."""
    _watch()
    return _forks


def check(born: int, engine: str, device: torch.device) -> None:
    """Refuse what would wait for the threads of a parent.

    Args:
        born: ``generation()`` when the predictor was made.
        engine: what computes.
        device: where.

    Raises:
        RunError: the predictor is from before a fork, and is not torch on a CPU.
    """
    if born != _forks and (engine != "torch" or device.type != "cpu"):
        what = f"the engine {engine}" if device.type == "cpu" else str(device)
        raise RunError(
            f"this predictor was made before os.fork(), which {what} does not survive; start the process with "
            "multiprocessing.get_context('spawn') and load the model there"
        )


@functools.cache
def _watch() -> None:
    if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    global _forks
    _forks += 1
    torch.set_num_threads(1)  # the first parallel loop with more would never end
