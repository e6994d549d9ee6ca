"""The kernels as a whole: their names, their switch, machines that cannot build them, other vectors, sanitisers, and rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests import kernel_check
from tests.test_engines import SHAPE, largest, maps, shaken
from torch import nn
from torch.nn import functional as F

import swinkit.engines.kernels as package
from swinkit.engines import kernels, rewriting
from swinkit.engines.kernels import building, reference, rounding
from swinkit.engines.manifest import _LIBRARY
from swinkit.engines.steps import heard_by
from swinkit.errors import InputError
from swinkit.export import OnDemandEngine, export_network
from swinkit.models.classifier import SwinClassifier
from swinkit.specs import ModelSpec, Preprocessing

ROOT = Path(__file__).resolve().parents[1]
needs_gxx = pytest.mark.skipif(building.why_not() is not None, reason=f"the kernels are not built here: {building.why_not()}")


def run(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernel_check", *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def small() -> tuple[nn.Module, ModelSpec]:
    variant = SHAPE.changed(embed_dim=96, depths=(1,), num_heads=(3,), img_size=32)
    return shaken(SwinClassifier(variant)), ModelSpec(variant, Preprocessing((32, 32)))


# --- what they compute


@needs_gxx
@pytest.mark.parametrize("capability", ["", "avx2", "default"])
def test_every_set_of_vectors_computes_the_reference(capability: str) -> None:
    """Under ``torch.library.opcheck`` too; tiles in plain C++ where the processor has vectors as wide as a tile's row."""
    wide = not capability and torch.backends.cpu.get_cpu_capability() == "AVX512"
    names = "attend,linear,tiles" if wide else "attend,linear"
    said = run(names, "--opcheck", **({"ATEN_CPU_CAPABILITY": capability} if capability else {})).split()
    assert [name.split("_")[0] for name in said] == names.split(",")
    assert all(name.split("_")[1].startswith(capability) for name in said)


@pytest.mark.slow
@needs_gxx
@pytest.mark.parametrize("sanitiser", ["address", "undefined"])
def test_sanitisers_find_nothing(sanitiser: str) -> None:
    flags = [f"-fsanitize={sanitiser}", f"-fno-sanitize-recover={sanitiser}", "-O1"]  # with -O3 g++ takes ten minutes
    names = "attend,linear,tiles" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "attend,linear"
    run(names, "--build", *flags)
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    if sanitiser == "address" and not Path(found).is_absolute():
        pytest.skip("needs libasan")
    run(
        names,
        *flags,
        **({"LD_PRELOAD": f"{found} libstdc++.so.6", "ASAN_OPTIONS": "detect_leaks=0"} if sanitiser == "address" else {}),
    )


@needs_gxx
def test_names_tell_vectors_torch_and_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kernels.settings():
        vectors = building._vectors()
        name = building._version("attend", vectors)
        monkeypatch.setattr(torch, "__version__", "9.9.1+cpu")
        other = building._version("attend", vectors)
        assert "_991cpu_" in other
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "new": True}, raising=False)
        assert len({name, other, building._version("attend", vectors), building._version("attend", None)}) == 4
    assert "_default_" in building._version("attend", None)
    assert _LIBRARY.fullmatch(f"{name}.so")
    assert _LIBRARY.fullmatch("attend_0123456789ab.so")  # of exports by the version before


@needs_gxx
def test_an_export_with_the_names_of_the_version_before_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, spec = small()
    monkeypatch.setattr(building, "_version", lambda name, _vectors: f"{name}_0123456789ab")
    building._library.cache_clear()
    export_network(network, spec, tmp_path / "e", "aotinductor")
    building._library.cache_clear()
    assert (tmp_path / "e/32x32/attend_0123456789ab.so").is_file()
    code = f"""
import torch
from pathlib import Path
from swinkit.engines.exported import ExportedEngine
print(ExportedEngine(Path({str(tmp_path / "e")!r}), trusted=True)(torch.zeros(2, 3, 32, 32)).shape)
"""
    assert "[2," in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_package_carries_its_sources_and_its_page() -> None:
    folder = Path(package.__file__).parent
    for file in ("README.md", *(file for files in building.SOURCES.values() for file in files)):
        assert (folder / file).is_file()
    page = (folder / "README.md").read_text(encoding="utf-8")
    for word in (*building.SOURCES, "mlp", "pack", building.SWITCH, "cache_home", "reference.py"):
        assert word in page


