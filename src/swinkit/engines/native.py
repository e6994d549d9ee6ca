"""AOTInductor: a graph compiled by torch into machine code of this processor (``model.pt2``), run without Python.

Its linear layers are oneDNN's with packed weights, bias, GELU and residual in one pass; attention is ``attention.cpp``, compiled
beside it (``attend_*.so``); everything between is fused. A package is a program like any other: whoever opens one runs it, so
``ExportedEngine`` opens none that it was not told to trust.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx

from swinkit.engines.memory import keep_memory
from swinkit.engines.program import with_outputs
from swinkit.errors import InputError

COMPILERS = ("g++", "clang++", "c++", "cl")
ATTENTION = Path(__file__).with_name("attention.cpp")
VECTOR = 16  # floats; the width of a head must be a multiple of the vectors of any processor
aten = torch.ops.aten


def compiler() -> str | None:
    """Return the C++ compiler that writing needs, None where there is none."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def write(
    program: torch.export.ExportedProgram, path: Path, answers: Sequence[str], _blocks: Sequence[str], _described: str
) -> None:
    """Compile a program's answers, for any batch and float pixels; the blocks are fused away.

    Raises:
        InputError: there is no C++ compiler.
    """
    if compiler() is None:
        raise InputError("the engine compile needs a C++ compiler, and there is none; install g++, or use another engine")
    module = _own_attention(with_outputs(program, range(len(answers))), path.parent)
    example = program.example_inputs[0][0].float()
    with torch.no_grad():  # weights are not packed in inference mode
        floats = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},))
        torch._inductor.aoti_compile_and_package(
            floats, package_path=str(path), inductor_configs={"freezing": True, "cpp.dynamic_threads": True}
        )


def _own_attention(module: fx.GraphModule, folder: Path) -> fx.GraphModule:
    """Let a graph call ``attention.cpp``, compiled into the folder, where it has attention with a bias."""
    found = [node for node in module.graph.nodes if _suits(node)]
    if not found:
        return module
    attend = compile_attention(folder)
    for node in found:
        query, key, value, bias = node.args
        width = query.meta["val"].shape[3]
        once = bias
        while once.target in (aten.reshape.default, aten.view.default, aten.clone.default):
            once = once.args[0]
        if once.target is aten.expand.default and once.args[0].meta["val"].shape[1:] == bias.meta["val"].shape[1:]:
            bias = once.args[0]  # the operation repeats it for the batch by itself
        with module.graph.inserting_before(node):
            bias = module.graph.call_function(aten.contiguous.default, (bias,))  # a constant, so done when compiled
            ours = module.graph.call_function(attend, (query, key, value, bias, node.kwargs.get("scale") or width**-0.5))
        node.replace_all_uses_with(ours)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _suits(node: fx.Node) -> bool:
    """Say whether a node is attention as ``attention.cpp`` does it; a backbone of another library may have other forms."""
    if node.target is not aten.scaled_dot_product_attention.default or len(node.args) != 4:
        return False
    if not all(isinstance(part, fx.Node) for part in node.args):
        return False
    query, key, value, bias = (part.meta["val"] for part in node.args if isinstance(part, fx.Node))
    if query.ndim != 4 or bias.ndim != 4 or bias.dtype != torch.float32 or node.kwargs.get("enable_gqa"):
        return False
    heads, tokens, width = query.shape[1:]
    alike = all(part.shape[1:] == query.shape[1:] for part in (key, value))
    return alike and width % VECTOR == 0 and bias.shape[1:] == (heads, tokens, tokens)


def compile_attention(folder: Path) -> Callable[..., Tensor]:
    """Write ``attention.cpp``, compiled for this processor, into a folder and load it.

    Returns:
        The operation (query, key, value, bias, scale) -> softmax(scale q k^T + bias) v: three times (M, heads, T, D), D a
        multiple of 16, bias (P, heads, T, T) of which row m takes m % P; float32 on the CPU, no gradients.
    """
    library = folder / f"attend_{hashlib.sha256(ATTENTION.read_bytes()).hexdigest()[:12]}.so"
    library.write_bytes(_machine_code(library.stem))
    return _load(library)


@functools.cache
def _machine_code(name: str) -> bytes:
    """Return ``attention.cpp`` as inductor compiles what it writes itself, with torch's threads; ``name`` is the operation's."""
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    options = CppTorchOptions(pick_vec_isa(), warning_all=False, extra_flags=[f'-DNAME=\\"{name}\\"'])
    with tempfile.TemporaryDirectory() as folder:
        builder = CppBuilder(name, str(ATTENTION), options, folder)
        builder.build()
        return Path(builder.get_target_file_path()).read_bytes()


def _load(library: Path) -> Callable[..., Tensor]:
    """Return the operation of a compiled ``attention.cpp``; a process learns each of its versions once."""
    name = library.stem
    if not hasattr(torch.ops.swinkit, name):
        torch.ops.load_library(str(library))
        torch.library.register_fake(f"swinkit::{name}", lambda q, *_: q.new_empty(q.transpose(1, 2).shape).transpose(1, 2))
    return getattr(torch.ops.swinkit, name).default


class Runtime:
    """A package, loaded."""

    def __init__(self, path: Path) -> None:
        keep_memory()
        for library in path.parent.glob("attend_*.so"):
            _load(library)
        self._run = torch._inductor.aoti_load_package(str(path))

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            answers = self._run(torch.from_numpy(np.ascontiguousarray(pixels)).float())
        return [answer.numpy() for answer in answers]

    def blocks(self, _pixels: np.ndarray, _names: Sequence[str]) -> list[np.ndarray]:
        return []  # there are none any more
