"""Networks that another library computes: an export, opened, and the proof that it still answers as it did.

The folder of an export::

    export.json                what it is: network, preparation, class names, sizes, blocks, errors, hash of every file, a seal
    canary.safetensors         what the network answered to seeded pictures, and its blocks' means
    224x224/model.*            one graph a declared size, any batch; pixels (B, C, H, W) uint8 in, normalisation inside
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.numpy import load
from torch import Tensor, nn

from swinkit.engines.kernels import compiler
from swinkit.engines.manifest import (
    CANARY,
    CODE,
    EXPORT_AGAIN,
    KINDS,
    LOOSEST,
    MACHINE_CODE,
    MANIFEST,
    Manifest,
    check_files,
    file_hash,
    fits_memory,
    graph_path,
    is_export,
)
from swinkit.errors import ExportError, InputError, SwinkitError, UnsafeFile, nearest
from swinkit.files import read_file
from swinkit.specs import ModelSpec

OPEN_SIZES = 4  # runtimes of other sizes are closed again
SAMPLES = 32  # cells a side of a label map that the canary keeps
LARGEST_CANARY = 2**28  # bytes
BYTES = np.dtype(np.uint8)


class Runtime(Protocol):
    """One graph, opened. Made by ``Runtime(path)`` of each of the modules in ``KINDS``."""

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Return the answers to (B, C, H, W) pixels of 0..255, uint8 or float32; arrays of the caller's own."""

    def blocks(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """Return what the blocks of these names gave, (B, h, w, C) each; slow, for a diagnosis."""


class Engine(nn.Module):
    """A finished network that is computed by other means than its own modules.

    Called like the network: (B, C, H, W) normalised float32 -> logits, or a list of maps. It takes uint8 pixels too, which
    saves the normalisation. Several threads may call it; they are answered one after the other.

    Args:
        name: "openvino", "onnxruntime", "torch" or "compile".
        spec: the network's description.
    """

    def __init__(self, name: str, spec: ModelSpec) -> None:
        super().__init__()
        self.name, self.spec = name, spec
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) for v in (spec.preprocessing.mean, spec.preprocessing.std))
        self._turn = threading.RLock()

    def run(self, pixels: Tensor) -> Tensor | list[Tensor]:
        """Answer (B, C, H, W) pixels of 0..255, uint8 or float32."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Answer normalised images, or uint8 pixels."""
        channels = len(self.spec.preprocessing.mean)
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images must be (B, {channels}, H, W), got {tuple(images.shape)}")
        if images.dtype != torch.uint8:
            mean, std = self.mean.to(images.device), self.std.to(images.device)
            images = (images.detach().float() * std + mean) * 255.0
        with self._turn:
            return self.run(images)


def open_runtime(to: str, path: Path) -> Runtime:
    """Open a graph with the library of its kind, which may be missing (``MissingExtraError``)."""
    return importlib.import_module(KINDS[to][0]).Runtime(path)


