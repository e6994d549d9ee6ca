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
from operator import attrgetter
from pathlib import Path
from typing import Any

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
VIEWS = (aten.reshape.default, aten.view.default, aten.flatten.using_ints, aten.unflatten.int)


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
    module = with_outputs(program, range(len(answers)))
    _axes_of_norms(module)
    _own_attention(module, path.parent)
    example = program.example_inputs[0][0].float()
    with torch.no_grad():  # weights are not packed in inference mode
        floats = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},))
        torch._inductor.aoti_compile_and_package(
            floats, package_path=str(path), inductor_configs={"freezing": True, "cpp.dynamic_threads": True}
        )


def _own_attention(module: fx.GraphModule, folder: Path) -> None:
    """Let a graph call ``attention.cpp``, compiled into the folder, where it has attention with a bias."""
    graph = module.graph
    found = [node for node in graph.nodes if _suits(node)]
    if not found:
        return
    attend = compile_attention(folder)
    for i, node in enumerate(found):
        query, key, value, bias = node.args
        _, heads, tokens, width = _shape(query)
        back = _way_back(node)
        places = None if back is None else _places(attrgetter(back.args[2].target)(module), _shape(back.args[0])[1], tokens)
        if places is None:
            back, places = None, torch.arange(tokens)
        module.register_buffer(f"places_{i}", places)
        rows = tokens if back is None else _shape(back)[1]
        with graph.inserting_before(node):
            bias = graph.call_function(aten.contiguous.default, (_once(bias),))  # a constant, so done when compiled
            scale = node.kwargs.get("scale") or width**-0.5
            ours = graph.call_function(attend, (query, key, value, bias, scale, graph.get_attr(f"places_{i}"), rows))
            if back is None:
                ours = graph.call_function(aten.unflatten.int, (ours, 2, [heads, width]))
                ours = graph.call_function(aten.transpose.int, (ours, 1, 2))
        (back or node).replace_all_uses_with(ours)
    graph.eliminate_dead_code(lambda node: node.is_impure() and node not in found)  # torch's own might drop out at random
    module.recompile()


def _shape(node: Any) -> Sequence[Any]:
    return node.meta["val"].shape


def _once(bias: Any) -> Any:
    """Return a bias before it was repeated for the batch, for the operation does that by itself."""
    once = bias
    while once.target in (*VIEWS, aten.to.dtype) and once.args[0].meta["val"].dtype == torch.float32:
        once = once.args[0]
    repeated = once.target is aten.expand.default and _shape(once.args[0])[1:] == _shape(bias)[1:]
    return once.args[0] if repeated else bias


def _way_back(attention: fx.Node) -> Any:
    """Return the gather that puts the windows behind an attention together again; None if there is none, or others look on."""
    node: Any = attention
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        if before is attention:
            if node.target is not aten.transpose.int or node.args[1:] != (1, 2):
                return None
        elif node.target is aten.index_select.default and node.args[:2] == (before, 1) and node.args[2].op == "get_attr":
            _, heads, _, width = _shape(attention)
            shape = _shape(before)
            return node if len(shape) == 3 and isinstance(shape[1], int) and shape[2] == heads * width else None
        elif node.target not in VIEWS:
            return None
    return None


def _places(index: Tensor, many: int, tokens: int) -> Tensor | None:
    """Return the place in a map of each of the ``many`` tokens that ``index`` takes it from, ``len(index)`` of those it leaves.

    None where they are no windows of so many ``tokens``, or a token is taken twice.
    """
    places = torch.full((many,), len(index))
    places[index] = torch.arange(len(index))
    return places if many % tokens == 0 and int((places < len(index)).sum()) == len(index) else None


def _axes_of_norms(module: fx.GraphModule) -> None:
    """Let norms over gathered tokens side by side have an axis for each: over one axis the loop takes number by number."""
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=aten.layer_norm.default):
        gather, (width, *more), *rest = node.args
        while gather.target in VIEWS:
            gather = gather.args[0]
        if gather.target is not aten.index_select.default or more or rest[:2] != [None, None]:  # folded norms have no weight
            continue
        each, axis = _shape(gather)[-1], len(_shape(node)) - 1
        if gather.args[1] != len(_shape(gather)) - 2 or width % each or width == each:
            continue
        shape = [width // each, each]
        with graph.inserting_before(node):
            apart = graph.call_function(aten.unflatten.int, (node.args[0], axis, shape))
            apart = graph.call_function(aten.layer_norm.default, (apart, shape, *rest))
            ours = graph.call_function(aten.flatten.using_ints, (apart, axis))
        node.replace_all_uses_with(ours)
        graph.erase_node(node)
    module.recompile()


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
        The operation (query, key, value, bias, scale, places, rows) -> softmax(scale q k^T + bias) v: three times
        (M, heads, T, D), D a multiple of 16, bias (P, heads, T, T) of which row m takes m % P; of maps of N windows each places,
        (N T,), where each token of these lies in the map, from 0 to rows - 1, or rows for none -> (M / N, rows, heads D);
        float32 on the CPU, no gradients.
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
        torch.library.register_fake(f"swinkit::{name}", _shaped)
    return getattr(torch.ops.swinkit, name).default


def _shaped(query: Tensor, _k: Tensor, _v: Tensor, _bias: Tensor, _scale: float, places: Tensor, rows: int) -> Tensor:
    many, heads, tokens, width = query.shape
    return query.new_empty(many // (places.shape[0] // tokens), rows, heads * width)


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
