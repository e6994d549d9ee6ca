"""Operations of our own for machine code: the C++ files beside this one, compiled for this processor, kept, and loaded.

``attend`` (``attention.cpp``): (query, key, value, bias, scale, places, rows) -> softmax(scale q k^T + bias) v: three times
(M, heads, T, D), D a multiple of 16, bias (P, heads, T, T) of which row m takes m % P; of maps of N windows each places, (N T,),
where each token of these lies in the map, from 0 to rows - 1, or rows for none -> (M / N, rows, heads D).

``linear`` (``linear.cpp``): (x, packed, columns, bias, added, curved, eps, index) -> x (..., K), or of x (B, L, K / p) the tokens
that index (rows, p) names, p of them side by side in a row, normalised without weights if there is an eps, times weights
(columns, K); plus bias, (columns,) or None; GELU if curved; plus added, (..., columns) or None. K is a multiple of 32, columns
of 64 or of 96. Two companions: ``mlp`` is (x, packed, hidden, bias, packed2, columns, bias2, added, eps, index) -> two of them,
GELU between; ``pack`` is weights -> packed. ``tiles`` (``tiles.cpp``) is the same for processors that multiply tiles (AMX).

All float32 on the CPU, no gradients.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swinkit.engines.seal import cache_home, is_sealed, private_folder, seal
from swinkit.errors import InputError
from swinkit.files import atomic_write, read_file, sweep

COMPILERS = ("g++", "clang++", "c++", "cl")
LAYERS = ("layers.h", "tensors.h")
SOURCES = {"attend": ("attention.cpp", "tensors.h"), "linear": ("linear.cpp", *LAYERS), "tiles": ("tiles.cpp", *LAYERS)}
MARK = 64  # letters of a seal, in front of a library that is kept
LARGEST = 64_000_000  # bytes of a library

Operation = Callable[..., Any]


def compiler() -> str | None:
    """Return the C++ compiler that this needs, None where there is none."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def for_layers() -> str:
    """Return which of the two operations for linear layers is made for this processor."""
    return _layers(_vectors())


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Let torch's compiler write for what this processor has, without the programs that it tries out for that in each process.

    Our own libraries have been compiled and loaded with the same flags; where that failed torch tries for itself.
    """
    with torch._inductor.config.patch({"cpp.vec_isa_ok": _trusted()}):
        yield


def compiled(names: Iterable[str], folder: Path) -> dict[str, Operation]:
    """Write libraries with operations, by name out of ``SOURCES``, into a folder, load them and return the operations.

    They are compiled once for a processor and a torch; a folder gets copies, so that an export stands alone.
    """
    operations = {}
    for name, code in _machine_code(tuple(names), _vectors()).items():
        library = folder / f"{_version(name)}.so"
        library.write_bytes(code)
        operations[name] = load(library)
        _describe(name)
    return operations


def companion(operation: Operation, name: str) -> Operation:
    """Return another operation of the same library."""
    return getattr(torch.ops.swinkit, f"{operation.__name__.split('.')[0]}_{name}").default


def load(library: Path) -> Operation:
    """Return the operation of a library; a process learns each of its versions once."""
    name = library.stem
    if not hasattr(torch.ops.swinkit, name):
        torch.ops.load_library(str(library))
    return getattr(torch.ops.swinkit, name).default


@functools.cache
def _describe(name: str) -> None:
    """Tell torch's compiler the shapes of the answers."""
    for suffix, shaped in FAKES[name].items():
        torch.library.register_fake(f"swinkit::{_version(name)}{suffix}", shaped)


def _version(name: str) -> str:
    """Return an operation's name with a digest of its files: several versions of it may be open in one process."""
    sources = b"".join(Path(__file__).with_name(file).read_bytes() for file in SOURCES[name])
    return f"{name}_{hashlib.sha256(sources).hexdigest()[:12]}"