class ExportedEngine(Engine):
    """An export, opened: each size's graph when it is first asked for, after its canary has sung.

    Args:
        folder: of the export.
        trusted: open an export that is code ("torch", "aotinductor") though it is not this user's own.

    Attributes:
        manifest: its description.

    Raises:
        UnsafeFile: it is code that may do anything, and neither sealed by this user nor trusted.
        ExportError: files are missing, links or changed, and none was opened; or the graph answers otherwise than when it was
            written, and the message names the first block that differs.
        MissingExtraError: the library is not installed.
    """

    def __init__(self, folder: Path, trusted: bool = False) -> None:
        manifest = Manifest.read(folder)
        if manifest.to in CODE and not (trusted or manifest.sealed):
            raise UnsafeFile(
                f"{folder}: is an export to {manifest.to}, which is code that may do anything, and you did not write it on this "
                "machine; ask its author for OpenVINO or ONNX, or give --trust (trust=True) if you trust whoever made it"
            )
        super().__init__(KINDS[manifest.to][2], manifest.spec)
        self.folder, self.manifest = folder, manifest
        if manifest.to == MACHINE_CODE:
            _refuse_other_machines(folder, manifest)
        check_files(folder, manifest)
        self._expected = _canary(folder, manifest)
        self._runtimes: OrderedDict[tuple[int, int], Runtime] = OrderedDict()
        self._proved: set[tuple[tuple[int, int], np.dtype[Any]]] = set()  # size and kind of pixels
        self._runtime(self.manifest.sizes[0], BYTES)

    def run(self, pixels: Tensor) -> Tensor | list[Tensor]:
        """Answer (B, C, H, W) pixels of 0..255 of a declared size.

        Raises:
            InputError: a size that the export was not made for.
        """
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        if size not in self.manifest.sizes:
            known = ", ".join(f"{height}x{width}" for height, width in self.manifest.sizes)
            raise InputError(
                f"this export takes {known}, got {size[0]}x{size[1]}; export it with --size {size[0]}x{size[1]} too, "
                "or load the checkpoint itself"
            )
        given = pixels.detach().cpu().numpy()
        answers = [torch.from_numpy(answer) for answer in self._runtime(size, given.dtype)(given)]
        return answers if self.manifest.maps > 1 else answers[0]

    def _runtime(self, size: tuple[int, int], dtype: np.dtype[Any]) -> Runtime:
        """Return a size's graph, proved for this kind of pixels: bytes and floats may be other files, or other code."""
        if (size, dtype) in self._proved:
            self._runtimes.move_to_end(size)
            return self._runtimes[size]
        path = graph_path(self.folder, self.manifest.to, size)
        try:
            runtime = self._runtimes.get(size) or open_runtime(self.manifest.to, path)
            answers = runtime(canary_pixels(self.spec, size).astype(dtype))
        except SwinkitError:
            raise
        except Exception as error:  # each library has errors of its own
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"{path}: cannot be run ({type(error).__name__}: {reason}); {EXPORT_AGAIN}") from error
        worst = difference([sampled(answer) for answer in answers], self._of(size, "answer"))
        if not worst <= self.manifest.tolerance:
            cause = self._diagnosis(size) if dtype == BYTES else f"pixels of {dtype}"
            raise ExportError(
                f"{self.folder}: answers differ by {worst:.2g} from those it was written with at {size[0]}x{size[1]} "
                f"({cause}); export again on this machine: swinkit export"
            )
        self._runtimes[size] = runtime
        self._proved.add((size, dtype))
        if len(self._runtimes) > OPEN_SIZES:
            closed, _ = self._runtimes.popitem(last=False)
            self._proved = {proof for proof in self._proved if proof[0] != closed}
        return runtime

    def _of(self, size: tuple[int, int], what: str) -> list[np.ndarray]:
        return [self._expected[name] for name in _names_of(self.manifest, size, what)]

    def _diagnosis(self, size: tuple[int, int]) -> str:
        """Say which block is the first to answer otherwise; every file is the one that was written."""
        try:
            runtime = open_runtime(self.manifest.to, graph_path(self.folder, self.manifest.to, size))
            pixels = canary_pixels(self.spec, size)
            found = runtime.blocks(pixels, self.manifest.blocks)
        except Exception as error:  # noqa: BLE001 - each library has errors of its own; that is the diagnosis
            return f"its blocks cannot be run: {type(error).__name__}"
        for name, got, expected in zip(self.manifest.blocks, found, self._of(size, "block"), strict=False):
            worst = difference([block_mean(got)], [expected])
            if not worst <= self.manifest.tolerance / 10:
                return f"the first block that differs is {name}, by {worst:.2g}"
        return "all blocks agree" if found else "its blocks cannot be told apart"


def _names_of(manifest: Manifest, size: tuple[int, int], what: str) -> list[str]:
    count = manifest.maps if what == "answer" else len(manifest.blocks)
    return [f"{size[0]}x{size[1]}.{what}.{place}" for place in range(count)]


