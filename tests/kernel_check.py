"""Run the kernels on small shapes with odd tails beside their reference.

``python -m tests.kernel_check NAMES [--opcheck] [--build] [FLAG...]``, a program of its own, so that a process can have other
vectors (``ATEN_CPU_CAPABILITY``) or a sanitiser. Flags go to the compiler; ``--build`` stops there. It prints the names.
``tiles`` multiplies in plain C++ (``soft_tiles.h``) unless the processor has the unit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from swinkit.engines.kernels import Operation, building, companion, reference, settings

SOFT = ("-mamx-tile", "-mamx-int8", "-include", str(Path(__file__).with_name("soft_tiles.h")))


def library(name: str, flags: tuple[str, ...] = ()) -> tuple[str, bytes]:
    """Return the name and the code of an operation, compiled with further flags."""
    with settings():
        vectors = building._vectors()
        if name == "tiles" and building._layers(vectors) != "tiles":
            flags = (*SOFT, *flags)
        return building._version(name, vectors), building._library(name, vectors, flags)


def operation(name: str, folder: Path, flags: tuple[str, ...] = ()) -> Operation:
    """Return an operation, compiled with further flags, its library in a folder."""
    version, code = library(name, flags)
    (folder / f"{version}.so").write_bytes(code)
    found = building.load(folder / f"{version}.so")
    building._describe(name, version)
    return found


def exact(x: Tensor | None) -> Tensor | None:
    """Return float64."""
    return None if x is None else x.double()


def attention_calls() -> list[tuple]:
    """Return arguments of ``attend``: windows of 1 to 50 tokens, padding, several biases, heads of 16 to 80 numbers."""
    calls = []
    for tokens, heads, width, patterns, repeats in ((1, 1, 16, 1, 1), (9, 2, 32, 2, 2), (49, 3, 32, 3, 1), (50, 1, 80, 1, 2)):
        query, key, value = torch.randn(3, patterns * repeats, heads, tokens, width).unbind()
        rows = patterns * tokens - tokens // 3
        places = torch.randperm(patterns * tokens).clamp(max=rows)
        calls.append((query, key, value, torch.randn(patterns, heads, tokens, tokens), width**-0.5, places, rows))
    return calls


def layer_calls() -> list[tuple]:
    """Return arguments of a linear layer as its reference has them: one row to 131, residuals, norms, gathers."""
    calls = []
    for rows, inner, columns, curved in ((1, 32, 64, False), (7, 96, 96, True), (131, 352, 128, False), (50, 1152, 192, True)):
        x, weight = torch.randn(2, rows, inner), torch.randn(columns, inner) / inner**0.5
        calls += [
            (x, weight, torch.randn(columns), torch.randn(2, rows, columns), curved, None, None),
            (x, weight, None, None, curved, 1e-5, torch.randint(rows, (rows + 3, 1))),
            (torch.randn(1, 5, inner // 2), weight, None, None, curved, None, torch.randint(5, (13, 2))),
        ]
    return calls


def check(name: str, ours: Operation, opcheck: bool) -> None:
    """Compare an operation, and those beside it, with the reference in float64."""
    tests = ("test_schema", "test_faketensor") if opcheck else ()
    if name == "attend":
        for call in attention_calls():
            *parts, scale, places, rows = call
            wanted = reference.attend(*(part.double() for part in parts), scale, places, rows)
            torch.testing.assert_close(ours(*call).double(), wanted, atol=2e-5, rtol=1e-5)
            if tests:
                torch.library.opcheck(ours, call, test_utils=tests)
        return
    pack, mlp = companion(ours, "pack"), companion(ours, "mlp")
    for x, weight, bias, added, curved, eps, index in layer_calls():
        call = (x, pack(weight), len(weight), bias, added, curved, eps, index)
        wanted = reference.linear(x.double(), weight.double(), exact(bias), exact(added), curved, eps, index)
        torch.testing.assert_close(ours(*call).double(), wanted, atol=3e-5, rtol=1e-5)
        second = torch.randn(64, len(weight)) / len(weight) ** 0.5
        twice = (x, pack(weight), len(weight), bias, pack(second), 64, None, None, eps, index)
        wanted = reference.mlp(x.double(), weight.double(), exact(bias), second.double(), eps=eps, index=index)
        torch.testing.assert_close(mlp(*twice).double(), wanted, atol=3e-5, rtol=1e-5)
        if tests:
            torch.library.opcheck(ours, call, test_utils=tests)
            torch.library.opcheck(mlp, twice, test_utils=tests)
            torch.library.opcheck(pack, (weight,), test_utils="test_schema")


def main(words: list[str]) -> None:
    """Check the operations that the words name."""
    names, flags = words[0].split(","), tuple(word for word in words[1:] if word not in ("--opcheck", "--build"))
    torch.manual_seed(0)
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if "--build" in words:
                library(name, flags)
                continue
            ours = operation(name, Path(folder), flags)
            with torch.no_grad():
                check(name, ours, "--opcheck" in words)
            sys.stdout.write(f"{ours.__name__}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
