"""The engine ``auto``: the quickest that is already built; where none is, torch answers while one is built beside it.

The build runs in a process of its own, at the lowest priority and with one thread: tracing a network and torch's compiler are
Python that holds its lock for seconds, and both change state of the whole process, so a thread would stop the answers or disturb
them. The process ends with this one, however that ends: it reads a pipe whose other end lies here, and the system closes it. What
it leaves unfinished is a ``.part`` folder that the next start sweeps.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from swinkit import weights
from swinkit.engines.exported import ENGINES, OPEN_SIZES, Engine, fastest
from swinkit.engines.manifest import MACHINE_CODE
from swinkit.errors import SwinkitError
from swinkit.export.cache import PlainEngine, Shelf, Size, digest_of
from swinkit.export.write import default_size
from swinkit.specs import ModelSpec
from swinkit.tasks.table import task_of

QUICKEST = (MACHINE_CODE, "openvino", "onnx")  # first to last (docs/benchmarks/cpu.md)


class AutoEngine(Engine):
    """The quickest engine that is built for a size; until one is, torch.

    Args:
        network: with its weights, in ``eval()``, on the CPU.
        spec: its description.
        source: what ``swinkit.load`` was given: the other process loads it again.
        cache: as for ``OnDemandEngine``.

    Attributes:
        name: of the engine that answered last.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec, source: str, cache: Path | None = None) -> None:
        super().__init__("torch", spec)
        self.source, self._plain = source, PlainEngine(network, spec)
        digest = digest_of(network, spec)
        self._shelves = [Shelf(network, spec, kind, cache, digest) for kind in QUICKEST]
        self._engines: OrderedDict[Size, Engine] = OrderedDict()
        self._builds: dict[Size, Build | None] = {}  # None: it ended without an export, and is not tried again
        if spec.preprocessing.resize in ("squash", "shorter"):
            self._engine(default_size(spec))

    def run(self, pixels: Tensor) -> Tensor | list[Tensor]:
        """Answer (B, C, H, W) pixels of 0..255 of any size."""
        return self._engine((int(pixels.shape[2]), int(pixels.shape[3]))).run(pixels)

    @property
    def note(self) -> str:
        """What a user should know when the answers are given: that an engine is not built yet, and how to build it."""
        if self.name != "torch" or not self._builds:
            return ""
        kind = fastest(torch.device("cpu"))
        return (
            f"torch answered, for no faster engine is built yet; build {kind} once: swinkit benchmark {self.source} "
            f"--engine {kind}, or --engine {kind} here"
        )

    def _engine(self, size: Size) -> Engine:
        if size not in self._engines:
            found = self._found(size)
            if found is None:
                self.name = "torch"
                return self._plain
            self._engines[size] = found
            if len(self._engines) > OPEN_SIZES:
                self._engines.popitem(last=False)
        self._engines.move_to_end(size)
        self.name = self._engines[size].name
        return self._engines[size]

    def _found(self, size: Size) -> Engine | None:
        """Return what is built for a size; where nothing is, begin to build, one size at a time."""
        build = self._builds.get(size)
        if size in self._builds:
            if build is None or build.running:
                return None
            self._builds[size] = None
        for shelf in self._shelves:
            # A library that is missing now, or fails, leaves the next kind.
            with contextlib.suppress(SwinkitError):
                engine = shelf.find(size)
                if engine is not None:
                    return engine
        kind = ENGINES[fastest(torch.device("cpu"))]
        busy = any(build is not None and build.running for build in self._builds.values())
        if size not in self._builds and kind is not None and not busy:
            shelf = next(shelf for shelf in self._shelves if shelf.to == kind)
            self._builds[size] = Build(self.source, shelf, size)
        return None


class Build:
    """An export that another process makes; it ends when this one does, or forgets it.

    Args:
        source: to load, as for ``swinkit.load``.
        shelf: where the export belongs.
        size: (height, width) in pixels.
    """

    def __init__(self, source: str, shelf: Shelf, size: Size) -> None:
        # -P: a folder that happens to be the current one holds no modules of ours.
        words = [sys.executable, "-P", "-m", __name__, source, shelf.to, f"{size[0]}x{size[1]}", str(shelf.root), shelf.digest]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # no process to be had: torch goes on answering
            self._process = subprocess.Popen(  # noqa: S603 - this module
                words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
                start_new_session=True,
            )  # fmt: skip
            self._end = weakref.finalize(self, _end, self._process, os.getpid())

    @property
    def running(self) -> bool:
        """Whether it still builds."""
        return self._process is not None and self._process.poll() is None


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """End a process and the compilers that it started; at the end of this process, and when a build is forgotten."""
    if os.getpid() != owner:  # a fork, which has only a copy of this
        return
    with contextlib.suppress(OSError):  # it is gone
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.wait()


def main(source: str, kind: str, size: str, root: str, digest: str) -> None:
    """Make one export, as ``python -m swinkit.prediction.auto`` in a process of its own."""
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(19)
    torch.set_num_threads(1)
    checkpoint = weights.load_checkpoint(source)
    with torch.device("meta"):
        network = task_of(checkpoint.spec).network(checkpoint.spec)
    weights.load_into(network, checkpoint)
    shelf = Shelf(network.eval(), checkpoint.spec, kind, Path(root))
    height, width = (int(side) for side in size.split("x"))
    if shelf.digest == digest and shelf.usable():  # else the weights were changed meanwhile
        shelf.make((height, width))


def _end_with_the_caller() -> None:
    sys.stdin.buffer.read()  # until the other end is closed, by the caller or because it is gone
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)  # the compilers too: the session is this process's own
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
