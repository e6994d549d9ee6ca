"""Exports: equal to the network, proved as they are written, refused when they are no longer what was written."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.hostile import everything_below, one_sentence, write
from tests.test_engines import SHAPE, maps, normalised, shaken, tiny
from torch import nn

from swinkit.engines import program
from swinkit.engines.exported import ExportedEngine, Manifest, file_hash, graph_path
from swinkit.engines.manifest import LARGEST_MANIFEST
from swinkit.errors import ExportError, InputError, MissingExtraError
from swinkit.export import OnDemandEngine, cache, export_network
from swinkit.export import write as writing
from swinkit.models import windows
from swinkit.models.classifier import SwinClassifier
from swinkit.specs import ModelSpec, Preprocessing

LIBRARY = {"openvino": "openvino", "onnx": "onnxruntime", "torch": "torch"}
LABELS = tuple("abcdefghij")
SIZES = {"classifier": [(64, 64), (50, 70)], "pyramid": [(50, 70)], "upernet": [(48, 64)]}
# Every kind of file with every kind of network would take a minute more and meet no other code.
MADE = [("openvino", "classifier"), ("onnx", "classifier"), ("torch", "classifier")]
MADE += [("openvino", "upernet"), ("onnx", "pyramid"), ("torch", "pyramid")]
TO = ("openvino", "onnx", "torch")


def described(kind: str) -> ModelSpec:
    if kind == "pyramid":
        return ModelSpec(SHAPE.changed(num_classes=0), Preprocessing((50, 70)))
    if kind == "upernet":
        network = tiny(kind)
        variant = network.backbone.variant.changed(num_classes=3)  # type: ignore[union-attr]
        return ModelSpec(variant, Preprocessing((48, 64), "box"), LABELS[:3], "segment", decoder=network.decoder)  # type: ignore[arg-type]
    return ModelSpec(SHAPE, Preprocessing((64, 64)), LABELS, name="tiny")


def small(in_chans: int = 3) -> tuple[SwinClassifier, ModelSpec]:
    """Return a network whose export takes a second, and its description."""
    torch.manual_seed(3)
    variant = SHAPE.changed(embed_dim=16, depths=(1,), num_heads=(1,), img_size=32, in_chans=in_chans)
    preprocessing = Preprocessing((32, 32), mean=(0.4,) * in_chans, std=(0.2,) * in_chans)
    network = shaken(SwinClassifier(variant))
    assert isinstance(network, SwinClassifier)
    return network, ModelSpec(variant, preprocessing, LABELS)


@pytest.fixture(autouse=True, scope="module")
def _own_secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWINKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return a function (library, kind of network) -> folder of the export, made once."""
    root, there = tmp_path_factory.mktemp("exports"), {}

    def get(to: str, kind: str = "classifier") -> Path:
        for module in (LIBRARY[to], "onnxscript" if to == "onnx" else "torch"):
            pytest.importorskip(module)
        if (to, kind) not in there:
            there[to, kind] = root / f"{to}-{kind}"
            windows._cached.cache_clear()  # tables of positions may first be asked for inside an export
            export_network(tiny(kind), described(kind), there[to, kind], to, SIZES[kind])
        return there[to, kind]

    return get


