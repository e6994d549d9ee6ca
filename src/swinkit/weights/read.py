"""Files to tensors, with no size believed before it is bounded and no code ever run.

safetensors files are checked against their own header before they are mapped. Pickled files (``.pth``, ``.bin``) are
only read by torch's weights-only unpickler; one that wants code is refused.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from swinkit.errors import CheckpointError, InputError, UnsafeFile

MAX_FILE = 16 << 30  # bytes; the largest released Swin has 2.8 GB
MAX_HEADER = 16 << 20
MAX_PICKLE = 64 << 20
MAX_JSON = 32 << 20  # the config of a 22K model has 1.7 MB
MAX_TENSORS = 100_000
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
    files = weight_files(path)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        part, said = _read_file(file)
        twice = sorted(set(part) & set(tensors))
        if twice:
            raise CheckpointError(f"{file}: tensor {twice[0]!r} is in another part already; download the parts again")
        tensors |= part
        metadata |= said
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors; give a file with a network's weights")
    return tensors, metadata


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of bounded size.

    Raises:
        CheckpointError: too large, no JSON, or no object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise UnsafeFile(f"{path}: has {size:,} bytes, more than the {MAX_JSON:,} such a file may have")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: is no JSON ({_first_line(error)}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__} where an object was expected; download it again")
    return value


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a directory, safetensors preferred; a file is its own.

    Raises:
        CheckpointError: the directory has none, or several to choose from.
    """
    if not folder.is_dir():
        return [folder]
    for name, shards in zip(SINGLE_FILES, _SHARD_LISTS, strict=True):
        if (folder / name).is_file():
            return [folder / name]
        if (folder / shards).is_file():
            return _shards(folder / shards)
    if (folder / "weights" / "best.safetensors").is_file():  # the folder of a training run
        return [folder / "weights" / "best.safetensors"]
    others = sorted(folder.glob("*.safetensors")) or sorted(p for p in folder.iterdir() if p.suffix in PICKLED)
    if len(others) == 1:
        return others
    if others:
        raise CheckpointError(f"{folder}: holds {len(others)} weight files ({others[0].name}, ...); give one of them")
    if (folder / "tf_model.h5").exists():
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
    found = sorted({str(name) for name in names})
    for name in found:
        if not re.fullmatch(r"[\w.-]+\.(safetensors|bin)", name) or name.startswith("."):
            raise UnsafeFile(f"{index}: names the part {name!r}, which is no plain file name; do not use this checkpoint")
    return found


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if re.search(r"\.rank\d+$", path.stem) or re.search(r"\.rank\d+$", path.name):
        raise CheckpointError(f"{path}: is a part of a Swin-MoE (mixture of experts), which swinkit does not have")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if size > MAX_FILE:
        raise UnsafeFile(f"{path}: has {size:,} bytes, more than the {MAX_FILE:,} a checkpoint may have")
    if size < 16:
        raise CheckpointError(f"{path}: has only {size} bytes, no checkpoint; download it again")
    if head.startswith(b"\x89HDF"):
        raise CheckpointError(f"{path}: is a TensorFlow file (HDF5); give the PyTorch or safetensors file of that model")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path, size)
    if head.startswith(b"PK\x03\x04") or head[:1] == b"\x80":
        return _bounded(path, size, _unwrap(path, _unpickle(path, size))), {}
    raise CheckpointError(
        f"{path}: is no checkpoint (it begins with {head[:8]!r}); give a .safetensors file or one written by torch.save"
    )


def _read_safetensors(path: Path, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    _check_header(path, size)
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise UnsafeFile(f"{path}: announces {len(names):,} tensors, more than {MAX_TENSORS:,}")
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, RuntimeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: is damaged ({_first_line(error)}); download it again") from error
    return _bounded(path, size, _unwrap(path, tensors)), metadata


def _check_header(path: Path, size: int) -> None:
    """Compare what the header announces with the file's size before anything is mapped."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
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
    try:
        header = json.loads(raw)
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is no list of tensors ({_first_line(error)}); download it again") from error
    expected = 8 + length + max(ends, default=0)
    if expected > size:
        raise CheckpointError(f"{path}: is cut short (expected {expected:,} bytes, found {size:,}); download it again")


def _unpickle(path: Path, size: int) -> Any:
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_zip(path, size)
    elif path.open("rb").read(4) == b"PK\x03\x04":
        raise CheckpointError(f"{path}: is cut short (found {size:,} bytes, its table at the end is missing); download it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise UnsafeFile(f"{path}: {_pickle_advice(error)}") from error
    except (EOFError, OSError) as error:
        raise CheckpointError(f"{path}: is cut short ({size:,} bytes: {_first_line(error)}); download it again") from error
    except Exception as error:
        if "TorchScript" in str(error):
            raise UnsafeFile(f"{path}: is a TorchScript program, not weights; give the file of its state_dict") from error
        raise CheckpointError(f"{path}: is damaged ({_first_line(error)}); download it again") from error


def _check_zip(path: Path, size: int) -> None:
    """Refuse archives that unpack to more than they are: torch writes its members uncompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged ({_first_line(error)}); download it again") from error
    if len(members) > MAX_TENSORS or sum(member.file_size for member in members) > size:
        raise UnsafeFile(f"{path}: unpacks to more than the {size:,} bytes it has; do not use it")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise UnsafeFile(f"{path}: is a compressed archive, which torch.save never writes; unpack it and give the file in it")
        if member.filename.endswith(".pkl") and member.file_size > MAX_PICKLE:
            raise UnsafeFile(f"{path}: its pickle has {member.file_size:,} bytes, more than the {MAX_PICKLE:,} allowed")


def _pickle_advice(error: Exception) -> str:
    wanted = re.search(r"(?:GLOBAL|global|class|instruction)\s+([\w.]+)", str(error))
    what = f" ({wanted.group(1)})" if wanted else ""
    return (
        f"is a pickle that wants code to be run{what} and is not loaded; where you trust its origin, open it there and save "
        "the tensors alone: torch.save({'model': checkpoint['model']}, 'weights.pth')"
    )


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the state dict inside the usual containers, without the prefix of data-parallel training."""
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a table of tensors; save a state_dict")
    others = [str(name) for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{path}: {len(others)} entries are no tensors (first: {others[0]!r}); save the network's state_dict alone"
        )
    return {name.removeprefix("module."): value for name, value in content.items()}


def _bounded(path: Path, size: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Refuse tensors of odd kinds, and those that look larger than what is stored (views that repeat one value)."""
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(f"{path}: tensor {name!r} is sparse, quantized, complex or empty of data; save plain values")
        total += tensor.numel() * tensor.element_size()
        if total > size:
            raise UnsafeFile(f"{path}: its tensors announce more than the {size:,} bytes of the file; do not use it")
        # The sum is quick and finite only when all values are; a finite tensor may still overflow it.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; the training that wrote it had failed")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
