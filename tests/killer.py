"""Runs jobs that kill themselves: a script for ``test_kills.py``, which says one a line on stdin and reads how each ended.

Everything slow is imported once; each job is a fork of this process. A job says what to run, the folder whose changes count
(files opened for writing, renamed, removed ...), after which of these changes to die, and how many seconds later.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests import tiny_run

from swinkit.cli import main

# What the jobs import late, and slowly.
LATE = (
    "accelerate", "matplotlib.pyplot", "onnxruntime", "onnxscript", "openvino", "torch._dynamo", "torch.export",
    "torch.utils.tensorboard", "swinkit.export", "swinkit.prediction", "swinkit.runs.export", "swinkit.engines.openvino",
)  # fmt: skip

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "shutil.rmtree"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def count_changes(watched: str, last: int | None, delay: float) -> list[int]:
    """Count changes below a folder from now on, and die ``delay`` seconds after change number ``last``."""
    count = [0]

    def die() -> None:
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            changes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & WRITES)
        else:
            changes, path = event in CHANGES, arguments[0] if arguments else None
        if changes and isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(watched):
            count[0] += 1
            if count[0] == last:
                threading.Thread(target=die, daemon=True).start() if delay else os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(see)
    return count


def train(folder: str) -> int:
    place = Path(folder)
    work = tiny_run.TinyWork(24)
    tiny_run.run(place, (place / "state.safetensors").exists(), work, epochs=3, save_minutes=1e-9, ema_decay=0.9)
    return 0


def run(job: dict[str, Any]) -> None:
    """Run a job in this process, a fork, and end it."""
    code = 1
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["SWINKIT_CACHE"] = job["cache"]
    work: Callable[[], int] = (lambda: train(job["words"][1])) if job["words"][0] == "tiny" else (lambda: main(job["words"]))
    count = count_changes(job["watched"], job["at"], job["delay"])
    try:
        code = work()
    finally:
        sys.stdout.flush()
        Path(f"{job['log']}.count").write_text(str(count[0]))
        os._exit(code)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for module in LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