@pytest.fixture
def copied(exports: Callable[[str, str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a function library -> a classifier's export that may be damaged."""
    return lambda to: Path(shutil.copytree(exports(to, "classifier"), tmp_path / "copy"))


def rehashed(folder: Path, **changes: object) -> None:
    """Write a manifest that agrees with the files as they are now, as a stranger can: what no hash notices, without a seal."""
    values = json.loads((folder / "export.json").read_text())
    del values["sha256"]
    values.pop("seal", None)
    values["files"] = {name: file_hash(folder / name) if (folder / name).is_file() else "" for name in values["files"]}
    values |= changes
    values["sha256"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (folder / "export.json").write_text(json.dumps(values))


def refused(folder: Path, trusted: bool = False) -> str:
    with pytest.raises(ExportError) as caught:
        ExportedEngine(folder, trusted)
    return one_sentence(caught.value, folder.name)


# --- equal


@pytest.mark.parametrize(("to", "kind"), MADE)
def test_an_export_answers_as_the_network(exports: Callable[[str, str], Path], to: str, kind: str) -> None:
    engine, network = ExportedEngine(exports(to, kind)), tiny(kind)
    assert max(engine.manifest.errors) <= 1e-4
    assert engine.manifest.blocks[0].endswith("layers.0.blocks.0")
    with torch.inference_mode():
        for size in SIZES[kind]:
            for batch in (1, 3):
                pixels = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
                images = normalised(pixels, engine.spec.preprocessing)
                expected = maps(network(images))
                for given in (pixels, images):
                    found = maps(engine(given))
                    assert [item.dtype for item in found] == [torch.float32] * len(expected)
                    for ours, theirs in zip(found, expected, strict=True):
                        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("kind", [kind for to, kind in MADE if to == "openvino"])
def test_a_graph_compiled_for_a_number_of_pictures_answers_the_same(exports: Callable[[str, str], Path], kind: str) -> None:
    from swinkit.engines.openvino import AGAIN

    engine, network = ExportedEngine(exports("openvino", kind)), tiny(kind)
    (runtime,) = engine._runtimes.values()
    with torch.inference_mode():
        for batches, kept in (
            ([4] * (AGAIN + 2) + [3, 2, 1], {4: 2}),  # the last that came again and again,
            ([5] * (AGAIN + 1), {5: 1}),  # as many for each thread, where that can be
            ([6] * (AGAIN + 1) + [5], {6: 2}),
        ):
            for batch in batches:
                pixels = torch.randint(0, 256, (batch, 3, *SIZES[kind][0]), dtype=torch.uint8)
                for ours, theirs in zip(
                    maps(engine(pixels)), maps(network(normalised(pixels, engine.spec.preprocessing))), strict=True
                ):
                    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
            assert {batch: len(graph._requests) for (_, batch), graph in runtime._shared.items()} == kept


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("batch", [1, 2])
def test_answers_stay_as_they_were_while_anything_looks_at_them(exports: Callable[[str, str], Path], batch: int) -> None:
    engine, network = ExportedEngine(exports("openvino", "pyramid")), tiny("pyramid")
    pictures = [torch.randint(0, 256, (batch, 3, *SIZES["pyramid"][0]), dtype=torch.uint8) for _ in range(8)]
    with torch.inference_mode():
        expected = [maps(network(normalised(pixels, engine.spec.preprocessing)))[-1] for pixels in pictures]
        answers = [maps(engine(pixels))[-1] for pixels in pictures]  # all are held
        rows = [maps(engine(pixels))[-1][:, 0].numpy()[:, 1:] for pixels in pictures]  # parts of parts are
        places = set()
        for pixels in pictures:  # the latest is
            latest = maps(engine(pixels))[-1]
            places.add(latest.data_ptr())
    for answer, row, truth in zip(answers, rows, expected, strict=True):
        torch.testing.assert_close(answer, truth, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.from_numpy(row), truth[:, 0, 1:], atol=1e-4, rtol=0)
    torch.testing.assert_close(latest, expected[-1], atol=1e-4, rtol=0)
    assert len(places) == 2  # memory that nobody looks at is written into again


@pytest.mark.parametrize("to", TO)
def test_answers_are_the_caller_s_own(exports: Callable[[str, str], Path], to: str) -> None:
    engine = ExportedEngine(exports(to, "classifier"))
    first = engine(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    kept = first.clone()
    engine(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8))
    assert torch.equal(first, kept)
    first += 1  # may be written to
    again = engine(torch.zeros(1, 3, 64, 64).requires_grad_())
    assert not again.requires_grad


@pytest.mark.parametrize("to", TO)
def test_a_size_that_was_not_declared_is_refused(exports: Callable[[str, str], Path], to: str) -> None:
    engine = ExportedEngine(exports(to, "classifier"))
    with pytest.raises(InputError) as caught:
        engine(torch.zeros(1, 3, 64, 63))
    assert one_sentence(caught.value, "64x64, 50x70").count("64x63") == 2


def test_labels_and_preparation_travel_inside(exports: Callable[[str, str], Path]) -> None:
    spec = described("classifier")
    openvino = importlib.import_module("openvino")
    model = openvino.Core().read_model(str(graph_path(exports("openvino", "classifier"), "openvino", (64, 64))))
    inside = [str(model.get_rt_info(["swinkit"]).value)]
    onnx = pytest.importorskip("onnx")
    for name in ("model.onnx", "floats.onnx"):
        graph = onnx.load(str(exports("onnx", "classifier") / "64x64" / name), load_external_data=False)
        inside += [item.value for item in graph.metadata_props if item.key == "swinkit"]
    extra = {program.DESCRIPTION: ""}
    torch.export.load(str(graph_path(exports("torch", "classifier"), "torch", (64, 64))), extra_files=extra)
    inside.append(extra[program.DESCRIPTION])
    assert [ModelSpec.from_dict(json.loads(text)) for text in inside] == [spec] * 4
    assert ExportedEngine(exports("torch", "classifier")).spec == spec


def test_the_source_is_left_as_it_was(tmp_path: Path) -> None:
    network, spec = small()
    network.train().get_submodule("norm").eval()
    before = {name: module.training for name, module in network.named_modules()}
    weights = [value.clone() for value in network.state_dict().values()]
    export_network(network, spec, tmp_path / "e", "torch")
    assert {name: module.training for name, module in network.named_modules()} == before
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), weights, strict=True))
    assert not any(module._forward_hooks for module in network.modules())


def test_grey_networks_are_exported_too(tmp_path: Path) -> None:
    network, spec = small(in_chans=1)
    export_network(network, spec, tmp_path / "grey", "torch")
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ExportedEngine(tmp_path / "grey")(images), network(images), atol=1e-4, rtol=0)