# --- where they are not built


def test_machines_they_are_not_made_for_are_told_from_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(building.SWITCH, raising=False)
    monkeypatch.delenv("CXX", raising=False)
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert "install g++" in str(building.why_not())
    (tools / "clang++").write_text("#!/bin/sh\n")
    (tools / "clang++").chmod(0o755)
    assert "clang++ is what was found" in str(building.why_not())
    (tools / "g++").write_text("#!/bin/sh\n")
    (tools / "g++").chmod(0o755)
    assert building.why_not() is None
    there = building.state()
    assert there != "off"
    monkeypatch.setenv("CXX", "clang++ -O1")
    assert "clang++ is what was found" in str(building.why_not())
    monkeypatch.delenv("CXX")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "Linux on x86-64" in str(building.why_not())
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    monkeypatch.setattr("sys.platform", "win32")
    assert "Linux on x86-64" in str(building.why_not())
    monkeypatch.setenv(building.SWITCH, "0")
    assert building.why_not() == ""
    assert building.state() == "off"


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("a.cpp:1:10: fatal error: omp.h: No such file or directory", "install OpenMP"),
        ("/usr/bin/ld: cannot find -lgomp: No such file or directory", "install OpenMP"),
        ("a.cpp:1:10: fatal error: Python.h: No such file or directory", "python3-dev"),
        ("a.cpp:1:10: fatal error: cstdint: No such file or directory", "headers of g++"),
        ("g++: internal compiler error: Killed", "reinstall g++"),
    ],
)
def test_what_a_compiler_says_becomes_one_sentence(said: str, remedy: str) -> None:
    found = building.error_in(
        RuntimeError(f"CppCompileError: C++ compile error\n\nCommand:\ng++ a.cpp\n\nOutput:\n{said}\ncompilation terminated.")
    )
    assert said in found
    assert remedy in found
    assert "\n" not in found


FAKE = """#!/bin/sh
case "$*" in
  *{only}*) echo "x.cpp:1:10: fatal error: omp.h: No such file or directory" >&2; exit 1;;
esac
exec {real} "$@"
"""


def failing(folder: Path, monkeypatch: pytest.MonkeyPatch, only: str, name: str = "g++") -> None:
    """Put a compiler first that fails with every command that has ``only`` in it."""
    real = building.shutil.which("g++")
    (folder / name).write_text(FAKE.format(only=only, real=real))
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SWINKIT_CACHE", str(folder / "cache"))
    building._trusted.cache_clear()
    building._library.cache_clear()


@needs_gxx
def test_where_only_the_kernels_fail_compile_goes_on_after_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    failing(tmp_path, monkeypatch, only="engines/kernels")
    request.addfinalizer(building._trusted.cache_clear)
    network, spec = small()
    said: list[str] = []
    with heard_by(lambda _: None, said.append):
        engine = OnDemandEngine(network, spec, "aotinductor", tmp_path / "exports")
    assert engine.name == "compile"
    assert len(said) == 1
    assert "goes on without its own kernels" in said[0]
    assert "omp.h" in said[0]
    assert "install OpenMP" in said[0]
    assert not [*tmp_path.rglob("attend_*.so")]
    pixels = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        assert largest(maps(engine(pixels)), maps(network(pixels))) < 1e-4


@needs_gxx
def test_where_nothing_compiles_torch_answers_after_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    failing(tmp_path, monkeypatch, only=".cpp")
    request.addfinalizer(building._trusted.cache_clear)
    network, spec = small()
    said: list[str] = []
    with heard_by(lambda _: None, said.append):
        engine = OnDemandEngine(network, spec, "aotinductor", tmp_path / "exports")
    assert engine.name == "torch"
    assert len(said) == 1
    assert "install OpenMP" in said[0]
    assert "torch answers" in said[0]
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler that works"):
        export_network(network, spec, tmp_path / "e", "aotinductor")
    assert not (tmp_path / "e").exists()


