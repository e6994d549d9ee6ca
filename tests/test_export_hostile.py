"""Exports of strangers: code opens on an explicit word only, and nothing reaches beyond the folder."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import resource
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hostile import everything_below, one_sentence, photo, write
from tests.test_export import rehashed, small

import swinkit
from swinkit.cli import main
from swinkit.engines import exported, seal
from swinkit.engines.exported import ExportedEngine, Manifest, canary_pixels
from swinkit.errors import ExportError, SwinkitError, UnsafeFile
from swinkit.export import export_network

TO = ("openvino", "onnx", "torch")
NEEDS = {"openvino": ("openvino",), "onnx": ("onnxscript", "onnxruntime"), "torch": ()}
GRAPHS = {"openvino": "model.xml", "onnx": "model.onnx", "torch": "model.pt2"}
SOURCE = Path(__file__).resolve().parents[1] / "src" / "swinkit"

_events: list[tuple[str, Any]] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is not None and event in ("open", "ctypes.dlopen", "subprocess.Popen", "os.system", "socket.connect"):
        _events.append((event, arguments[0]))


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[str, Any]]]:
    """Record which files are opened, libraries loaded and programs started."""
    global _events
    seen: list[tuple[str, Any]] = []
    _events = seen
    try:
        yield seen
    finally:
        _events = None


def opened_below(events: list[tuple[str, Any]], folder: Path) -> set[str]:
    names = {os.fsdecode(what) for event, what in events if event == "open" and isinstance(what, str | bytes | os.PathLike)}
    return {Path(name).relative_to(folder).as_posix() for name in names if Path(name).is_relative_to(folder)}


@pytest.fixture(autouse=True, scope="module")
def _own_secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWINKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function kind -> folder of a small export, made once."""
    root = tmp_path_factory.mktemp("exports")

    def get(to: str) -> Path:
        for module in NEEDS[to]:
            pytest.importorskip(module)
        if not (root / to).exists():
            export_network(*small(), root / to, to)
        return root / to

    return get