def test_the_usual_size_is_one_that_photos_get() -> None:
    shape = described("classifier").variant
    for box, expected in (((512, 2048), (512, 683)), ((512, 600), (450, 600)), ((48, 64), (48, 64))):
        assert writing.default_size(ModelSpec(shape, Preprocessing(box, "box"))) == expected
    assert writing.default_size(ModelSpec(shape, Preprocessing((32, 40)))) == (32, 40)


# --- damaged


def flip(path: Path) -> None:
    """Change one weight, of a layer that is written as it is (others are folded), as it lies or turned."""
    data, weight = bytearray(path.read_bytes()), tiny("classifier").get_parameter("layers.1.blocks.0.mlp.fc2.weight").detach()
    place = max(data.find(values.contiguous().numpy().tobytes()) for values in (weight, weight.T))
    assert place >= 0
    data[place + 3] ^= 0x40
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(("to", "file"), [("openvino", "model.bin"), ("onnx", "model.onnx.data"), ("torch", "model.pt2")])
def test_a_flipped_weight_is_refused(copied: Callable[[str], Path], to: str, file: str) -> None:
    folder = copied(to)
    flip(folder / "64x64" / file)
    text = refused(folder)
    assert f"64x64/{file}: is not the file that was written; export again" in text
    assert "swinkit export" in text


@pytest.mark.parametrize(("to", "file"), [("openvino", "model.bin"), ("onnx", "model.onnx"), ("torch", "model.pt2")])
def test_truncated_and_missing_files_are_refused(copied: Callable[[str], Path], to: str, file: str) -> None:
    folder = copied(to)
    path = folder / "50x70" / file
    path.write_bytes(path.read_bytes()[:-100])
    assert f"50x70/{file}" in refused(folder)
    path.unlink()
    assert f"50x70/{file}: does not exist" in refused(folder)


def test_the_second_size_s_file_is_not_mistaken_for_the_first_s(copied: Callable[[str], Path]) -> None:
    folder = copied("onnx")
    flip(folder / "50x70" / "model.onnx.data")
    assert "50x70/model.onnx.data: is not the file that was written" in refused(folder)
    shutil.copy(folder / "64x64" / "floats.onnx", folder / "50x70" / "floats.onnx")
    shutil.copy(folder / "64x64" / "model.onnx.data", folder / "50x70" / "model.onnx.data")
    assert "50x70/" in refused(folder)