@needs_gxx
def test_switched_off_nothing_is_built_or_said_and_what_was_kept_with_them_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, spec = small()
    with_them = OnDemandEngine(network, spec, "aotinductor", tmp_path / "exports")
    assert [*tmp_path.rglob("attend_*.so")]
    monkeypatch.setenv(building.SWITCH, "0")
    said: list[str] = []
    with heard_by(lambda _: None, said.append):
        without = OnDemandEngine(network, spec, "aotinductor", tmp_path / "exports")
    assert said == []
    assert without._shelf.folder != with_them._shelf.folder
    assert not [*without._shelf.folder.rglob("attend_*.so")]
    assert [*without._shelf.folder.rglob("model.pt2")]
    pixels = torch.rand(3, 3, 32, 32)
    assert largest(maps(without(pixels)), maps(with_them(pixels))) < 1e-4


# --- how products of bytes round


def test_digits_write_every_number_and_add_up() -> None:
    numbers = torch.randn(5, 64) * torch.tensor([1e-20, 1e-3, 1.0, 50.0, 1e9])[:, None]
    digits, step = reference._digits(numbers)
    assert digits.abs().max() <= 128
    written = digits[0] * 65536 + digits[1] * 256 + digits[2]
    assert written.abs().max() <= reference.LARGEST + 1
    assert (
        (written * step.double() - numbers.double()).abs() <= 1.5 * step.double()
    ).all()  # float32 itself has no half steps left here


@pytest.mark.parametrize("inner", [96, 384, 1152])
def test_products_of_bytes_round_as_float32_does_without_outliers(inner: int) -> None:
    assert rounding.loss(torch.randn(128, inner), torch.randn(96, inner) / inner**0.5) < 2


class Outliers(nn.Module):
    """Two layers of 384 inputs: one reads a channel that is 300 times the rest, with weights that make up for it."""

    def __init__(self) -> None:
        super().__init__()
        self.calm, self.wild = nn.Linear(384, 96), nn.Linear(384, 96)
        self.register_buffer("channels", torch.ones(384).index_fill(0, torch.tensor([7]), 300.0))
        with torch.no_grad():
            self.wild.weight /= self.channels

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.calm(x), self.wild(x * self.channels)


@needs_gxx
def test_layers_with_outliers_are_not_multiplied_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = Outliers().eval(), torch.randn(2, 50, 384)
    assert rounding.loss(x[0] * network.channels, network.wild.weight) > rounding.MOST
    module = torch.export.export(network, (x,)).module()
    layers = [node for node in module.graph.nodes if rewriting._pays(node, module)]
    calm, wild = layers if "calm" in str(layers[0].args[1]) else layers[::-1]
    chosen: list[list[torch.fx.Node]] = []
    monkeypatch.setattr(rewriting, "for_layers", lambda: "tiles")
    monkeypatch.setattr(rewriting, "compiled", lambda names, _folder: dict.fromkeys(names))
    monkeypatch.setattr(rewriting, "_own_linear", lambda _module, found, _operation: chosen.append(found))
    rewriting.rewrite(module, tmp_path, x)
    assert chosen == [[calm]]
    monkeypatch.setattr(rewriting, "for_layers", lambda: "linear")  # no products of bytes
    rewriting.rewrite(module, tmp_path, x)
    assert chosen[1] == [calm, wild] or chosen[1] == [wild, calm]


@needs_gxx
def test_the_reference_rounds_as_tiles_do(tmp_path: Path) -> None:
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("needs vectors as wide as a row of a tile (AVX-512)")
    with torch.no_grad():
        tiles = kernel_check.operation("tiles", tmp_path)
        pack = kernels.companion(tiles, "pack")
        for inner in (96, 800, 1152):
            x, weight = torch.randn(60, inner), torch.randn(96, inner) / inner**0.5
            x[:, 5] *= 300
            found, same = tiles(x, pack(weight), 96, None, None, False, None, None), reference.products_of_bytes(x, weight)
            exact = F.linear(x.double(), weight.double())
            ours, theirs = ((answer.double() - exact).square().mean().sqrt() for answer in (found, same))
            assert 0.98 < ours / theirs < 1.02
            torch.testing.assert_close(found, same, atol=1e-6 * float(exact.abs().max()), rtol=0)