@pytest.fixture
def copied(exports: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda to: Path(shutil.copytree(exports(to), tmp_path / "copy"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Graphs that are opened, in order."""
    found: list[Path] = []
    real = exported.open_runtime

    def counted(to: str, path: Path) -> Any:
        found.append(path)
        return real(to, path)

    monkeypatch.setattr(exported, "open_runtime", counted)
    return found


def refused(folder: Path, kind: type[Exception] = ExportError, trusted: bool = False) -> str:
    with pytest.raises(kind) as caught:
        ExportedEngine(folder, trusted)
    return one_sentence(caught.value, "copy")


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the table of a program of torch.export."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in members if name.endswith("models/model.json")]
    table = json.loads(members[name])
    change(table)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, json.dumps(table).encode() if member == name else data)


# --- code


def loads_a_library(table: dict[str, Any], place: Path) -> None:
    spec = json.dumps({"__enum__": True, "fqn": "ctypes:cdll", "name": str(place)})
    signature = table["graph_module"]["module_call_graph"][0]["signature"]
    version, root = json.loads(signature["in_spec"])
    root["context"] = spec
    signature["in_spec"] = json.dumps([version, root])


def writes_a_file(table: dict[str, Any], place: Path) -> None:
    def given_(name: str, **value: Any) -> dict[str, Any]:
        return {"name": name, "arg": value, "kind": 1}

    graph = table["graph_module"]["graph"]
    plain = {"metadata": {}, "is_hop_single_tensor_return": None}
    graph["nodes"][:0] = [
        {
            "target": "torch.ops.aten.from_file.default",
            "inputs": [given_("filename", as_string=str(place)), given_("shared", as_bool=True), given_("size", as_int=4)],
            "outputs": [{"as_tensor": {"name": "mapped"}}],
            "name": "mapped",
            **plain,
        },
        {
            "target": "torch.ops.aten.fill_.Scalar",
            "inputs": [given_("self", as_tensor={"name": "mapped"}), given_("value", as_float=1.0)],
            "outputs": [{"as_tensor": {"name": "filled"}}],
            "name": "filled",
            **plain,
        },
    ]
    example = next(value for value in graph["tensor_values"].values() if value["dtype"] == 7)
    number = {"as_int": 4}
    described = {**example, "sizes": [number], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}}
    graph["tensor_values"] |= {"mapped": described, "filled": described}


def never_ends(table: dict[str, Any], _place: Path) -> None:
    value = next(iter(table["graph_module"]["graph"]["sym_int_values"].values()))
    value["as_expr"]["expr_str"] = "9**9**9**9"


@pytest.mark.parametrize("attack", [loads_a_library, writes_a_file, never_ends], ids=lambda attack: attack.__name__)
def test_a_stranger_s_program_is_not_opened(
    copied: Callable[[str], Path], tmp_path: Path, attack: Callable[[dict[str, Any], Path], None]
) -> None:
    folder, place = copied("torch"), tmp_path / "touched.so"
    edited(folder / "32x32" / "model.pt2", lambda table: attack(table, place))
    rehashed(folder)
    for engine in (None, "auto", "torch", "compile"):
        with watched() as events, pytest.raises(SwinkitError) as caught:
            swinkit.load(folder, engine=engine)
        assert isinstance(caught.value, UnsafeFile)
        assert "OpenVINO or ONNX" in one_sentence(caught.value, "--trust")
        assert opened_below(events, folder) == {"export.json"}
        assert {event for event, _ in events} == {"open"}
    assert not place.exists()


def test_code_opens_with_this_user_s_seal_or_by_the_word(
    copied: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied("torch")
    assert Manifest.read(folder).sealed
    pixels = torch.from_numpy(canary_pixels(Manifest.read(folder).spec, (32, 32)))
    expected = ExportedEngine(folder)(pixels)
    rehashed(folder)  # by somebody who knows how, but not the secret
    assert not Manifest.read(folder).sealed
    refused(folder, UnsafeFile)
    assert torch.equal(ExportedEngine(folder, trusted=True)(pixels), expected)
    assert swinkit.load(folder, trust=True).labels == list("abcdefghij")
    (folder / "export.json").write_text(Manifest.read(folder).to_json())  # rewritten by this user, as eight bits are
    assert ExportedEngine(folder).manifest.sealed
    monkeypatch.setenv("SWINKIT_CACHE", str(tmp_path / "another user's"))
    assert not Manifest.read(folder).sealed
    refused(folder, UnsafeFile)
    monkeypatch.setattr(seal, "_key", lambda path: None)  # a home that cannot be written
    (folder / "export.json").write_text(Manifest.read(folder).to_json())
    refused(folder, UnsafeFile)
    values = json.loads((folder / "export.json").read_text())
    for mark in (None, 3, [], "", "é", "0" * 64):
        (folder / "export.json").write_text(json.dumps({**values, "seal": mark}))
        assert not Manifest.read(folder).sealed


def test_commands_open_code_by_the_word(
    copied: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied("torch")
    rehashed(folder)
    for label in "abcdefghij":
        write(tmp_path / "data" / "val" / label / "0.png", b"")
        photo(ord(label)).save(tmp_path / "data" / "val" / label / "0.png")
    for words in (
        ["predict", str(tmp_path / "data" / "val" / "a" / "0.png"), "--model", str(folder)],
        ["evaluate", str(folder), "--data", str(tmp_path / "data")],
        ["benchmark", str(folder), "--engine", "torch", "--batch", "1", "--rounds", "1"],
    ):
        assert main(words) == 1
        text = capsys.readouterr().err.strip()
        assert text.count("\n") == 0
        assert "--trust" in text
        assert main([*words, "--trust"]) == 0, capsys.readouterr().err
        capsys.readouterr()


def strings_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every string in nested tables."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from strings_of(item, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


HOSTILE = [
    "", ".", "..", "/etc/passwd", "../secret", "32x32/../../secret", "__import__('os').getpid()", "9**9**9**9", "ctypes:cdll",
    "torch.ops.aten.from_file.default", "torch.load", "a\nb\x1b[31m", "\x00", "\ud800", "1e999", "NaN", "x" * 100_000, "torch",
    "aotinductor", "onnx", "openvino", "*/_ORT_MEM_ADDR_/*",
]  # fmt: skip
OTHERS = [None, True, -1, 0, 2**62, 16384, 1.5, 1e308, [], {}, [[]], {"a": 1}]


@settings(max_examples=60)
@given(st.data())
def test_no_string_of_a_program_s_table_is_read_without_trust(
    exports: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = Path(shutil.copytree(exports("torch"), tmp_path_factory.mktemp("program") / "copy"))

    def change(table: dict[str, Any]) -> None:
        places = list(strings_of(table))
        put(table, data.draw(st.sampled_from(places)), data.draw(st.sampled_from(HOSTILE[:-5])))

    edited(folder / "32x32" / "model.pt2", change)
    rehashed(folder)
    before = everything_below(folder.parent)
    with watched() as events, pytest.raises(UnsafeFile):
        swinkit.load(folder)
    assert opened_below(events, folder) == {"export.json"}
    assert everything_below(folder.parent) == before


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch"])
def test_no_value_of_a_description_leads_elsewhere(
    exports: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, to: str
) -> None:
    folder = Path(shutil.copytree(exports(to), tmp_path_factory.mktemp("manifest") / "copy"))
    secret = write(folder.parent / "secret", "x")
    original = json.loads((folder / "export.json").read_text())
    ExportedEngine(folder)  # libraries open their own files when they are first used
    allowed = {"export.json", *original["files"]}

    def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if path:
            yield path
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield from places(item, (*path, key))

    @given(st.data())
    def mutated(data: st.DataObject) -> None:
        values = json.loads(json.dumps(original))
        if data.draw(st.booleans()):
            put(values, data.draw(st.sampled_from(list(strings_of(values)))), data.draw(st.sampled_from(HOSTILE) | st.text()))
        else:
            put(values, data.draw(st.sampled_from(list(places(values)))), data.draw(st.sampled_from([*OTHERS, *HOSTILE])))
        if data.draw(st.booleans()):  # another name in place of a file's
            name = data.draw(st.sampled_from(list(original["files"])))
            if isinstance(values["files"], dict) and name in values["files"]:
                values["files"][data.draw(st.sampled_from(HOSTILE))] = values["files"].pop(name)
        kept = data.draw(st.booleans())
        (folder / "export.json").write_text(json.dumps(values))
        if not kept:
            with contextlib.suppress(AttributeError):
                rehashed(folder, **{name: value for name, value in values.items() if name not in ("sha256", "seal")})
        before = everything_below(folder.parent)
        with watched() as events:
            try:
                ExportedEngine(folder, trusted=False)
            except SwinkitError as error:
                assert "\n" not in str(error)
        names = {Path(os.fsdecode(what)) for event, what in events if event == "open" and isinstance(what, str | bytes | Path)}
        assert secret not in names
        assert Path("/etc/passwd") not in names
        assert opened_below(events, folder) <= allowed
        assert {event for event, _ in events} <= {"open"}
        assert everything_below(folder.parent) == before

    mutated()


# --- after a hash that differs


@pytest.mark.parametrize("to", TO)
def test_nothing_is_opened_once_a_file_is_another(copied: Callable[[str], Path], opened: list[Path], to: str) -> None:
    folder = copied(to)
    for name in json.loads((folder / "export.json").read_text())["files"]:
        path = folder / name
        original = path.read_bytes()
        for data in (original[:-1] + bytes([original[-1] ^ 1]), original[:-1], b""):
            path.write_bytes(data)
            assert f"{name}: is not the file that was written" in refused(folder, trusted=True)
        path.unlink()
        assert f"{name}: does not exist" in refused(folder, trusted=True)
        path.write_bytes(original)
        assert opened == []
    ExportedEngine(folder, trusted=True)
    assert len(opened) == 1


@pytest.mark.parametrize("to", TO)
def test_links_are_no_files_of_an_export(copied: Callable[[str], Path], opened: list[Path], to: str) -> None:
    folder = copied(to)
    for name in ("export.json", "canary.safetensors", f"32x32/{GRAPHS[to]}", "32x32"):
        path, outside = folder / name, folder.parent / "outside"
        path.rename(outside)
        path.symlink_to(outside)
        assert "is a link" in refused(folder, trusted=True)
        path.unlink()
        outside.rename(path)
    assert opened == []
    pipe = folder / "32x32" / GRAPHS[to]
    pipe.unlink()
    os.mkfifo(pipe)
    assert "is not a regular file" in refused(folder, trusted=True)
    assert opened == []


def test_only_a_checked_export_is_opened() -> None:
    """Structure: who may open a graph, and through which function of which library."""
    homes = {
        "open_runtime": {"engines/exported.py", "export/write.py"},
        "torch.export.load": {"engines/program.py"},
        "torch._inductor.aoti_load_package": {"engines/native.py"},
        "torch._C._aoti.AOTIModelPackageLoader": {"engines/native.py"},
        "ort.InferenceSession": {"engines/onnx.py"},
        "core().read_model": {"engines/openvino.py"},
    }
    found: dict[str, set[str]] = {name: set() for name in homes}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in found:
                found[name].add(path.relative_to(SOURCE).as_posix())
    assert found["open_runtime"]
    for name, where in found.items():
        assert where <= homes[name], name


# --- descriptions


@pytest.mark.parametrize(
    "changes",
    [
        {"tolerance": 1e30}, {"tolerance": 0.02}, {"tolerance": -1.0}, {"tolerance": 1}, {"errors": [1e400]},
        {"errors": [float("nan")]}, {"errors": [-1.0]}, {"errors": ["0"]}, {"errors": {"0": 1}}, {"errors": []},
        {"sizes": [[16384, 16384]]}, {"sizes": [[32, 32], [32, 32]], "errors": [0.0, 0.0]}, {"sizes": [[32.0, 32.0]]},
        {"sizes": [["32", "32"]]}, {"sizes": [[True, 32]]}, {"sizes": [32, 32]}, {"sizes": [[2**40, 1]]}, {"sizes": None},
        {"maps": 65}, {"maps": True}, {"maps": 1.0}, {"blocks": "a"}, {"blocks": {"a": 1}}, {"precision": ["fp32"]},
        {"to": ["onnx"]}, {"to": None}, {"files": {"canary.safetensors": 1}}, {"sealed": True, "more": 1}, {"facts": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_description_out_of_range_is_refused(copied: Callable[[str], Path], opened: list[Path], changes: dict) -> None:
    folder = copied("onnx")
    rehashed(folder, **changes)
    with watched() as events:
        text = refused(folder)
    assert "export.json: is no" in text  # description, or usable JSON
    assert opened_below(events, folder) == {"export.json"}
    assert opened == []


@pytest.mark.parametrize(("to", "lacking"), [("onnx", "floats.onnx"), ("onnx", "model.onnx.data"), ("openvino", "model.bin")])
def test_every_file_that_a_runtime_opens_is_hashed(
    copied: Callable[[str], Path], opened: list[Path], to: str, lacking: str
) -> None:
    folder = copied(to)
    files = json.loads((folder / "export.json").read_text())["files"]
    rehashed(folder, files={name: digest for name, digest in files.items() if not name.endswith(lacking)})
    assert f"files lacks 32x32/{lacking}" in refused(folder)
    more = write(folder / "32x32" / "more.onnx", "x")
    rehashed(folder, files={**files, "32x32/more.onnx": exported.file_hash(more)})
    assert "belongs to no export" in refused(folder)
    assert opened == []


def test_float_pixels_have_their_own_proof(copied: Callable[[str], Path]) -> None:
    folder = copied("onnx")
    onnx = pytest.importorskip("onnx")
    path = folder / "32x32" / "floats.onnx"
    model = onnx.load(str(path), load_external_data=False)
    small_ones = [tensor for tensor in model.graph.initializer if tensor.data_type == 1 and tensor.raw_data]
    for tensor in small_ones:
        tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) + 1).astype(np.float32).tobytes()
    assert small_ones
    onnx.save(model, str(path))
    rehashed(folder)
    engine = ExportedEngine(folder)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    engine(images)
    with pytest.raises(ExportError) as caught:
        engine(torch.randn(2, 3, 32, 32))
    assert "answers differ by" in one_sentence(caught.value, "float32")


def test_another_canary_than_described_is_refused(copied: Callable[[str], Path], opened: list[Path]) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copied("onnx")
    path = folder / "canary.safetensors"
    original = load_file(path)
    answer, block = "32x32.answer.0", "32x32.block.0"
    assert original.keys() == {answer, block}
    for changes in (
        {"more": np.zeros(3, np.float32)},
        {answer: original[answer].astype(np.float64)},
        {answer: original[answer][0]},
        {answer: np.zeros((1, 0), np.float32)},
        {answer: original[answer] * np.nan},
        {block: original[block][None]},
        {block: None},
    ):
        save_file({name: value for name, value in {**original, **changes}.items() if value is not None}, path)
        rehashed(folder)
        assert "canary.safetensors: holds other values" in refused(folder)
    with path.open("wb") as file:
        file.truncate(2**28 + 1)
    rehashed(folder)
    assert "more than the" in refused(folder)
    save_file(original, path)
    rehashed(folder, precision="int8", tolerance=1e30)
    assert "proves nothing" in refused(folder)
    assert opened == []
    rehashed(folder, precision="int8", tolerance=float(np.abs(original[answer]).max()) / 100)
    ExportedEngine(folder)


# --- ONNX and OpenVINO stay in their folder


def test_the_table_of_fields_is_onnx_s() -> None:
    from swinkit.engines.onnx import TENSORS_IN

    onnx = pytest.importorskip("onnx")
    messages: dict[str, Any] = {}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name not in messages:
            messages[message.name] = message
            waiting += [field.message_type for field in message.fields if field.message_type]
    holding = {"TensorProto"}
    while True:
        more = {name for name, m in messages.items() if any(f.message_type and f.message_type.name in holding for f in m.fields)}
        if more <= holding:
            break
        holding |= more
    expected = {
        name.removesuffix("Proto"): {
            field.number: field.message_type.name.removesuffix("Proto")
            for field in messages[name].fields
            if field.message_type and (field.message_type.name in holding or field.name == "external_data")
        }
        for name in holding
    }
    expected["Tensor"] = dict.fromkeys(expected["Tensor"], "StringStringEntry")
    assert expected == TENSORS_IN


@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph", "function", "sparse"])
@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "floats.onnx", "./model.onnx.data"])
def test_weights_of_onnx_lie_beside_it(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, where: str, location: str
) -> None:
    onnx = pytest.importorskip("onnx")
    folder = copied("onnx")
    write(folder.parent / "secret", bytes(4096))
    path = folder / "32x32" / "model.onnx"
    model = onnx.load(str(path), load_external_data=False)
    tensor = onnx.TensorProto(name="stolen", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    node = onnx.helper.make_node("Constant", [], ["stolen"], value=tensor)
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif where == "attribute":
        model.graph.node.insert(0, node)
    elif where == "function":
        model.functions.add(name="f", domain="d").node.append(node)
    else:
        inside = onnx.helper.make_graph([node], "inside", [], [])
        model.graph.node.insert(0, onnx.helper.make_node("If", ["pixels"], ["x"], then_branch=inside, else_branch=inside))
    onnx.save(model, str(path))
    rehashed(folder)
    monkeypatch.setattr("onnxruntime.InferenceSession", None)  # it must not come to that
    assert "takes weights from another file" in refused(folder)


def test_a_field_that_protobuf_reads_otherwise_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("onnx")
    path = folder / "32x32" / "model.onnx"
    original = path.read_bytes()
    for tail in (b"\xba\x80\x80\x80\x10\x00", b"\xff" * 11, b"\x3a\xff\xff\xff\xff\x0f", b"\x3b", b"\x3a\x05ab"):
        path.write_bytes(original + tail)
        rehashed(folder)
        assert "is no graph of ONNX" in refused(folder)


def test_a_graph_of_openvino_is_one(copied: Callable[[str], Path], exports: Callable[[str], Path]) -> None:
    """OpenVINO reads ONNX, TensorFlow and others under any name, and those fetch weights from where they say."""
    onnx = pytest.importorskip("onnx")
    folder, other = copied("openvino"), exports("onnx")
    write(folder.parent / "secret", (other / "32x32" / "model.onnx.data").read_bytes())
    model = onnx.load(str(other / "32x32" / "model.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../secret"
    for data in (model.SerializeToString(), b"", b"<?xml version='1.0'?><nets>", b"\x08\x01<?xml?><net >"):
        (folder / "32x32" / "model.xml").write_bytes(data)
        rehashed(folder)
        assert "model.xml: is no graph of OpenVINO" in refused(folder)


def test_plain_onnxruntime_runs_an_export_and_names_its_batch(exports: Callable[[str], Path]) -> None:
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    for name in ("model.onnx", "floats.onnx"):
        path = exports("onnx") / "32x32" / name
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
        assert session.get_outputs()[0].shape == ["batch", 10]
        onnx.checker.check_model(str(path))
        model = onnx.load(str(path), load_external_data=False)
        axes = {dim.dim_param for value in model.graph.value_info for dim in value.type.tensor_type.shape.dim if dim.dim_param}
        assert axes <= {"batch", *(f"{windows}*batch" for windows in range(2, 200))}
        assert str(SOURCE.parent).encode() not in path.read_bytes()  # no place of the author's files
        network, _ = small()
        pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
        given_ = pixels if name == "model.onnx" else pixels.astype(np.float32)
        with torch.inference_mode():
            expected = network((torch.from_numpy(pixels).float() / 255.0 - 0.4) / 0.2)
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"pixels": given_})[0]), expected, atol=1e-4, rtol=0)


# --- no room, strange names


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("to", TO)
def test_a_disk_without_room_is_a_sentence(tmp_path: Path, to: str) -> None:
    for module in NEEDS[to]:
        pytest.importorskip(module)
    seal.seal(b"")  # the secret is there before the disk is full
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        with pytest.raises(ExportError) as caught:
            export_network(*small(), tmp_path / "e", to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "make room on that disk" in one_sentence(caught.value, "e: cannot be written")
    assert everything_below(tmp_path) == set()


def test_a_name_cannot_forge_a_line(copied: Callable[[str], Path]) -> None:
    folder = copied("torch")
    strange = folder.with_name("copy\nall is well\x1b[31m\u202e")
    folder.rename(strange)
    rehashed(strange)
    with pytest.raises(UnsafeFile) as caught:
        ExportedEngine(strange)
    text = one_sentence(caught.value, "copy\\nall is well\\x1b[31m")
    assert text.isprintable()