def test_an_edited_description_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("onnx")
    manifest = folder / "export.json"
    original = manifest.read_text()
    for old, new in (('"a"', '"z"'), ('"tolerance": 0.0001', '"tolerance": 100.0'), ('"maps": 1', '"maps": 2')):
        assert old in original
        manifest.write_text(original.replace(old, new, 1))
        assert "was changed after it was written" in refused(folder)
    for text in ("", "[]", "{}", "[" * 100_000, original[:-20], original.replace("sha256", "sha257"), "\x00"):
        manifest.write_text(text)
        refused(folder)
    with manifest.open("wb") as file:
        file.truncate(LARGEST_MANIFEST + 1)
    assert "more than the" in refused(folder)
    manifest.unlink()
    assert "export.json: does not exist" in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"to": "tensorrt"}, {"sizes": []}, {"sizes": [[64, 64], [0, 3]]}, {"maps": 0}, {"maps": "1"}, {"tolerance": None},
        {"files": {}}, {"files": ["a"]}, {"blocks": [1]}, {"spec": {}}, {"precision": "int1"}, {"errors": [0.0]}, {"more": 1},
        {"software": 3}, {"facts": []}, {"sizes": [[32, 32]], "errors": [0.0]},
    ],
    ids=str,
)  # fmt: skip
def test_a_description_of_other_things_is_refused(copied: Callable[[str], Path], changes: dict) -> None:
    folder = copied("onnx")
    rehashed(folder, **changes)
    assert "is no description of an export" in refused(folder)


def test_a_manifest_that_points_outside_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("onnx")
    outside = write(folder.parent / "secret", "x")
    files = json.loads((folder / "export.json").read_text())["files"]
    for name in ("../secret", str(outside), "64x64/../../secret"):
        rehashed(folder, files={**files, name: file_hash(outside)})
        assert "is no description of an export" in refused(folder)


def test_another_canary_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("onnx")
    canary = folder / "canary.safetensors"
    data = bytearray(canary.read_bytes())
    data[-3] ^= 0x40
    canary.write_bytes(bytes(data))
    assert "canary.safetensors: is not the file that was written" in refused(folder)
    canary.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{no json")
    rehashed(folder)
    assert "canary.safetensors: cannot be read" in refused(folder)


@pytest.mark.parametrize(("to", "file"), [("openvino", "model.bin"), ("onnx", "model.onnx.data")])
def test_a_canary_notices_another_weight_under_right_hashes(copied: Callable[[str], Path], to: str, file: str) -> None:
    folder = copied(to)
    flip(folder / "64x64" / file)
    rehashed(folder)
    text = refused(folder)
    assert "answers differ by" in text
    assert "the first block that differs is layers." in text


def test_a_canary_notices_another_network_under_right_hashes(copied: Callable[[str], Path]) -> None:
    folder, to = copied("torch"), "torch"
    network = tiny("classifier")
    with torch.no_grad():
        network.get_parameter("layers.0.blocks.1.mlp.fc2.weight")[3, 5] += 0.5
    export_network(network, described("classifier"), folder.parent / "other", to, [(64, 64)])
    for path in (folder.parent / "other" / "64x64").iterdir():
        shutil.copy(path, folder / "64x64" / path.name)
    assert "64x64" in refused(folder)
    rehashed(folder)
    text = refused(folder, trusted=True)
    assert "answers differ by" in text
    assert "the first block that differs is layers.0.blocks.1" in text


def test_a_program_is_an_archive_as_torch_writes_it(copied: Callable[[str], Path]) -> None:
    folder = copied("torch")
    path = folder / "64x64" / "model.pt2"
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]

    def packed(members: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> None:
        with zipfile.ZipFile(path, "w", how) as archive:
            for name, data in members:
                archive.writestr(name, data)
        rehashed(folder)

    packed(members)
    ExportedEngine(folder, trusted=True)
    packed([*members, ("model/bomb", bytes(10_000_000))], zipfile.ZIP_DEFLATED)
    assert "its members are packed or doubled" in refused(folder, trusted=True)
    with pytest.warns(UserWarning, match="Duplicate name"):
        packed([*members, members[0]])
    assert "its members are packed or doubled" in refused(folder, trusted=True)
    path.write_bytes(b"PK no zip")
    rehashed(folder)
    assert "is no program of torch.export" in refused(folder, trusted=True)


# --- nothing half-written


def test_a_proof_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export_network(*small(), tmp_path / "e", "torch", tolerance=0.0)
    assert "largest difference" in one_sentence(caught.value, "32x32")
    assert everything_below(tmp_path) == set()


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object) -> None:
        assert everything_below(tmp_path)
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "open_runtime", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_network(*small(), tmp_path / "e", "torch")
    assert everything_below(tmp_path) == set()


