"""Operations of our own for machine code: the C++ files beside this one, compiled for this processor and loaded.

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

import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COMPILERS = ("g++", "clang++", "c++", "cl")
SOURCES = {"attend": ("attention.cpp",), "linear": ("linear.cpp", "layers.h"), "tiles": ("tiles.cpp", "layers.h")}

Operation = Callable[..., Any]


def compiler() -> str | None:
    """Return the C++ compiler that this needs, None where there is none."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def for_layers() -> str:
    """Return which of the two operations for linear layers is made for this processor."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    flags = pick_vec_isa().build_arch_flags()
    return "tiles" if "-mamx-int8" in flags else "linear"


def compiled(names: Iterable[str], folder: Path) -> dict[str, Operation]:
    """Write libraries with operations, by name out of ``SOURCES``, into a folder, load them and return the operations."""
    with ThreadPoolExecutor() as pool:  # the compiler is a process of its own
        libraries = dict(zip(names, pool.map(functools.partial(_written, folder=folder), names), strict=True))
    return {name: load(library) for name, library in libraries.items()}


def companion(operation: Operation, name: str) -> Operation:
    """Return another operation of the same library."""
    return getattr(torch.ops.swinkit, f"{operation.__name__.split('.')[0]}_{name}").default


def load(library: Path) -> Operation:
    """Return the operation of a library; a process learns each of its versions once."""
    name = library.stem
    if not hasattr(torch.ops.swinkit, name):
        torch.ops.load_library(str(library))
        for suffix, shaped in FAKES[name.split("_")[0]].items():
            torch.library.register_fake(f"swinkit::{name}{suffix}", shaped)
    return getattr(torch.ops.swinkit, name).default


def _written(name: str, folder: Path) -> Path:
    sources = [Path(__file__).with_name(file) for file in SOURCES[name]]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    library = folder / f"{name}_{digest[:12]}.so"
    library.write_bytes(_machine_code(sources[0], library.stem))
    return library


@functools.cache
def _machine_code(source: Path, name: str) -> bytes:
    """Return a file as inductor compiles what it writes itself, with torch's threads; ``name`` is the operation's."""
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    options = CppTorchOptions(pick_vec_isa(), warning_all=False, extra_flags=[f'-DNAME=\\"{name}\\"'])
    with tempfile.TemporaryDirectory() as folder:
        builder = CppBuilder(name, str(source), options, folder)
        builder.build()
        return Path(builder.get_target_file_path()).read_bytes()


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
