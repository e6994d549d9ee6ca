"""The rules of the house, as tests: layers, public names, quick help, few layers of indirection, silence."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import torch

import swinkit
from swinkit.models.classifier import SwinClassifier
from swinkit.specs import Variant

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "swinkit"

# Top to bottom; a room imports only rooms of lower lines, never one of its own line.
LAYERS = [
    {"cli"},
    {"runs"},
    {"prediction"},
    {"tasks"},
    {"training", "export"},
    {"engines"},
    {"weights"},
    {"data"},
    {"models"},
    {"specs", "bounds", "errors", "extras", "files", "labels", "embedded", "printing"},
]
FLOOR = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# The package's face hands out names of every room on demand; only the command line and people import it.
FACE = "__init__"
# The ground floor is plain Python: these of it may lean on errors, and descriptions on their bounds.
GROUND = {
    ("extras", "errors"),
    ("files", "errors"),
    ("printing", "errors"),
    ("bounds", "errors"),
    ("specs", "errors"),
    ("specs", "bounds"),
}


def room_of(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> set[str]:
    """Return the rooms that a module imports, at module level or inside functions."""
    rooms = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "swinkit":
                rooms.add(rest[0] if rest and rest[0] in FLOOR else FACE)
    return rooms


def violations(root: Path) -> list[str]:
    found = []
    for path in sorted(root.rglob("*.py")):
        room = room_of(path, root)
        if room == FACE:
            continue
        if room not in FLOOR:
            found.append(f"{path.relative_to(root)}: is in no layer")
            continue
        for other in imported_rooms(ast.parse(path.read_text(encoding="utf-8"))) - {room}:
            below = FLOOR.get(other, -1) > FLOOR[room] or (room, other) in GROUND
            if not (room == "cli" if other == FACE else below):
                found.append(f"{path.relative_to(root)}: {room} imports {other}")
    return found + entangled_tasks(root)


def entangled_tasks(root: Path) -> list[str]:
    """Return the tasks that import one another; each is a folder that can be taken away."""
    found = []
    tasks = sorted(path.name for path in (root / "tasks").glob("*/"))
    for task in tasks:
        for path in sorted((root / "tasks" / task).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found += [
                f"{path.relative_to(root)}: {task} imports {other}"
                for other in tasks
                if other != task and re.search(rf"swinkit\.tasks\.{other}\b", text)
            ]
    return found


def circles(root: Path) -> list[str]:
    """Return modules that import one another at module level, directly or by others."""
    names = {".".join(path.relative_to(root).with_suffix("").parts): path for path in root.rglob("*.py")}
    imports: dict[str, set[str]] = {}
    for name, path in names.items():
        wanted = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("swinkit."):
                module = node.module.removeprefix("swinkit.")
                wanted |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        imports[name] = (wanted & names.keys()) - {name}
    while leaves := {name for name, wanted in imports.items() if not wanted & imports.keys()}:
        for name in leaves:
            del imports[name]
    return sorted(imports)


def test_no_modules_import_one_another_in_a_circle(tmp_path: Path) -> None:
    assert circles(SOURCE) == []
    (tmp_path / "a.py").write_text("from swinkit.b import x")
    (tmp_path / "b.py").write_text("from swinkit.a import y")
    assert circles(tmp_path) == ["a", "b"]


# Who may know which tasks there are: the tasks, the networks made for them, checkpoints' heads, a description's default.
KNOWING = ("tasks/", "models/", "weights/heads", "specs.py")


def asked_tasks(root: Path, names: Collection[str]) -> list[str]:
    """Return where code outside of ``KNOWING`` names a task, or asks a result what it has."""
    found = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).as_posix()
        if place.startswith(KNOWING):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in names:
                found.append(f"{place}:{node.lineno}: names the task {node.value}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr" and "result" in ast.unparse(node.args[0]):
                found.append(f"{place}:{node.lineno}: asks what a result has")
    return found


def test_nothing_outside_asks_which_task_it_is(tmp_path: Path) -> None:
    from swinkit.tasks.table import TASKS

    assert asked_tasks(SOURCE, TASKS) == []
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "a.py").write_text('if spec.task == "segment" or hasattr(result, "mask"): pass')
    assert len(asked_tasks(tmp_path, TASKS)) == 2


def test_rooms_import_only_rooms_below() -> None:
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("models/a.py", "from swinkit.training.loop import train", "models imports training"),
        ("models/a.py", "from swinkit import weights", "models imports weights"),
        ("data/a.py", "import swinkit.weights.read", "data imports weights"),
        ("training/a.py", "from swinkit.export import export_network", "training imports export"),
        ("tasks/one/a.py", "from swinkit.runs.card import run_card", "tasks imports runs"),
        ("tasks/one/a.py", "from swinkit.tasks.two.data import read", "one imports two"),
        ("prediction/a.py", "def f():\n    from swinkit.cli import main", "prediction imports cli"),
        ("specs.py", "import swinkit", "specs imports __init__"),
        ("attic/a.py", "", "is in no layer"),
    ],
)
def test_the_layer_test_can_fail(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    (tmp_path / "tasks" / "two").mkdir(parents=True)
    good = {
        "models/b.py": "from swinkit.specs import Variant",
        "cli/b.py": "import swinkit",
        "extras.py": "import torch",
    }
    for name, text in {**good, file: line}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    (found,) = violations(tmp_path)
    assert found.startswith(file)
    assert complaint in found


def test_the_ground_floor_imports_no_torch() -> None:
    plain = [SOURCE / f"{room}.py" for room in LAYERS[-1]] + [SOURCE / "models" / "variants.py"]
    for path in plain:
        modules = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not modules & {"torch", "torchvision", "numpy"}, path.name


def test_public_names() -> None:
    assert sorted(swinkit.__all__) == [
        "ClassificationResult",
        "Predictor",
        "SegmentationResult",
        "SwinkitError",
        "__version__",
        "create_backbone",
        "create_model",
        "evaluate",
        "export",
        "list_models",
        "load",
        "train",
    ]
    assert set(swinkit.__all__) <= set(dir(swinkit))


@pytest.mark.parametrize("name", swinkit.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    if name in ("train", "evaluate", "export", "load", "Predictor"):
        pytest.importorskip("pydantic")
    value = getattr(swinkit, name)
    assert isinstance(value, str) or value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = swinkit.no_such_thing


def test_version_is_the_package_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert swinkit.__version__ == project["version"]


def run_python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT / "src",
    )


SLOW_LIBRARIES = ("torch", "torchvision", "numpy", "accelerate", "transformers", "matplotlib")


@pytest.mark.parametrize(
    "words",
    [["--help"], ["predict", "--help"], ["train", "--halp"], ["models", "--json"], ["predict", "--top", "0", "a.jpg"]],
    ids=" ".join,
)
def test_help_and_usage_errors_import_nothing_slow(words: list[str]) -> None:
    done = run_python(f"from swinkit.cli import main; raise SystemExit(main({words!r}))", "-X", "importtime")
    assert done.returncode in (0, 2), done.stderr[-2000:]
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if line.count("|") == 2}
    assert "typer" in loaded  # the report was really read
    assert not loaded & set(SLOW_LIBRARIES)


def test_importing_the_package_loads_no_torch_and_opens_no_connection() -> None:
    done = run_python(
        """
        import socket, sys
        def refuse(*arguments, **options): raise AssertionError("a connection at import")
        socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
        import swinkit
        assert "torch" not in sys.modules
        assert swinkit.list_models()
        assert "torch" not in sys.modules
        import swinkit.prediction, swinkit.models.build
        assert "torch" in sys.modules
        for unwanted in ("torchvision", "matplotlib", "transformers", "timm", "accelerate", "pandas"):
            assert unwanted not in sys.modules, unwanted
        """
    )
    assert done.returncode == 0, done.stderr


def test_only_the_command_line_prints() -> None:
    for path in SOURCE.rglob("*.py"):
        if room_of(path, SOURCE) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            assert not (isinstance(called, ast.Name) and called.id == "print"), path


FORBIDDEN = {"eval", "exec", "pickle.load", "pickle.loads", "os.system", "yaml.load"}


def test_nothing_is_unpickled_or_evaluated() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in FORBIDDEN, f"{path}: {name}"
                if name == "torch.load":
                    safe = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert safe.get("weights_only") == "True", f"{path}:{node.lineno}"


class Walk:
    """Which of the project's functions are entered, and how deep they nest, while ``action`` runs."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.functions: list[tuple[str, str, int]] = []
        depth = 0

        def watch(frame, event, _argument) -> None:
            nonlocal depth
            path = Path(frame.f_code.co_filename)
            # that a description holds numbers within bounds is no step of the way
            if not path.is_relative_to(SOURCE) or frame.f_code.co_name.startswith("<") or path.name in ("bounds.py", "specs.py"):
                return
            if event == "call":
                depth += 1
                self.functions.append((path.name, frame.f_code.co_qualname, depth))
            elif event == "return":
                depth -= 1

        sys.setprofile(watch)
        try:
            action()
        finally:
            sys.setprofile(None)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Files, distinct functions, nesting."""
        return (
            len({file for file, _, _ in self.functions}),
            len({function[:2] for function in self.functions}),
            max(depth for _, _, depth in self.functions),
        )


def test_building_swin_s_is_two_calls_deep() -> None:
    swinkit.create_model  # noqa: B018 - the import is not counted
    walk = Walk(lambda: swinkit.create_model("swin_small", embed_dim=12))
    depths = {name: depth for _, name, depth in walk.functions}
    assert depths["create_model"] == 2  # the one that knows of weights calls the one that does not
    assert depths["SwinClassifier.__init__"] == 3
    files, functions, nesting = walk.sizes
    assert files <= 5
    assert functions <= 22
    assert nesting <= 8  # attention calls what V1 and V2 share


@pytest.mark.parametrize("version", [1, 2])
def test_a_forward_walks_through_few_functions(version: int) -> None:
    model = SwinClassifier(Variant(version=version, embed_dim=12, depths=(1, 1, 2, 1), window_size=4)).eval()
    images = torch.rand(1, 3, 70, 50)
    with torch.inference_mode():
        model(images)  # tables of positions, and whether oneDNN is there, are cached
        files, functions, nesting = Walk(lambda: model(images)).sizes
    assert files <= 5  # classifier, images, swin, windows, linear
    assert functions <= 26
    assert nesting <= 8


def test_files_and_functions_stay_short() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 80, f"{path}: {node.name}"