def test_what_cannot_be_made_is_said_first(tmp_path: Path) -> None:
    network, spec = nn.Identity(), described("classifier")
    with pytest.raises(InputError, match="there is no export to 'coreml'"):
        export_network(network, spec, tmp_path / "e", "coreml")
    with pytest.raises(InputError, match="between 1 and 16384"):
        export_network(network, spec, tmp_path / "e", "torch", [(0, 5)])
    with pytest.raises(InputError, match="exists already"):
        export_network(network, spec, tmp_path, "torch")


def test_a_missing_library_gives_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without(name: str, package: str | None = None) -> object:
        if name.split(".")[0] in ("openvino", "onnx", "onnxscript"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr("swinkit.extras.importlib.import_module", without)
    for to, library in (("openvino", "openvino"), ("onnx", "onnxscript")):
        with pytest.raises(MissingExtraError) as caught:
            export_network(*small(), tmp_path / to, to)
        assert "pip install 'swinkit[export]'" in one_sentence(caught.value, library)
    assert everything_below(tmp_path) == set()


# --- made on demand


def test_exports_on_demand_are_kept_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    real = cache.export_network

    def counted(
        network: nn.Module, spec: ModelSpec, folder: Path, to: str, sizes: list[tuple[int, int]], facts: dict[str, str]
    ) -> Manifest:
        made.extend(sizes)
        return real(network, spec, folder, to, sizes, facts=facts)

    monkeypatch.setattr(cache, "export_network", counted)
    network, spec = small()
    engine = OnDemandEngine(network, spec, "torch", tmp_path)
    assert made == [(32, 32)]
    images = torch.randn(1, 3, 32, 32)
    expected = engine(images)
    assert torch.equal(OnDemandEngine(network, spec, "torch", tmp_path)(images), expected)
    assert made == [(32, 32)]
    (folder,) = [path.parent for path in tmp_path.rglob("export.json")]
    spoilt = folder / "32x32" / "model.pt2"
    spoilt.write_bytes(spoilt.read_bytes()[:-4] + bytes(4))
    assert torch.equal(OnDemandEngine(network, spec, "torch", tmp_path)(images), expected)
    assert made == [(32, 32)] * 2
    monkeypatch.setattr(cache, "CACHE_BYTES", 0)
    with torch.no_grad():
        network.get_parameter("head.bias").add_(1)
    other = OnDemandEngine(network, spec, "torch", tmp_path)  # needs the room of the first
    assert not folder.parent.exists()
    torch.testing.assert_close(other(images), expected + 1)
    torch.testing.assert_close(engine(images), expected)  # what is open stays open
    assert len(list(tmp_path.rglob("export.json"))) == 1


def test_a_network_with_counters_can_be_told_from_others(tmp_path: Path) -> None:
    network, spec = tiny("upernet"), described("upernet")  # its batch norms count batches in a tensor without axes
    engine = OnDemandEngine(network, spec, "torch", tmp_path)
    images = torch.randn(1, 3, 48, 64)
    with torch.inference_mode():
        torch.testing.assert_close(engine(images), network(images), atol=1e-4, rtol=0)
    next(network.buffers()).add_(1)
    assert OnDemandEngine(network, spec, "torch", tmp_path)._shelf.folder != engine._shelf.folder


SIGNAL = """
import gc, signal, sys
from pathlib import Path
from swinkit.engines.exported import open_runtime
handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
runtimes = [open_runtime("openvino", Path(sys.argv[1])) for _ in range(2)]
while runtimes:  # first come, first gone
    del runtimes[0]
    gc.collect()
signal.raise_signal(signal.SIGUSR1)
print("handled", len(handled))
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_signal_after_graphs_were_closed_is_no_crash(exports: Callable[[str, str], Path]) -> None:
    path = graph_path(exports("openvino", "classifier"), "openvino", (64, 64))
    done = subprocess.run([sys.executable, "-c", SIGNAL, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled 1\n"), done.stderr
