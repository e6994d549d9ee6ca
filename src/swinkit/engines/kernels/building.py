"""How the C++ of this folder becomes operations of torch: compiled for this processor, kept, loaded; or why it does not.

What the operations compute stands in ``reference.py``; everything a maintainer should know in ``README.md``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from swinkit.engines.kernels.reference import SHAPES
from swinkit.engines.seal import cache_home, is_sealed, private_folder, seal
from swinkit.errors import InputError
from swinkit.files import atomic_write, read_file, sweep

COMPILERS = ("g++", "clang++", "c++", "cl")
SWITCH = "SWINKIT_KERNELS"  # "0" switches the kernels off
LAYERS = ("layers.h", "tensors.h")
SOURCES = {"attend": ("attention.cpp", "tensors.h"), "linear": ("linear.cpp", *LAYERS), "tiles": ("tiles.cpp", *LAYERS)}
MARK = 64  # letters of a seal, in front of a library that is kept
LARGEST = 64_000_000  # bytes of a library

# What a compiler says, and what to do about it.
REMEDIES = (
    (r"omp\.h|gomp|libomp|fopenmp", "install OpenMP for g++ (libgomp)"),
    (r"Python\.h", "install Python's headers (python3-dev)"),
    (r"\w+(\.h|\.hpp)?: No such file", "install the headers of g++ (libstdc++-dev, libc6-dev)"),
)

Operation = Callable[..., Any]


class CannotBuild(Exception):
    """The kernels cannot be built here: a sentence's part that says why and what to do."""


class NoCompiler(InputError):
    """There is no C++ compiler, or none that works, and so no machine code."""


def compiler() -> str | None:
    """Return the C++ compiler that torch is given: ``$CXX``, or the first of ``COMPILERS``; None where there is none."""
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX", "").strip() else COMPILERS
    return next((found for name in names if (found := shutil.which(name))), None)


def why_not() -> str | None:
    """Return why kernels are not even tried here, and what to do; "" where they are switched off, None where they are tried."""
    if os.environ.get(SWITCH) == "0":
        return ""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return f"they are made for Linux on x86-64, this is {platform.system()} on {platform.machine()}; try the engine openvino"
    found = compiler()
    if found is None:
        return "there is no C++ compiler; install g++"
    name = Path(found).name
    return None if "g++" in name and "clang" not in name else f"they are made for g++, and {name} is what was found; install g++"


def state() -> str:
    """Return what an export that calls the kernels hangs on: "off", or a digest of their sources. Quick: nothing is compiled."""
    return "off" if why_not() is not None else _digest(file for files in SOURCES.values() for file in files)


def for_layers() -> str:
    """Return which of the two operations for linear layers is made for this processor."""
    return _layers(_vectors())


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Let torch's compiler write for what this processor has, without the programs that it tries out for that in each process.

    Our own libraries have been compiled and loaded with the same flags; where that failed, or they are off, torch tries itself.
    """
    with torch._inductor.config.patch({"cpp.vec_isa_ok": _trusted() if why_not() is None else None, **_compiler_of_torch()}):
        yield


def _compiler_of_torch() -> dict[str, Any]:
    """Let torch take the compiler that was found: by itself it looks for g++ only."""
    found = compiler()
    return {} if found is None or os.environ.get("CXX") else {"cpp.cxx": (None, Path(found).name)}


def compiled(names: Iterable[str], folder: Path) -> dict[str, Operation]:
    """Write libraries with operations, by name out of ``SOURCES``, into a folder, load them and return the operations.

    They are compiled once for a processor and a torch; a folder gets copies, so that an export stands alone.

    Raises:
        CannotBuild: the compiler fails, or what it made cannot be loaded; nothing is left in the folder.
    """
    operations, libraries = {}, []
    try:
        vectors = _vectors()
        for name, code in _machine_code(tuple(names), vectors).items():
            libraries.append(folder / f"{_version(name, vectors)}.so")
            libraries[-1].write_bytes(code)
            operations[name] = load(libraries[-1])
            _describe(name, libraries[-1].stem)
    except (RuntimeError, subprocess.SubprocessError) as error:  # torch's CppCompileError is a RuntimeError
        for library in libraries:
            library.unlink(missing_ok=True)
        raise CannotBuild(f"they could not be compiled ({error_in(error)}, or set {SWITCH}=0") from error
    return operations


def error_in(error: Exception) -> str:
    """Return the first error of a compiler's words, ")" and what to do about it."""
    text = str(getattr(error, "output", None) or error)
    lines = [line for line in text.splitlines() if re.search(r"\berror:|cannot find|not found|no working", line, re.IGNORECASE)]
    said = " ".join((lines or text.splitlines() or [type(error).__name__])[0].split())[-150:]
    return f"{said}); " + next((remedy for pattern, remedy in REMEDIES if re.search(pattern, said)), "mend or reinstall g++")


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
def _describe(name: str, version: str) -> None:
    """Tell torch's compiler the shapes of the answers."""
    for suffix, shaped in SHAPES[name].items():
        torch.library.register_fake(f"swinkit::{version}{suffix}", shaped)


def _version(name: str, vectors: Any) -> str:
    """Return the name of an operation of these vectors, this torch, this processor and these files, as in a library's name.

    Several versions may be open in one process, and none is taken for another: ``attend_avx512_2141cpu_0123456789ab``.
    """
    isa = str(vectors).split()[-1].replace("_", "") if vectors else "default"
    made = re.sub("[^0-9a-z]", "", torch.__version__.lower())
    return f"{name}_{isa}_{made}_{_digest(SOURCES[name], _units())}"


def _units() -> str:
    """Return what else the processor has: the compiler is told to use all there is."""
    return str(sorted(getattr(torch.cpu, "get_capabilities", dict)().items()))


def _digest(files: Iterable[str], *more: str) -> str:
    found = hashlib.sha256(" ".join(more).encode())
    for file in files:
        found.update(Path(__file__).with_name(file).read_bytes())
    return found.hexdigest()[:12]


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
                library = Path(folder) / f"{_version(name, vectors)}.so"
                library.write_bytes(code)
                load(library)
        except (RuntimeError, OSError, subprocess.SubprocessError):  # torch's CppCompileError is the first
            return None
    return True


def _layers(vectors: Any) -> str:
    return "tiles" if "-mamx-int8" in vectors.build_arch_flags() else "linear"


def _machine_code(names: tuple[str, ...], vectors: Any) -> dict[str, bytes]:
    with ThreadPoolExecutor() as pool:  # the compiler is a process of its own
        return dict(zip(names, pool.map(functools.partial(_library, vectors=vectors), names), strict=True))


@functools.cache
def _library(name: str, vectors: Any, flags: tuple[str, ...] = ()) -> bytes:
    """Return a library as inductor compiles what it writes itself, with torch's threads; kept for other processes.

    Tests have further flags: sanitisers, and tiles in plain C++.
    """
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions, get_compiler_version_info, get_cpp_compiler

    version = _version(name, vectors)
    options = CppTorchOptions(vectors, warning_all=False, extra_flags=[f'-DNAME=\\"{version}\\"', *flags])
    with tempfile.TemporaryDirectory() as folder:
        builder = CppBuilder(version, str(Path(__file__).with_name(SOURCES[name][0])), options, folder)
        made_of = (torch.__version__, _units(), get_compiler_version_info(get_cpp_compiler()))
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
