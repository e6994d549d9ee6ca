"""Operations of our own for machine code: C++ beside plain PyTorch, built for the processor at hand; see ``README.md``."""

from swinkit.engines.kernels.building import (
    CannotBuild,
    NoCompiler,
    Operation,
    companion,
    compiled,
    compiler,
    error_in,
    for_layers,
    load,
    settings,
    state,
    why_not,
)
from swinkit.engines.kernels.rounding import close_enough

__all__ = [
    "CannotBuild", "NoCompiler", "Operation",
    "close_enough", "companion", "compiled", "compiler", "error_in", "for_layers", "load", "settings", "state", "why_not",
]  # fmt: skip