def _vectors() -> Any:
    """Return the vectors of this processor, as torch's compiler calls them."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    with settings():
        return pick_vec_isa()


@functools.cache
def _trusted() -> bool | None:
    """Return True where what the processor says it has can be compiled for and loaded, else None: torch is to find out."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    with torch._inductor.config.patch({"cpp.vec_isa_ok": True}), tempfile.TemporaryDirectory() as folder:
        vectors = pick_vec_isa()
        try:
            for name, code in _machine_code(("attend", _layers(vectors)), vectors).items():
                library = Path(folder) / f"{_version(name)}.so"
                library.write_bytes(code)
                load(library)
        except (RuntimeError, OSError):  # torch's CppCompileError is the first
            return None
    return True


def _layers(vectors: Any) -> str:
    return "tiles" if "-mamx-int8" in vectors.build_arch_flags() else "linear"


def _machine_code(names: tuple[str, ...], vectors: Any) -> dict[str, bytes]:
    with ThreadPoolExecutor() as pool:  # the compiler is a process of its own
        return dict(zip(names, pool.map(functools.partial(_library, vectors=vectors), names), strict=True))


@functools.cache
def _library(name: str, vectors: Any) -> bytes:
    """Return a library as inductor compiles what it writes itself, with torch's threads; kept for other processes."""
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions, get_compiler_version_info, get_cpp_compiler

    options = CppTorchOptions(vectors, warning_all=False, extra_flags=[f'-DNAME=\\"{_version(name)}\\"'])
    with tempfile.TemporaryDirectory() as folder:
        builder = CppBuilder(_version(name), str(Path(__file__).with_name(SOURCES[name][0])), options, folder)
        units = sorted(getattr(torch.cpu, "get_capabilities", dict)().items())  # the compiler is told to use all there are
        made_of = (torch.__version__, units, get_compiler_version_info(get_cpp_compiler()))
        recipe = f"{made_of} {builder.get_command_line().replace(folder, '')}".encode()
        code = _kept(recipe)
        if code is None:
            builder.build()
            code = Path(builder.get_target_file_path()).read_bytes()
            _keep(recipe, code)
    return code


def _kept(recipe: bytes) -> bytes | None:
    """Return the library that this user's processes made by a recipe, None where there is none."""
    place = _place(recipe)
    with contextlib.suppress(InputError, OSError):
        if place.is_symlink():  # it cannot be ours
            place.unlink()
        data = read_file(place, LARGEST)
        if is_sealed(recipe + data[MARK:], data[:MARK].decode(errors="replace")):
            return data[MARK:]
    return None


def _keep(recipe: bytes, code: bytes) -> None:
    mark, place = seal(recipe + code), _place(recipe)
    if mark and private_folder(place.parent):
        with contextlib.suppress(OSError):  # a full disk costs time, later
            sweep(place.parent)
            atomic_write(place, mark.encode() + code)


def _place(recipe: bytes) -> Path:
    return cache_home() / "kernels" / hashlib.sha256(recipe).hexdigest()[:32]


def _attended(query: Tensor, _k: Tensor, _v: Tensor, _bias: Tensor, _scale: float, places: Tensor, rows: int) -> Tensor:
    many, heads, tokens, width = query.shape
    return query.new_empty(many // (places.shape[0] // tokens), rows, heads * width)


def _multiplied(x: Tensor, _packed: Tensor, columns: int, _b: Any, _added: Any, _curved: bool, _eps: Any, index: Any) -> Tensor:
    return x.new_empty(*(x.shape[:-1] if index is None else (x.shape[0], index.shape[0])), columns)


def _multiplied_twice(
    x: Tensor, packed: Tensor, _h: int, _b: Any, _p2: Tensor, columns: int, _b2: Any, added: Any, eps: Any, index: Any
) -> Tensor:
    return _multiplied(x, packed, columns, None, added, False, eps, index)


_LAYERS: dict[str, Operation] = {"": _multiplied, "_mlp": _multiplied_twice}
FAKES: dict[str, dict[str, Operation]] = {"attend": {"": _attended}, "linear": _LAYERS, "tiles": _LAYERS}
