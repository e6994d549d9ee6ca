"""What the folder of an export says of itself: ``export.json``, sealed by the user who wrote it, and the files that belong to it.

Nothing here opens a graph. Every size is bounded before it is used, and only names that this module makes itself are opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swinkit.engines.seal import is_sealed, seal
from swinkit.errors import ExportError
from swinkit.files import EXPORT_MANIFEST as MANIFEST
from swinkit.files import open_file, parse_json, read_file
from swinkit.specs import ModelSpec

CANARY = "canary.safetensors"
MACHINE_CODE = "aotinductor"
# what an export is written as -> (module of its runtime, name of a graph's file, engine that runs it)
KINDS = {
    "openvino": ("swinkit.engines.openvino", "model.xml", "openvino"),
    "onnx": ("swinkit.engines.onnx", "model.onnx", "onnxruntime"),
    "torch": ("swinkit.engines.program", "model.pt2", "torch"),
    MACHINE_CODE: ("swinkit.engines.native", "model.pt2", "compile"),
}
CODE = frozenset({"torch", MACHINE_CODE})  # kinds whose files may do anything once they are opened; the others are data
# kind -> the other files of a size that its runtime opens
_BESIDE = {"openvino": ("model.bin",), "onnx": ("floats.onnx", "model.onnx.data"), "torch": (), MACHINE_CODE: ()}
_LIBRARY = re.compile(r"[a-z]+(_[0-9a-z]+)+\.so")  # of machine code, below a size
EXPORT_AGAIN = "export again: swinkit export"
LARGEST_MANIFEST = 16_000_000  # bytes
LARGEST_FILE = 2**34
LONGEST_SIDE = 16384  # pixels
LARGEST_PICTURE = 2**26  # values of one picture of a size: its proof takes some ten times as many bytes
MOST_SIZES, MOST_MAPS, MOST_BLOCKS = 256, 64, 4096
LOOSEST = 0.01  # tolerance of an exact export


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
        sealed: read from a file that a process of this user wrote (``swinkit.engines.seal``).
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
    sealed: bool = field(default=False, compare=False)

    def to_json(self) -> str:
        """Return the file's text, which ends with the hash of the rest and this user's seal of it."""
        values = {**vars(self), "spec": self.spec.to_dict()}
        del values["sealed"]
        text = _canonical(values)
        return json.dumps({**values, "sha256": hashlib.sha256(text).hexdigest(), "seal": seal(text)}, indent=1)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check ``export.json``; nothing else is opened.

        Raises:
            ExportError: absent, too large, a link, edited, or not of the expected form.
        """
        path = folder / MANIFEST
        refuse_links(folder, MANIFEST)
        data = read_file(path, LARGEST_MANIFEST, ExportError, fix=EXPORT_AGAIN)
        values = parse_json(data, str(path), ExportError, EXPORT_AGAIN)
        if not isinstance(values, dict):
            raise ExportError(f"{path}: is no description of an export; {EXPORT_AGAIN}")
        digest, mark = values.pop("sha256", None), values.pop("seal", "")  # exports of version 0.1.0 have no seal
        text = _canonical(values)
        if digest != hashlib.sha256(text).hexdigest():
            raise ExportError(f"{path}: was changed after it was written; {EXPORT_AGAIN}")
        try:
            found = cls._checked(values)
        except Exception as error:  # whatever is wrong with it, it is no description
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"{path}: is no description of an export ({reason}); {EXPORT_AGAIN}") from error
        found.sealed = isinstance(mark, str) and is_sealed(text, mark)
        return found

    @classmethod
    def _checked(cls, values: dict[str, Any]) -> Manifest:
        """Return the values as a manifest, or raise what says which field is of another kind or out of range."""
        found = cls(**{**values, "spec": ModelSpec.from_dict(values["spec"]), "sealed": False})
        found.sizes = [(height, width) for height, width in found.sizes]
        channels = len(found.spec.preprocessing.mean)
        checks = {
            "to": isinstance(found.to, str) and found.to in KINDS,
            "precision": found.precision in ("fp32", "int8"),
            "maps": _whole(found.maps, 1, MOST_MAPS),
            "sizes": 0 < len(found.sizes) <= MOST_SIZES
            and len(set(found.sizes)) == len(found.sizes)
            and all(fits_memory(size, channels) for size in found.sizes),
            "blocks": isinstance(found.blocks, list) and len(found.blocks) <= MOST_BLOCKS and _texts(found.blocks),
            "errors": len(found.errors) == len(found.sizes) and all(_real(error, math.inf) for error in found.errors),
            # The tolerance of eight bits is bounded by their canary (``swinkit.engines.exported``).
            "tolerance": _real(found.tolerance, LOOSEST if found.precision == "fp32" else math.inf),
            "software": _texts([*found.software, *found.software.values()]),
            "facts": isinstance(found.facts, dict),
        }
        wrong = [name for name, right in checks.items() if not right]
        if wrong:
            raise ValueError(f"{wrong[0]} is out of range")
        found._check_files()
        return found

    def _check_files(self) -> None:
        """Raise ValueError unless ``files`` names all that a runtime opens, and nothing else."""
        needed, folders = {CANARY}, [f"{height}x{width}" for height, width in self.sizes]
        for folder in folders:
            needed |= {f"{folder}/{name}" for name in (KINDS[self.to][1], *_BESIDE[self.to])}
        missing = sorted(needed - self.files.keys())
        if missing:
            raise ValueError(f"files lacks {missing[0]}")
        for name, digest in self.files.items():
            folder, _, file = name.partition("/")
            library = self.to == MACHINE_CODE and folder in folders and _LIBRARY.fullmatch(file)
            if name not in needed and not library:
                raise ValueError(f"files names {name[:100]}, which belongs to no export")
            if not isinstance(digest, str):
                raise ValueError(f"files has no hash of {name}")


