"""Files to tensors, with no size believed before it is bounded and no code ever run.

safetensors files are checked against their own header before they are mapped, pickled ones (``.pth``, ``.bin``) instruction by
instruction (``pickled.py``); one that wants code is refused.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from swinkit.errors import CheckpointError, UnsafeFile, brief, refusing
from swinkit.files import open_file, parse_json, read_text
from swinkit.weights.pickled import load_pickle

MAX_FILE = 16 << 30  # bytes; the largest released Swin has 2.8 GB
MAX_HEADER = 16 << 20
MAX_JSON = 32 << 20  # the config of a 22K model has 1.7 MB
MAX_TENSORS = 5000  # the largest Swin has 1,000, with a detector around it 2,000
MAX_PARTS = 1000
# What a safetensors file may hold, and the bytes of one number: what torch sums and converts everywhere.
KINDS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_PLAIN = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
_PLAIN |= {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
PICKLED = {".pth", ".pt", ".bin", ".ckpt"}
SUFFIXES = PICKLED | {".safetensors"}
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_SHARD_LISTS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a checkpoint file or directory, and its text metadata.

    Args:
        path: a safetensors file, a file of ``torch.save``, or a directory with ``model.safetensors`` or
            ``pytorch_model.bin`` (in one piece or in several with an index).

    Returns:
        Names as they stand in the file, out of their containers (``state_dict``, ``model``) and without ``module.``;
        all tensors are dense, on the CPU, and hold as many values as they say.

    Raises:
        UnsafeFile: it would run code, or announces more than it holds.
        CheckpointError: it is no checkpoint, is cut short, or of a kind that cannot be used.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in weight_files(path):
        part, said = _read_file(file)
        twice = sorted(set(part) & set(tensors))
        if twice:
            raise CheckpointError(f"{file}: tensor {brief(twice[0])!r} is in another part already; download the parts again")
        tensors |= part
        metadata |= said
        if len(tensors) > MAX_TENSORS:
            raise UnsafeFile(f"{path}: holds more than {MAX_TENSORS:,} tensors; give a file with one network's weights")
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors; give a file with a network's weights")
    return tensors, metadata


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of bounded size.

    Raises:
        CheckpointError: no regular file, too large, no JSON, or no object.
    """
    text = read_text(path, MAX_JSON, CheckpointError, fix="download it again")
    value = parse_json(text, str(path), CheckpointError, "download it again")
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__} where an object was expected; download it again")
    return value


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a directory, safetensors preferred; a file is its own.

    Raises:
        CheckpointError: the directory has none, or several to choose from.
    """
    if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises where a folder above may not be entered
        return [folder]
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be listed ({error.strerror}); check the folder's permissions") from error
    names = {entry.name for entry in entries}
    for name, shards in zip(SINGLE_FILES, _SHARD_LISTS, strict=True):
        if name in names:
            return [folder / name]
        if shards in names:
            return _shards(folder / shards)
    best = folder / "weights" / "best.safetensors"  # of a training run
    if os.path.lexists(best):
        return [best]
    others = [p for p in entries if p.suffix == ".safetensors"] or [p for p in entries if p.suffix in PICKLED]
    if len(others) == 1:
        return others
    if others:
        raise CheckpointError(f"{folder}: holds {len(others)} weight files ({others[0].name}, ...); give one of them")
    if "tf_model.h5" in names:
        raise CheckpointError(f"{folder}: holds only TensorFlow weights (tf_model.h5); give a PyTorch or safetensors file")
    raise CheckpointError(f"{folder}: holds no weights; it needs {SINGLE_FILES[0]} or {SINGLE_FILES[1]}")


def _shards(index: Path) -> list[Path]:
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping or len(mapping) > MAX_TENSORS:
        raise CheckpointError(f"{index}: has no weight_map that names the parts; download it again")
    return [index.parent / name for name in shard_names(index, mapping.values())]


def shard_names(index: Path, names: Iterable[Any]) -> list[str]:
    """Return the distinct names of a checkpoint's parts, each a plain file name.

    Raises:
        UnsafeFile: a name leads out of the folder.
    """
    found: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,255}\.(safetensors|bin)", name) or name.startswith("."):
            raise UnsafeFile(f"{index}: names the part {brief(name)!r}, which is no plain file name; do not use this checkpoint")
        found.add(name)
    if len(found) > MAX_PARTS:
        raise UnsafeFile(f"{index}: names {len(found):,} parts, more than {MAX_PARTS:,}; do not use this checkpoint")
    return sorted(found)


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if re.search(r"\.rank\d+$", path.stem) or re.search(r"\.rank\d+$", path.name):
        raise CheckpointError(f"{path}: is a part of a Swin-MoE (mixture of experts), which swinkit does not have")
    with open_file(path, MAX_FILE, CheckpointError, fix="give a checkpoint's file") as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(16)
    if size < 16:
        raise CheckpointError(f"{path}: has only {size} bytes, no checkpoint; download it again")
    if head.startswith(b"\x89HDF"):
        raise CheckpointError(f"{path}: is a TensorFlow file (HDF5); give the PyTorch or safetensors file of that model")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path, size)
        return _bounded(path, size, tensors), metadata
    if head.startswith(b"PK\x03\x04") or head[:1] == b"\x80":
        return _bounded(path, size, _unwrap(path, load_pickle(path, size))), {}
    raise CheckpointError(
        f"{path}: is no checkpoint (it begins with {head[:8]!r}); give a .safetensors file or one written by torch.save"
    )


def _read_safetensors(path: Path, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    names = _check_header(path, size)
    with refusing(CheckpointError, f"{path}: is damaged", "download it again"), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in names}
        metadata = file.metadata() or {}
    return _unwrap(path, tensors), metadata


def _check_header(path: Path, size: int) -> list[str]:
    """Return the tensors' names after comparing what the header announces with the file, before anything is mapped.

    By hand: the bounds hold before the library maps the file, and messages say which tensor is wrong.
    """
    with open_file(path, size, CheckpointError, fix="download it again") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise UnsafeFile(
                f"{path}: announces a header of {length:,} bytes, more than the {MAX_HEADER:,} allowed; "
                "it is no safetensors file or was made to harm"
            )
        if length + 8 > size:
            raise CheckpointError(
                f"{path}: is cut short (its header ends at byte {length + 8:,}, found {size:,}); download it again"
            )
        raw = file.read(length)
    header = parse_json(raw, f"{path}: the header", CheckpointError, "download it again")
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is no list of tensors; download it again")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise UnsafeFile(f"{path}: announces {len(header):,} tensors, more than {MAX_TENSORS:,}; give one network's weights")
    end = max((_end(path, name, entry) for name, entry in header.items()), default=0)
    expected = 8 + length + end
    if expected > size:
        raise CheckpointError(f"{path}: is cut short (expected {expected:,} bytes, found {size:,}); download it again")
    return list(header)


def _end(path: Path, name: str, entry: Any) -> int:
    """Return where a tensor's values end, after checking that it has a kind and a shape that fill its bytes."""
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        fits = all(type(number) is int and number >= 0 for number in numbers) and len(shape) <= 64
    except Exception as error:
        raise CheckpointError(f"{path}: its header says no kind, shape and place of {brief(name)}; download it again") from error
    if not isinstance(kind, str) or kind not in KINDS:
        raise CheckpointError(
            f"{path}: {brief(name)} holds numbers of the kind {brief(kind)}; save it as F32, F16 or BF16 where it was made"
        )
    if not fits or math.prod(shape) * KINDS[kind] != end - begin:
        raise CheckpointError(f"{path}: its header gives {brief(name)} another size than its shape; download it again")
    return end


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the state dict inside the usual containers, without the prefix of data-parallel training."""
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a table of tensors; save a state_dict")
    others = [name for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{path}: {len(others)} entries are no tensors (first: {brief(others[0])!r}); save the network's state_dict alone"
        )
    return {name.removeprefix("module."): value for name, value in content.items()}


def _bounded(path: Path, size: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Refuse tensors of odd kinds, and those that look larger than what is stored (views that repeat one value)."""
    total = 0
    for key, tensor in tensors.items():
        name = brief(key)
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(f"{path}: tensor {name!r} is sparse, quantized, complex or empty of data; save plain values")
        if tensor.dtype not in _PLAIN:
            raise CheckpointError(f"{path}: {name} holds {tensor.dtype}; save it as float32, float16 or bfloat16 instead")
        total += tensor.numel() * tensor.element_size()
        if total > size:
            raise UnsafeFile(f"{path}: its tensors announce more than the {size:,} bytes of the file; do not use it")
        # The sum is quick and finite only when all values are; a finite tensor may still overflow it.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; the training that wrote it had failed")
    return {name: tensor.detach() for name, tensor in tensors.items()}
