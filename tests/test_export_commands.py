"""One predictor, several engines; eight bits with their gate; the commands around them."""

from __future__ import annotations

import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.hostile import everything_below, one_sentence, photo
from tests.test_engines import shaken
from tests.test_export import rehashed

import swinkit
from swinkit.cli import main
from swinkit.data.transforms import prepare
from swinkit.engines.exported import ENGINES, Engine, ExportedEngine, Manifest, fastest, processor
from swinkit.engines.kernels import compiler
from swinkit.engines.steps import heard_by
from swinkit.errors import ExportError, InputError, UnknownName, UnsafeFile
from swinkit.export import CompiledEngine
from swinkit.models import create_model
from swinkit.models.classifier import SwinClassifier
from swinkit.models.segmentation import Segmenter
from swinkit.prediction.timing import installed
from swinkit.runs import export as exporting
from swinkit.specs import MaskRules, ModelSpec, Preprocessing, Variant
from swinkit.weights import save_native

SHAPE = Variant(embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=4, img_size=32, num_classes=3)
LABELS = ("ant", "bee", "cat")
NEEDED = {"openvino": "openvino", "onnxruntime": "onnxruntime"}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWINKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small classifier."""
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    spec = ModelSpec(SHAPE, Preprocessing((32, 32)), LABELS, name="tiny", facts={"licence": "CC0"})
    return save_native(path, shaken(SwinClassifier(SHAPE)).state_dict(), spec) or path


@pytest.fixture(scope="module")
def one_block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a classifier of one block: what is slow for each block is quick."""
    torch.manual_seed(2)
    variant = SHAPE.changed(depths=(1,), num_heads=(1,))
    path = tmp_path_factory.mktemp("one") / "one.safetensors"
    spec = ModelSpec(variant, Preprocessing((32, 32)), LABELS)
    return save_native(path, shaken(SwinClassifier(variant)).state_dict(), spec) or path


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small segmenter whose photos are fitted into 32 x 48."""
    torch.manual_seed(2)
    shape = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 4}
    network = shaken(create_model("fpn", 2, backbone="swin_tiny", channels=8, neck_channels=8, auxiliary_channels=0, **shape))
    assert isinstance(network, Segmenter)
    variant = network.backbone.variant.changed(num_classes=2)  # type: ignore[union-attr]
    spec = ModelSpec(variant, Preprocessing((32, 48), "box"), ("a", "b"), "segment", decoder=network.decoder, masks=MaskRules())
    path = tmp_path_factory.mktemp("segmenter") / "segmenter.safetensors"
    return save_native(path, network.state_dict(), spec) or path


@pytest.fixture(scope="module")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the small classifier to a program, made by the command."""
    folder = tmp_path_factory.mktemp("exported") / "program"
    assert main(["export", str(tiny), str(folder), "--to", "torch", "--size", "32x32", "--size", "40X24"]) == 0
    return folder


def sentence(words: list[str], capsys: pytest.CaptureFixture[str], named: str) -> str:
    """Run a command that must fail, and return the one sentence it says."""
    assert main(words) == 1
    text = capsys.readouterr().err.strip()
    assert text.count("\n") == 0, text
    assert named in text
    assert "internal error" not in text
    return text


# --- engines


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_every_engine_predicts_as_torch(embedded: str, engine: str) -> None:
    if engine in NEEDED:
        pytest.importorskip(NEEDED[engine])
    predicts_as_torch(embedded, engine)


def test_the_compiled_engine_predicts_as_torch(one_block: Path) -> None:
    if compiler() is None:
        pytest.skip("needs a C++ compiler")
    predicts_as_torch(one_block, "compile")


