"""Networks that another library computes: the files of an export, and the proof that they still answer as they did.

The folder of an export::

    export.json                what it is: network, preparation, class names, sizes, blocks, errors, hash of every file
    canary.safetensors         what the network answered to seeded pictures, and its blocks' means
    224x224/model.*            one graph a declared size, any batch; pixels (B, C, H, W) uint8 in, normalisation inside
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import platform
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from swinkit.engines.operations import compiler
from swinkit.errors import ExportError, InputError, SwinkitError, UnsafeFile, nearest
from swinkit.files import EXPORT_MANIFEST as MANIFEST
from swinkit.specs import ModelSpec

CANARY = "canary.safetensors"
# what an export is written as -> (module of its runtime, name of a graph's file, engine that runs it)
KINDS = {
    "openvino": ("swinkit.engines.openvino", "model.xml", "openvino"),
    "onnx": ("swinkit.engines.onnx", "model.onnx", "onnxruntime"),
    "torch": ("swinkit.engines.program", "model.pt2", "torch"),
    "aotinductor": ("swinkit.engines.native", "model.pt2", "compile"),
}
MACHINE_CODE = "aotinductor"  # the kind that is not only data
OPEN_SIZES = 4  # runtimes of other sizes are closed again
SAMPLES = 32  # cells a side of a label map that the canary keeps
LARGEST_MANIFEST = 16_000_000


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


@dataclass
class Manifest:
    """What ``export.json`` says.

    Args:
        to: row of ``KINDS``.
        spec: description of the network.
        maps: number of answers: 1, or that of a pyramid's maps.
        sizes: (height, width) of each graph, in the order asked for.
        blocks: names of the blocks, first to last.
        errors: largest difference from the network's own answers when it was written, a size each.
        precision: "fp32" or "int8".
        tolerance: how far the canary may be off.
        files: name -> SHA-256 of every file but this one.
        software: versions it was made with.
        facts: further plain facts (accuracy before and after INT8 ...).
    """

    to: str
    spec: ModelSpec
    maps: int
    sizes: list[tuple[int, int]]
    blocks: list[str]
    errors: list[float]
    precision: str = "fp32"
    tolerance: float = 1e-4
    files: dict[str, str] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the file's text, which ends with the hash of the rest."""
        values = {**vars(self), "spec": self.spec.to_dict()}
        return json.dumps({**values, "sha256": _hash_of(values)}, indent=1)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check ``export.json``.

        Raises:
            ExportError: absent, too large, edited, or not of the expected form.
        """
        path = folder / MANIFEST
        try:
            if path.stat().st_size > LARGEST_MANIFEST:
                raise ExportError(f"{path}: {path.stat().st_size:,} bytes are too many for an export's description")
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("sha256") != _hash_of(values):
                raise ExportError(f"{path}: was changed after it was written; export again: swinkit export")
            values["spec"] = ModelSpec.from_dict(values["spec"])
            values["sizes"] = [(int(height), int(width)) for height, width in values["sizes"]]
            found = cls(**values)
            fits = found._fits()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ExportError(f"{path}: is no description of an export ({error}); export again: swinkit export") from error
        if not fits:
            raise ExportError(f"{path}: is no description of an export; export again: swinkit export")
        return found

    def _fits(self) -> bool:
        """Say whether the values are of the kinds and in the bounds that the rest relies on."""
        texts = [self.precision, *self.blocks, *self.files, *self.files.values(), *self.software, *self.software.values()]
        checks = [
            self.to in KINDS,
            self.precision in ("fp32", "int8"),
            0 < self.maps <= 64,
            isinstance(self.tolerance, float),
            isinstance(self.facts, dict),
            all(isinstance(text, str) for text in texts),
            not any(Path(name).is_absolute() or ".." in Path(name).parts for name in self.files),
            bool(self.sizes) and all(0 < side <= 16384 for size in self.sizes for side in size),
            len(self.errors) == len(self.sizes) and all(isinstance(error, float) for error in self.errors),
        ]
        return all(checks) and self._names() <= self.files.keys()

    def _names(self) -> set[str]:
        """Return the files without which it is no export."""
        return {CANARY, *(f"{height}x{width}/{KINDS[self.to][1]}" for height, width in self.sizes)}


def _hash_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def graph_path(folder: Path, to: str, size: tuple[int, int]) -> Path:
    """Return where the graph of a size lies."""
    return folder / f"{size[0]}x{size[1]}" / KINDS[to][1]


def open_runtime(to: str, path: Path) -> Runtime:
    """Open a graph with the library of its kind, which may be missing (``MissingExtraError``)."""
    return importlib.import_module(KINDS[to][0]).Runtime(path)


def is_export(path: Path) -> bool:
    """Say whether a folder holds an export."""
    return (path / MANIFEST).is_file()


class ExportedEngine(Engine):
    """An export, opened: each size's graph when it is first asked for, after its canary has sung.

    Args:
        folder: of the export.
        trusted: open machine code too, which may do anything.

    Attributes:
        manifest: its description.

    Raises:
        UnsafeFile: it holds machine code.
        ExportError: files are missing, changed, or answer otherwise than when they were written; the message names the
            first block that differs.
        MissingExtraError: the library is not installed.
    """

    def __init__(self, folder: Path, trusted: bool = False) -> None:
        manifest = Manifest.read(folder)
        super().__init__(KINDS[manifest.to][2], manifest.spec)
        self.folder, self.manifest = folder, manifest
        if manifest.to == MACHINE_CODE:
            _refuse_machine_code(folder, manifest, trusted)
        self._runtimes: OrderedDict[tuple[int, int], Runtime] = OrderedDict()
        changed = changed_files(folder, self.manifest)
        if CANARY in changed:
            raise ExportError(f"{folder / CANARY}: is missing or was changed; export again: swinkit export")
        try:
            self._expected = load_file(folder / CANARY)
        except (SafetensorError, ValueError, OSError) as error:
            raise ExportError(f"{folder / CANARY}: cannot be read ({error}); export again: swinkit export") from error
        if changed:
            sizes = self.manifest.sizes
            size = next((size for size in sizes if changed[0].startswith(f"{size[0]}x{size[1]}/")), sizes[0])
            raise ExportError(
                f"{folder / changed[0]}: is not the file that was written ({self._diagnosis(size)}); export again: swinkit export"
            )
        self._runtime(self.manifest.sizes[0])

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
        answers = [torch.from_numpy(answer) for answer in self._runtime(size)(pixels.detach().cpu().numpy())]
        return answers if self.manifest.maps > 1 else answers[0]

    def _runtime(self, size: tuple[int, int]) -> Runtime:
        if size in self._runtimes:
            self._runtimes.move_to_end(size)
            return self._runtimes[size]
        path = graph_path(self.folder, self.manifest.to, size)
        try:
            runtime = open_runtime(self.manifest.to, path)
            answers = runtime(canary_pixels(self.spec, size))
        except SwinkitError:
            raise
        except Exception as error:  # each library has errors of its own
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"{path}: cannot be run ({type(error).__name__}: {reason}); swinkit export it again") from error
        worst = difference([sampled(answer) for answer in answers], self._of(size, "answer"))
        if not worst <= self.manifest.tolerance:
            raise ExportError(
                f"{self.folder}: answers differ by {worst:.2g} from those it was written with at {size[0]}x{size[1]} "
                f"({self._diagnosis(size)}); export again on this machine: swinkit export"
            )
        self._runtimes[size] = runtime
        if len(self._runtimes) > OPEN_SIZES:
            self._runtimes.popitem(last=False)
        return runtime

    def _of(self, size: tuple[int, int], what: str) -> list[np.ndarray]:
        prefix = f"{size[0]}x{size[1]}.{what}."
        keys = sorted((key for key in self._expected if key.startswith(prefix)), key=lambda key: int(key.rsplit(".", 1)[1]))
        return [self._expected[key].numpy() for key in keys]

    def _diagnosis(self, size: tuple[int, int]) -> str:
        """Say which block is the first to answer otherwise."""
        try:
            runtime = open_runtime(self.manifest.to, graph_path(self.folder, self.manifest.to, size))
            pixels = canary_pixels(self.spec, size)
            found = runtime.blocks(pixels, self.manifest.blocks)
            answers = [sampled(answer) for answer in runtime(pixels)]
        except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way; that is the diagnosis
            return f"it cannot be run: {type(error).__name__}"
        for name, got, expected in zip(self.manifest.blocks, found, self._of(size, "block"), strict=False):
            worst = difference([block_mean(got)], [expected])
            if not worst <= self.manifest.tolerance / 10:
                return f"the first block that differs is {name}, by {worst:.2g}"
        worst = difference(answers, self._of(size, "answer"))
        if worst <= self.manifest.tolerance:
            return "it still answers as it did"
        if not found:
            return f"the answer differs by {worst:.2g}"
        return f"all blocks agree, the answer differs by {worst:.2g}"


def _refuse_machine_code(folder: Path, manifest: Manifest, trusted: bool) -> None:
    """Raise UnsafeFile for code nobody vouches for, ExportError for code of another processor or torch."""
    if not trusted:
        raise UnsafeFile(
            f"{folder}: holds machine code, which is run and may do anything; if you made it yourself, ask for it: "
            "engine='compile' (--engine compile)"
        )
    made, here = [manifest.software.get(name, "") for name in ("torch", "processor")], [torch.__version__, processor()]
    if [text.partition("+")[0] for text in made] != [text.partition("+")[0] for text in here]:
        raise ExportError(
            f"{folder}: was compiled for torch {' on '.join(made)}, this is {' on '.join(here)}; export it again on this machine"
        )
    for path in folder.rglob("*.so"):  # the runtime loads them by pattern
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


def changed_files(folder: Path, manifest: Manifest) -> list[str]:
    """Return the names of files that are missing or have other bytes than the manifest says."""
    places = {name: folder / name for name in manifest.files}
    return [name for name, path in places.items() if not path.is_file() or file_hash(path) != manifest.files[name]]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canary_pixels(spec: ModelSpec, size: tuple[int, int], batch: int = 1) -> np.ndarray:
    """Return seeded pictures, (B, C, height, width) uint8, the same on every machine: coarse patches with noise on them."""
    channels = len(spec.preprocessing.mean)
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