def fits_memory(size: tuple[int, int], channels: int) -> bool:
    """Say whether a (height, width) in pixels is one that an export may have."""
    return all(_whole(side, 1, LONGEST_SIDE) for side in size) and size[0] * size[1] * channels <= LARGEST_PICTURE


def graph_path(folder: Path, to: str, size: tuple[int, int]) -> Path:
    """Return where the graph of a size lies."""
    return folder / f"{size[0]}x{size[1]}" / KINDS[to][1]


def is_export(path: Path) -> bool:
    """Say whether a folder holds an export."""
    return (path / MANIFEST).is_file()


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise ExportError unless every file of an export is there, no link, and has the bytes that were written."""
    for name, digest in manifest.files.items():
        refuse_links(folder, name)
        if file_hash(folder / name) != digest:
            raise ExportError(f"{folder / name}: is not the file that was written; {EXPORT_AGAIN}")


def refuse_links(folder: Path, name: str) -> None:
    """Raise ExportError when a file of an export, or a folder in between, is a link: it would lead to other files."""
    for part in (folder / name, *(folder / parent for parent in Path(name).parents if parent.name)):
        if part.is_symlink():
            raise ExportError(f"{part}: is a link; copy the file itself to its place")


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file; ExportError when it cannot be read."""
    digest = hashlib.sha256()
    with open_file(path, LARGEST_FILE, ExportError, fix=EXPORT_AGAIN) as file:
        try:
            for part in iter(lambda: file.read(2**20), b""):
                digest.update(part)
        except OSError as problem:
            raise ExportError(f"{path}: cannot be read ({problem.strerror}); {EXPORT_AGAIN}") from problem
    return digest.hexdigest()


def _canonical(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True).encode()


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _real(value: Any, most: float) -> bool:
    return isinstance(value, float) and math.isfinite(value) and 0.0 <= value <= most


def _texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