def test_machine_code_of_others_is_opened_only_when_it_is_trusted(one_block: Path, tmp_path: Path) -> None:
    if compiler() is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path / "code"
    assert main(["export", str(one_block), str(folder), "--to", "aotinductor", "--size", "32x32", "--size", "40x24"]) == 0
    predictor, network = swinkit.load(folder), swinkit.load(one_block).model  # this user wrote it
    assert predictor.engine == "compile"
    for batch, size in ((1, (32, 32)), (5, (40, 24))):
        images = torch.randn(batch, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(predictor.model(images), network(images), atol=1e-4, rtol=0)
    manifest = Manifest.read(folder)
    stray = folder / "32x32" / "attend_0123456789ab.so"  # no hash would guard it
    shutil.copy(next(folder.rglob("attend_*.so")), stray)
    with pytest.raises(UnsafeFile) as caught_stray:
        swinkit.load(folder)
    one_sentence(caught_stray.value, "attend_0123456789ab.so")
    stray.unlink()
    rehashed(folder)  # as somebody else would write it
    for engine in (None, "auto", "compile"):
        with pytest.raises(UnsafeFile) as caught:
            swinkit.load(folder, engine=engine)
        one_sentence(caught.value, "--trust")
    assert swinkit.load(folder, trust=True).engine == "compile"
    manifest.software["processor"] = "x86_64 ANOTHER"
    (folder / "export.json").write_text(manifest.to_json())
    with pytest.raises(ExportError) as caught_other:
        swinkit.load(folder)
    one_sentence(caught_other.value, "x86_64 ANOTHER")


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this torch does not say what the processor has")
def test_machine_code_says_the_units_that_it_is_compiled_for() -> None:
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    flags = pick_vec_isa().build_arch_flags().split()
    for flag, unit in (("-mavx512vnni", "avx512_vnni"), ("-mamx-int8", "amx_int8")):
        assert flag not in flags or unit in processor().split()


@pytest.mark.slow
def test_an_accelerator_s_engine_compiles_every_shape(one_block: Path) -> None:
    model = swinkit.load(one_block)
    engine = CompiledEngine(model.model, model.spec)  # type: ignore[arg-type]
    for batch in (3, 2, 4):  # two are filled up to three
        images = torch.randn(batch, 3, 32, 32)
        with torch.inference_mode():
            torch.testing.assert_close(engine(images), model.model(images), atol=1e-4, rtol=0)
    assert len(engine._graphs) == 2


@pytest.mark.slow
def test_the_compiled_embedded_network_predicts_as_torch(embedded: str) -> None:
    predicts_as_torch(embedded, "compile")


def predicts_as_torch(source: str | Path, engine: str) -> None:
    plain, other = swinkit.load(source), swinkit.load(source, engine=engine)
    assert (plain.engine, other.engine) == ("torch", engine)
    photos = [photo(seed, (40, 30)) for seed in range(3)]
    for ours, theirs in zip(other.predict(photos, top=10), plain.predict(photos, top=10), strict=True):
        assert [item.label for item in ours.predictions] == [item.label for item in theirs.predictions]
        found, expected = ([item.probability for item in result.predictions] for result in (ours, theirs))
        assert found == pytest.approx(expected, abs=1e-4)
    images = torch.stack([prepare(item, plain.preprocessing) for item in photos])
    with torch.inference_mode():
        answer = other.model(images)
        torch.testing.assert_close(answer, plain.model(images), atol=1e-4, rtol=0)
    assert isinstance(answer, torch.Tensor)
    assert answer.device.type == "cpu"


def test_an_engine_s_network_can_be_saved(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    predictor = swinkit.load(tiny, engine="onnxruntime")
    assert isinstance(predictor.model, Engine)
    predictor.save_pretrained(tmp_path / "saved")
    again = swinkit.load(tmp_path / "saved").predict(photo())
    assert again.top.probability == pytest.approx(predictor.predict(photo()).top.probability, abs=1e-5)


def test_several_threads_may_predict(tiny: Path) -> None:
    pytest.importorskip("openvino")
    predictor = swinkit.load(tiny, engine="openvino")
    photos = [photo(seed) for seed in range(4)]
    expected = [result.top.probability for result in predictor.predict(photos)]
    found: dict[int, list[float]] = {}

    def work(place: int) -> None:
        found[place] = [predictor.predict(photos[place]).top.probability for _ in range(10)]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, values in found.items():
        assert values == pytest.approx([expected[place]] * 10, abs=1e-5)
    assert len(found) == 4


def test_auto_takes_what_is_installed_and_says_which(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "openvino" in installed():
        assert fastest(torch.device("cpu")) == "openvino"
        swinkit.load(tiny, engine="openvino")  # "auto" takes what is built
        assert swinkit.load(tiny, engine="auto").engine in ("openvino", "compile")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    if compiler() is not None:
        assert fastest(torch.device("cpu")) == "compile"
    monkeypatch.setattr("swinkit.engines.kernels.building.shutil.which", lambda name: None)
    assert swinkit.load(tiny, engine="auto").engine == fastest(torch.device("cpu")) == "torch"
    assert "openvino" not in installed()


def test_an_unknown_engine_is_answered_with_the_nearest(tiny: Path) -> None:
    with pytest.raises(InputError) as caught:
        swinkit.load(tiny, engine="openvin")
    assert "did you mean 'openvino'" in one_sentence(caught.value, "openvin") or "openvino" in str(caught.value)
    assert all(name in str(caught.value) for name in ENGINES)


def test_without_a_compiler_torch_answers_for_compile_and_nothing_is_exported(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swinkit.engines.kernels.building.shutil.which", lambda name: None)
    said: list[str] = []
    with heard_by(lambda _: None, said.append):
        assert swinkit.load(tiny, engine="compile").engine == "torch"
    assert len(said) == 1
    assert "install g++" in said[0]
    assert "torch answers" in said[0]
    with pytest.raises(InputError) as caught:
        exporting.export(tiny, tmp_path / "code", "aotinductor", [(32, 32)])
    one_sentence(caught.value, "g++")
    assert not (tmp_path / "code").exists()
    assert "compile" not in installed()


# --- an export in place of a checkpoint


def test_an_export_predicts_as_its_checkpoint(exported: Path, tiny: Path, tmp_path: Path) -> None:
    predictor = swinkit.load(exported)
    assert predictor.engine == "torch"
    assert predictor.labels == list(LABELS)
    expected, found = swinkit.load(tiny).predict(photo()), predictor.predict(photo())
    assert found.top.label == expected.top.label
    assert found.top.probability == pytest.approx(expected.top.probability, abs=1e-5)
    assert swinkit.load(exported, device="auto", engine="auto").engine == "torch"
    with pytest.raises(InputError, match="save the checkpoint that it was made from"):
        predictor.save_pretrained(tmp_path / "saved")
    with pytest.raises(InputError, match="was exported for the engine torch, not openvino"):
        swinkit.load(exported, engine="openvino")


def test_a_pyramid_predicts_nothing_and_says_how_it_is_called(tiny: Path, tmp_path: Path) -> None:
    exporting.export(tiny, tmp_path / "maps", "torch", [(32, 32)], pyramid=True)
    with pytest.raises(InputError) as caught:
        swinkit.load(tmp_path / "maps")
    one_sentence(caught.value, "ExportedEngine")
    answer = ExportedEngine(tmp_path / "maps")(torch.zeros(2, 3, 32, 32))
    assert [tuple(item.shape) for item in answer] == [(2, 16, 8, 8), (2, 32, 4, 4)]


def test_commands_meet_an_export(exported: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(exported)]) == 0
    out = capsys.readouterr().out
    for part in ("torch (fp32), run by the engine torch", "3: ant, bee, cat", "32x32", "40x24", "CC0", "squashed to 32x32"):
        assert part in out
    assert "is an export" in sentence(["convert", str(exported), str(tmp_path / "x"), "--to", "hf"], capsys, exported.name)
    assert "is an export" in sentence(["export", str(exported), str(tmp_path / "x"), "--to", "onnx"], capsys, exported.name)
    photo().save(tmp_path / "p.png")
    assert main(["predict", str(tmp_path / "p.png"), "--model", str(exported)]) == 0
    assert f"with {exported} on cpu by torch" in capsys.readouterr().out
    data = bytearray((exported / "canary.safetensors").read_bytes())
    broken = shutil.copytree(exported, tmp_path / "broken")
    (broken / "canary.safetensors").write_bytes(data[:-1])
    words = ["predict", str(tmp_path / "p.png"), "--model", str(broken)]
    sentence(words, capsys, "canary.safetensors: is not the file that was written")


def test_the_export_command_says_sizes_and_errors(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tiny), str(tmp_path / "e"), "--to", "torch"]) == 0
    out = capsys.readouterr().out
    assert "32x32, any batch: largest difference from the network " in out
    assert f"wrote {tmp_path / 'e'}" in out
    words = ["export", str(tiny), str(tmp_path / "f"), "--to", "torch"]
    for size in ("32", "axb", "0x5", "32x", "99999x9", "-1x5", "1" * 5000 + "x2"):
        sentence([*words, f"--size={size}"], capsys, "size")
    assert "--data is for --int8" in sentence([*words, "--data", "x"], capsys, "--data")
    assert "eight bits are written for OpenVINO" in sentence([*words, "--int8", "--data", "x"], capsys, "OpenVINO")
    assert "--int8 needs --data" in sentence([*words[:-1], "openvino", "--int8"], capsys, "--data")
    assert "exists already" in sentence([*words[:2], str(tmp_path / "e"), "--to", "torch"], capsys, "free")
    assert main([*words[:-1], "coreml"]) == 2
    assert everything_below(tmp_path) == {"e", *(f"e/{name}" for name in everything_below(tmp_path / "e"))}


def test_predict_and_benchmark_take_an_engine(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    photo().save(tmp_path / "p.png")
    assert main(["predict", str(tmp_path / "p.png"), "--model", str(tiny), "--engine", "onnxruntime"]) == 0
    assert "by onnxruntime" in capsys.readouterr().out
    words = ["benchmark", str(tiny), "--engine", "onnxruntime", "--batch", "1", "--batch", "2", "--rounds", "1"]
    assert main([*words, "--json", str(tmp_path / "b.json")]) == 0
    out = capsys.readouterr().out
    assert "largest difference" in out
    rows = json.loads((tmp_path / "b.json").read_text())
    assert [(row["engine"], row["batch"]) for row in rows] == [(name, b) for b in (1, 2) for name in ("torch", "onnxruntime")]
    assert all(row["error"] <= 1e-4 and row["ms"] > 0 for row in rows)
    monkeypatch.setattr("swinkit.prediction.timing.fastest", lambda device: "onnxruntime")
    again = ["benchmark", str(tiny), "--engine", "auto", "--batch", "1", "--rounds", "1", "--json", str(tmp_path / "b.json")]
    assert main(again) == 0
    assert [row["engine"] for row in json.loads((tmp_path / "b.json").read_text())] == ["torch", "onnxruntime"]
    assert "there is no engine" in sentence(["benchmark", str(tiny), "--engine", "tensorrt"], capsys, "tensorrt")
    assert main(["predict", str(tmp_path / "p.png"), "--engine", "tensorrt"]) == 2


# --- eight bits


@pytest.fixture(scope="module")
def cifar(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of each class to calibrate and sixteen to judge, of CIFAR-10."""
    root = tmp_path_factory.mktemp("cifar")
    archive = shared / "data" / "cifar10" / "train-4.zip"
    if not archive.is_file():
        pytest.skip("needs ../shared/data/cifar10")
    with zipfile.ZipFile(archive) as zipped:
        names: dict[str, list[str]] = {}
        for name in sorted(zipped.namelist()):
            if name.endswith(".jpg"):
                names.setdefault(name.split("/")[-2], []).append(name)
        for label, files in names.items():
            for part, chosen in (("train", files[:12]), ("val", files[12:28])):
                folder = root / part / label
                folder.mkdir(parents=True)
                for name in chosen:
                    (folder / Path(name).name).write_bytes(zipped.read(name))
    return root


@pytest.mark.slow
def test_eight_bits_of_the_embedded_classifier_are_kept(
    embedded: str, cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setattr(exporting, "MAX_ACCURACY_DROP", 0.03)  # of 160 pictures, 0.5 point is not one
    words = ["export", embedded, str(tmp_path / "int8"), "--to", "openvino", "--int8", "--data", str(cifar)]
    assert main(words) == 0
    assert "in eight bits" in capsys.readouterr().out
    engine = ExportedEngine(tmp_path / "int8")
    assert engine.manifest.precision == "int8"
    top1 = engine.manifest.facts["top1"]
    assert top1["fp32"] - top1["int8"] <= 0.03
    assert top1["fp32"] > 0.6
    sizes = [sum(path.stat().st_size for path in tmp_path.rglob("*.bin")), 4 * 2_600_000]
    assert sizes[0] < 0.4 * sizes[1]
    assert everything_below(tmp_path) == {"int8", *(f"int8/{name}" for name in everything_below(tmp_path / "int8"))}


def folder_of_noise(root: Path) -> Path:
    for label in LABELS:
        (root / "val" / label).mkdir(parents=True)
        for number in range(2):
            photo(10 * LABELS.index(label) + number).save(root / "val" / label / f"{number}.png")
    return root


def test_eight_bits_are_kept_when_they_lose_little_and_refused_otherwise(
    one_block: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    data = folder_of_noise(tmp_path / "data")
    words = ["export", str(one_block), str(tmp_path / "out" / "int8"), "--to", "openvino", "--int8", "--data", str(data)]
    monkeypatch.setattr(exporting, "MAX_ACCURACY_DROP", -2.0)
    text = sentence(words, capsys, "eight bits")
    assert "nothing was written; most sensitive layers" in text
    assert "layers.0.blocks.0." in text
    assert everything_below(tmp_path / "out") == set()
    monkeypatch.setattr(exporting, "MAX_ACCURACY_DROP", 0.34)
    assert main(words) == 0
    assert "in eight bits" in capsys.readouterr().out
    engine = ExportedEngine(tmp_path / "out" / "int8")
    assert (engine.manifest.precision, engine.manifest.facts["judged"]) == ("int8", 6)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"int8"}


def scenes(root: Path, sizes: list[tuple[int, int]]) -> Path:
    for number, size in enumerate(sizes):
        for name in ("images", "masks"):
            (root / "val" / name).mkdir(parents=True, exist_ok=True)
        photo(number, size).save(root / "val" / "images" / f"{number}.png")
        mask = np.random.default_rng(number).integers(0, 2, (size[1], size[0]), dtype=np.uint8)
        Image.fromarray(mask).save(root / "val" / "masks" / f"{number}.png")
    return root


@pytest.mark.slow
def test_a_segmenter_in_eight_bits_takes_the_sizes_of_its_data(
    segmenter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setattr(exporting, "MAX_ACCURACY_DROP", 1.0)
    data = scenes(tmp_path / "data", [(60, 40), (60, 40), (40, 60)])
    manifest = exporting.export(segmenter, tmp_path / "e", "openvino", int8=True, data=data)
    assert manifest.sizes == [(32, 48), (48, 32)]
    assert manifest.facts["judged"] == 3
    one = swinkit.load(tmp_path / "e").predict(Image.new("RGB", (60, 40)))
    assert one.mask.shape == (40, 60)


def test_a_segmenter_in_eight_bits_needs_pictures_of_its_sizes(segmenter: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    many = scenes(tmp_path / "many", [(60, 40), (60, 39), (60, 38), (60, 37), (60, 36), (60, 35)])
    with pytest.raises(InputError) as caught:
        exporting.export(segmenter, tmp_path / "e", "openvino", int8=True, data=many)
    one_sentence(caught.value, "--size 32x48")
    with pytest.raises(InputError, match="no picture"):
        exporting.export(segmenter, tmp_path / "e", "openvino", [(16, 16)], int8=True, data=many)
    assert not (tmp_path / "e").exists()


def test_names_nobody_knows_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises((UnknownName, ExportError)):
        exporting.export("no-such-model", tmp_path / "e")
    assert everything_below(tmp_path) == set()
