"""Only ``swinkit.files`` opens files from outside: whoever else opens one is in a short list, with the reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "swinkit"
DOOR = "files.py"
# The last part of a call's name -> what must stand before it; "" takes any.
OPENERS = {
    "open": "",
    "read_text": "",
    "read_bytes": "",
    "fdopen": "os",
    "safe_open": "",
    "load_file": "",
    "ZipFile": "",
    "TarFile": "",
    "fromfile": "",
    "memmap": "",
    "from_file": "",
    "load": ("torch", "np", "numpy", "torch.export", "onnx", "torch.jit", "joblib", "pickle"),
    "loadtxt": "",
    "genfromtxt": "",
    "imread": "",
    "read_model": "",
    "InferenceSession": "",
}
# Names of ours that look like them: ``swinkit.files.read_text``, the opener of a row of the table of tasks.
OURS = {"files.read_text", "read_text", "task.open"}
PACKAGE = "a file of the package"
CHECKED = "a library opens a path that open_file or checked_file has just looked at"
OWN = "a file that this process has just written, or a place of its own"
# (file, function) -> why it may.
ALLOWED = {
    ("cli/__init__.py", "_open_streams"): "the null device",
    ("cli/__init__.py", "_leave_stdout"): "the null device",
    ("cli/common.py", "output_file"): OWN,
    ("data/containers.py", "ZipSource._zip"): CHECKED,
    ("data/containers.py", "ZipSource.read"): "a member of a zip that was checked",
    ("embedded.py", "embedded_description"): PACKAGE,
    ("engines/onnx.py", "Runtime.blocks"): CHECKED,
    ("engines/onnx.py", "session"): CHECKED,
    ("engines/onnx.py", "write"): OWN,
    ("engines/openvino.py", "read"): CHECKED,
    ("engines/kernels/building.py", "_digest"): PACKAGE,
    ("engines/kernels/building.py", "_library"): OWN,
    ("engines/program.py", "Runtime.__init__"): "code that is sealed or trusted",
    ("engines/program.py", "check_archive"): CHECKED,
    ("engines/seal.py", "_key"): "opened without following links, looked at before it is read",
    ("labels.py", "_lines"): PACKAGE,
    ("labels.py", "map_22k_to_1k"): PACKAGE,
    ("training/checkpoint.py", "read_state"): CHECKED,
    ("weights/pickled.py", "_pickle_of_zip"): CHECKED,
    ("weights/pickled.py", "load_pickle"): CHECKED,
    ("weights/read.py", "_read_safetensors"): CHECKED,
}


def calls(root: Path) -> Iterator[tuple[str, str, int, str]]:
    """Yield (file, function, line, call) of everything that opens a file, outside the door."""
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).as_posix() != DOOR:
            yield from _inside(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(root).as_posix(), "")


def _inside(node: ast.AST, file: str, function: str) -> Iterator[tuple[str, str, int, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _inside(child, file, f"{function}.{child.name}".lstrip("."))
            continue
        if isinstance(child, ast.Call) and _opens(ast.unparse(child.func)) and not _in_memory(child):
            yield file, function, child.lineno, ast.unparse(child.func)
        yield from _inside(child, file, function)


def _opens(name: str) -> bool:
    before, _, last = name.rpartition(".")
    if last not in OPENERS or name in OURS:
        return False
    wanted = OPENERS[last]
    return not wanted or before in ([wanted] if isinstance(wanted, str) else wanted)


def _in_memory(call: ast.Call) -> bool:
    """Say whether a call reads bytes that are there already: ``Image.open(io.BytesIO(...))``, or a name that ends in buffer."""
    given = ast.unparse(call.args[0]) if call.args else ""
    return given.startswith("io.BytesIO(") or given == "buffer"


def strangers(root: Path) -> list[str]:
    return [f"{file}:{line} {function}: {name}" for file, function, line, name in calls(root) if (file, function) not in ALLOWED]


def test_only_one_function_opens_files_from_outside() -> None:
    assert strangers(SOURCE) == []


def test_the_list_of_those_who_may_is_not_longer_than_needed() -> None:
    assert set(ALLOWED) - {(file, function) for file, function, _, _ in calls(SOURCE)} == set()
    assert len(ALLOWED) <= 25


@pytest.mark.parametrize(
    "line",
    [
        "open('x')",
        "Path('x').open('rb')",
        "path.read_text(encoding='utf-8')",
        "x = [p.read_bytes() for p in paths]",
        "from PIL import Image\nImage.open(path)",
        "Image.open(io.FileIO(path))",
        "with safe_open(path, framework='pt') as file: ...",
        "load_file(path)",
        "zipfile.ZipFile(path)",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "os.open(path, 0)",
        "def f():\n    class A:\n        def g(self): return io.open('x')",
        "torch.export.load(path)",
        "core.read_model(path)",
    ],
)
def test_the_test_of_doors_can_fail(tmp_path: Path, line: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "files.py").write_text("open('x')")
    right = "from swinkit.files import read_text\nread_text('x', 5)\njson.load(x)\nImage.open(io.BytesIO(x))"
    (tmp_path / "a" / "b.py").write_text(right)
    assert strangers(tmp_path) == []
    (tmp_path / "a" / "b.py").write_text(line)
    (found,) = strangers(tmp_path)
    assert found.startswith("a/b.py")
