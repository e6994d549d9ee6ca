"""AOTInductor: a graph compiled by torch into machine code of this processor (``model.pt2``), run without Python.

Attention and the wide linear layers are our own operations (``kernels/``), compiled beside it, where they can be; other linear
layers are oneDNN's with packed weights, bias, GELU and residual in one pass; everything between is fused. A package is a program
like any other: whoever opens one runs it, so ``ExportedEngine`` opens none that it was not told to trust.
"""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from swinkit.engines import kernels
from swinkit.engines.program import with_outputs
from swinkit.engines.rewriting import rewrite
from swinkit.engines.steps import step, tell

SETTINGS = {
    "freezing": True,
    "cpp.dynamic_threads": True,
    # Headers are read by the compiler two times for a package; to write them out for that takes longer than it saves.
    "aot_inductor.precompile_headers": False,
    # What calls the kernels and frees their tensors: optimised it takes half as long again to compile, and a call of the embedded
    # network, the smallest there is, the same time but for what its turns differ by anyway.
    "aot_inductor.compile_wrapper_opt_level": "O0",
}


def write(
    program: torch.export.ExportedProgram, path: Path, answers: Sequence[str], _blocks: Sequence[str], _described: str
) -> None:
    """Compile a program's answers, for any batch and float pixels; the blocks are fused away.

    Raises:
        NoCompiler: there is no C++ compiler, or it compiles nothing.
    """
    if kernels.compiler() is None:
        raise kernels.NoCompiler("compile needs a C++ compiler, and there is none; install g++, or use another engine")
    from torch._inductor.utils import fresh_cache

    module = with_outputs(program, range(len(answers)))
    with kernels.settings(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        step("compiling operations, once for a processor")
        example = program.example_inputs[0][0].float()
        without = _without_kernels(module, path.parent, example)
        step("compiling the network")
        # torch's own cache lies where others may write, and a package needs nothing of it a second time.
        with torch.no_grad(), fresh_cache(dir=folder), _uncollected():  # weights are not packed in inference mode
            floats = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},))
            try:
                torch._inductor.aoti_compile_and_package(floats, package_path=str(path), inductor_configs=SETTINGS)
            except RuntimeError as error:  # torch's own may be wrapped in others of its own
                if not any(
                    name in f"{type(error)} {error}" for name in ("CppCompileError", "InvalidCxxCompiler", "No working C++")
                ):
                    raise
                said = kernels.error_in(error)
                raise kernels.NoCompiler(f"compile needs a C++ compiler that works ({said}, or use another engine") from error
    if without:
        tell(f"compile goes on without its own kernels, more slowly: {without}")


def _without_kernels(module: torch.fx.GraphModule, folder: Path, example: torch.Tensor) -> str | None:
    """Rewrite a graph for the kernels; where they cannot be built leave it as it is, and return why."""
    why = kernels.why_not()
    if why is None:
        try:
            rewrite(module, folder, example)
        except kernels.CannotBuild as error:
            why = str(error)
    return why


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Leave garbage lie: torch's compiler makes objects by the million, and keeps nearly all of them until it is done."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Runtime:
    """A package, loaded."""

    def __init__(self, path: Path) -> None:
        for library in path.parent.glob("*.so"):
            kernels.load(library)
        # As torch._inductor.aoti_load_package, whose module brings all of torch's compiler with it.
        self._package = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            answers = self._package.run([torch.from_numpy(np.ascontiguousarray(pixels)).float()])
        return [answer.numpy() for answer in answers]

    def blocks(self, _pixels: np.ndarray, _names: Sequence[str]) -> list[np.ndarray]:
        return []  # there are none any more