def _canary(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Return what the network answered, by name.

    Raises:
        ExportError: other values than the manifest's sizes, answers and blocks have, or none to hold a graph to.
    """
    path = folder / CANARY
    try:
        values = load(read_file(path, LARGEST_CANARY, ExportError, fix=EXPORT_AGAIN))
    except SwinkitError:
        raise
    except Exception as error:  # safetensors' own, and those of numpy for kinds of numbers that it has not
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"{path}: cannot be read ({reason}); {EXPORT_AGAIN}") from error
    answers = [name for size in manifest.sizes for name in _names_of(manifest, size, "answer")]
    blocks = [name for size in manifest.sizes for name in _names_of(manifest, size, "block")]
    axes = dict.fromkeys(answers, (2, 4)) | dict.fromkeys(blocks, (1,))
    fits = values.keys() == axes.keys() and all(
        value.dtype == np.float32 and value.ndim in axes[name] and value.size and np.isfinite(value).all()
        for name, value in values.items()
    )
    if not fits:
        raise ExportError(f"{path}: holds other values than {MANIFEST} says; {EXPORT_AGAIN}")
    loosest = max(LOOSEST, *(float(np.abs(values[name]).max()) / 10 for name in answers))
    if manifest.tolerance > loosest:  # any answer would do
        raise ExportError(f"{folder / MANIFEST}: its tolerance of {manifest.tolerance:.2g} proves nothing; {EXPORT_AGAIN}")
    return values


def _refuse_other_machines(folder: Path, manifest: Manifest) -> None:
    """Raise ExportError for machine code of another processor or torch, UnsafeFile for libraries that no hash guards."""
    made, here = [manifest.software.get(name, "") for name in ("torch", "processor")], [torch.__version__, processor()]
    if [text.partition("+")[0] for text in made] != [text.partition("+")[0] for text in here]:
        raise ExportError(
            f"{folder}: was compiled for torch {' on '.join(made)}, this is {' on '.join(here)}; export it again on this machine"
        )
    for height, width in manifest.sizes:
        for path in (folder / f"{height}x{width}").glob("*.so"):  # the runtime loads them by pattern
            if path.relative_to(folder).as_posix() not in manifest.files:
                raise UnsafeFile(f"{path}: is machine code that was not written with this export; remove it")


def processor() -> str:
    """Return what this machine's code is made for."""
    units = [name for name in ("avx512_vnni", "amx_int8") if has(name)]  # torch's compiler may use them
    return " ".join((platform.machine(), torch.backends.cpu.get_cpu_capability(), *units))


def has(unit: str) -> bool:
    """Say whether this processor has a unit, by torch's name of it; older torch knows of none."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get(unit))


def canary_pixels(spec: ModelSpec, size: tuple[int, int], batch: int = 1) -> np.ndarray:
    """Return seeded pictures, (B, C, height, width) uint8, the same on every machine: coarse patches with noise on them."""
    channels = len(spec.preprocessing.mean)
    if not fits_memory(size, channels):
        raise InputError(f"{size[0]}x{size[1]} pixels are more than an export may have; take a smaller size")
    rng = np.random.Generator(np.random.PCG64([7, *size, batch]))
    cells = rng.integers(0, 192, (batch, channels, -(-size[0] // 16), -(-size[1] // 16)), dtype=np.uint8)
    coarse = cells.repeat(16, axis=2).repeat(16, axis=3)[:, :, : size[0], : size[1]]
    return coarse + rng.integers(0, 64, coarse.shape, dtype=np.uint8)


def sampled(answer: np.ndarray) -> np.ndarray:
    """Return an answer as the canary keeps it: logits whole, of a map at most ``SAMPLES`` rows and columns."""
    if answer.ndim < 4:
        return answer
    rows, columns = (np.linspace(0, side - 1, min(side, SAMPLES)).round().astype(int) for side in answer.shape[2:])
    return np.ascontiguousarray(answer[:, :, rows][..., columns])


def block_mean(tokens: np.ndarray) -> np.ndarray:
    """Return the mean over all tokens, a value a channel: (B, h, w, C) -> (C,)."""
    return tokens.reshape(-1, tokens.shape[-1]).mean(axis=0, dtype=np.float64).astype(np.float32)


def difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Return the largest absolute difference; infinity when there are others, or values that are no numbers."""
    if len(found) != len(expected) or any(a.shape != b.shape for a, b in zip(found, expected, strict=False)):
        return float("inf")
    worst = max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(found, expected, strict=True))
    return worst if np.isfinite(worst) else float("inf")


def engine_kind(engine: str) -> str | None:
    """Return the row of ``KINDS`` that runs a checkpoint in this engine on a CPU, None for "torch".

    Raises:
        InputError: no such engine.
    """
    if engine not in ENGINES:
        raise InputError(f"there is no engine {engine!r}{nearest(engine, ENGINES)}; engines: {', '.join(ENGINES)}")
    return ENGINES[engine]


def fastest(device: torch.device) -> str:
    """Return the fastest engine that can run here and be ready in seconds (``docs/benchmarks/cpu.md``).

    On a CPU OpenVINO where it is installed, else "compile" where there is a C++ compiler, else torch; elsewhere torch. "compile"
    is quicker than OpenVINO, but writing its machine code takes far longer, for each size of picture anew.
    """
    if device.type != "cpu":
        return "torch"
    if importlib.util.find_spec("openvino") is not None:
        return "openvino"
    return "compile" if compiler() is not None else "torch"


# engine -> kind of the exports it runs
ENGINES: dict[str, str | None] = {"torch": None, "compile": MACHINE_CODE, "openvino": "openvino", "onnxruntime": "onnx"}

__all__ = [
    "CANARY", "CODE", "ENGINES", "KINDS", "MANIFEST", "OPEN_SIZES",
    "Engine", "ExportedEngine", "Manifest", "Runtime", "block_mean", "canary_pixels", "difference", "engine_kind", "fastest",
    "file_hash", "graph_path", "has", "is_export", "open_runtime", "processor", "sampled",
]  # fmt: skip
