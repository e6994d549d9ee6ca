"""Checkpoints: every dialect both ways, by numbers against the live libraries; adapting; hostile files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import parity
from PIL import Image
from safetensors.torch import save_file

import swinkit
from swinkit.errors import CheckpointError, KeysLeftOver, ShapesDiffer, SwinkitError, UnknownName, UnsafeFile
from swinkit.models.classifier import SwinClassifier
from swinkit.models.swin import SwinBackbone
from swinkit.prediction import Predictor
from swinkit.specs import ModelSpec, Preprocessing, Variant
from swinkit.weights import from_neutral, load_checkpoint, load_into, save_dialect, save_native, to_neutral
from swinkit.weights.dialects import DIALECTS, OPERATIONS

SHAPE = {"embed_dim": 16, "depths": (2, 2, 1), "num_heads": (1, 2, 4), "num_classes": 5, "patch_size": 2}
SMALL = {
    1: Variant(window_size=4, img_size=32, **SHAPE),
    2: Variant(version=2, window_size=4, img_size=32, **SHAPE),
}


def _model(version: int) -> SwinClassifier:
    model = SwinClassifier(SMALL[version])
    parity.randomise(model)
    return model.eval()


def _spec(version: int) -> ModelSpec:
    return ModelSpec(SMALL[version], Preprocessing((32, 32), "shorter", 36), tuple("abcde"), name="small")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_round_trip_is_exact(dialect: str, version: int) -> None:
    tensors = _model(version).state_dict()
    back = to_neutral(from_neutral(tensors, dialect, version))
    assert (back.dialect, back.version) == (dialect, version)
    assert back.tensors.keys() == tensors.keys()
    assert all(torch.equal(back.tensors[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("case", "dialect"),
    [(c, d) for c in ("tiny V1 w4 128", "tiny V2 w8 256", "tiny V2 w12to16 256") for d in ("timm", "hf", "torchvision")],
)
def test_answers_as_the_live_library(case: str, dialect: str) -> None:
    pytest.importorskip({"hf": "transformers"}.get(dialect, dialect))
    if (case, dialect) in parity.IMPOSSIBLE:
        variant = parity.CASES[case]
        with pytest.raises(CheckpointError, match="torchvision"):
            save_dialect("never.pth", {}, ModelSpec(variant, Preprocessing()), dialect)
        return
    assert parity.compare(case, dialect, parity.CASES[case], batch=1).fits


def test_the_parity_bench_fails_when_a_row_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setitem(OPERATIONS, "stack", (lambda t: [torch.cat(t[::-1])], OPERATIONS["stack"][1]))
    assert not parity.compare("tiny V1 w4 128", "hf", parity.CASES["tiny V1 w4 128"], batch=1).fits


def test_mm_merging_by_hand() -> None:
    # One channel: the cell (00, 10, 01, 11) of the original order becomes row-major (00, 01, 10, 11).
    to_ours, to_theirs = OPERATIONS["merge_weight"]
    assert to_theirs([torch.tensor([[0.0, 10.0, 1.0, 11.0]])])[0].tolist() == [[0.0, 1.0, 10.0, 11.0]]
    # Two channels a, b: theirs interleaves channels first.
    theirs = torch.tensor([[0.0, 1.0, 10.0, 11.0, 100.0, 101.0, 110.0, 111.0]])
    assert to_ours([theirs])[0].tolist() == [[0.0, 100.0, 10.0, 110.0, 1.0, 101.0, 11.0, 111.0]]


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "encoder."])
def test_prefixes_and_containers(prefix: str, tmp_path: Path) -> None:
    tensors = {k: v for k, v in _model(1).state_dict().items() if not k.startswith("head.")}
    content = {prefix + name: value for name, value in tensors.items()}
    if prefix == "backbone.":
        content["roi_head.bbox.weight"] = torch.zeros(3)
    torch.save({"state_dict": content, "meta": {"epoch": 3}}, tmp_path / "x.pth")
    checkpoint = load_checkpoint(tmp_path / "x.pth")
    assert checkpoint.spec.variant.depths == (2, 2, 1)
    assert checkpoint.spec.variant.num_classes == 0
    assert any("roi_head" in note for note in checkpoint.notes) == (prefix == "backbone.")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_official_files_come_back_with_their_windows(version: int, name: str, tmp_path: Path) -> None:
    save_dialect(tmp_path / name, _model(version).state_dict(), _spec(version), "official")
    variant = load_checkpoint(tmp_path / name).spec.variant
    assert (variant.window_size, variant.stage_windows) == (4, SMALL[version].stage_windows)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("resize", ["squash", "shorter"])
def test_transformers_gives_the_same_answer_on_the_same_photo(version: int, resize: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    data = pytest.importorskip("skimage.data")
    preparation = Preprocessing((32, 32), resize, 36 if resize == "shorter" else 0)
    predictor = Predictor(_model(version), _spec(version).changed(preprocessing=preparation))
    photo = Image.fromarray(data.chelsea())
    predictor.save_pretrained(tmp_path)
    ours = predictor.predict(photo)
    again = swinkit.load(tmp_path)
    assert again.preprocessing == preparation
    assert again.predict(photo).predictions == ours.predictions
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    inputs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(photo, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**inputs).logits.softmax(-1)[0]
    for item in ours.predictions:
        assert theirs[item.index].item() == pytest.approx(item.probability, abs=1e-4)
        assert model.config.id2label[item.index] == item.label
    # and without our own description beside the weights
    tensors = {k: v.contiguous() for k, v in model.state_dict().items() if "relative_" not in k or "table" in k}
    (tmp_path / "model.safetensors").unlink()
    save_file({k: v for k, v in tensors.items() if "coords" not in k}, tmp_path / "model.safetensors")
    assert swinkit.load(tmp_path).predict(photo).top.label == ours.top.label


def test_timm_folder_comes_back(tmp_path: Path) -> None:
    variant = Variant(num_classes=3)
    spec = ModelSpec(variant, Preprocessing((224, 224), "squash"), ("x", "y", "z"), name="t")
    tensors = SwinClassifier(variant).state_dict()
    save_dialect(tmp_path / "there", tensors, spec, "timm")
    content = (tmp_path / "there" / "config.json").read_text()
    assert json.loads(content)["architecture"] == "swin_tiny_patch4_window7_224"
    save_file(from_neutral(tensors, "timm", 1), tmp_path / "there" / "model.safetensors")
    back = load_checkpoint(tmp_path / "there").spec
    assert (back.labels, back.preprocessing) == (("x", "y", "z"), spec.preprocessing)
    with pytest.raises(CheckpointError, match="no name"):
        save_dialect(tmp_path / "nano", _model(1).state_dict(), _spec(1), "timm")


def test_adapting_window_head_and_stem() -> None:
    source = _model(1).state_dict()
    other = SwinClassifier(SMALL[1].changed(window_size=8, img_size=64, num_classes=9, in_chans=1))
    said = load_into(other, source, head="new")
    assert "head replaced (5 -> 9 classes)" in said
    assert "windows 4 -> 8" in said
    assert "stem: 3 -> 1" in said
    assert float(other.head.weight.abs().sum()) == 0
    grey = torch.rand(1, 1, 32, 32)
    same = SwinClassifier(SMALL[1].changed(in_chans=1))
    load_into(same, source)
    three = SwinClassifier(SMALL[1])
    load_into(three, source)
    torch.testing.assert_close(same.eval()(grey), three.eval()(grey.expand(1, 3, 32, 32)), atol=1e-5, rtol=0)
    many = SwinClassifier(SMALL[1].changed(in_chans=5))
    load_into(many, source)
    with pytest.raises(ShapesDiffer, match="5 classes"):
        load_into(SwinClassifier(SMALL[1].changed(num_classes=9)), source)
    backbone = SwinBackbone(SMALL[1])
    assert "start anew" in load_into(backbone, source)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("times", [2, 3])
def test_a_wider_patch_answers_as_the_old_one_for_the_shrunk_image(version: int, times: int) -> None:
    old = _model(version)
    wide = SwinClassifier(SMALL[version].changed(patch_size=2 * times, img_size=32 * times)).eval()
    said = load_into(wide, old.state_dict())
    assert f"stem: patches of 2 -> {2 * times} pixels" in said
    images = torch.randn(2, 3, 32 * times, 48 * times)
    with torch.no_grad():
        expected = old(torch.nn.functional.avg_pool2d(images, times))
        torch.testing.assert_close(wide(images), expected, atol=1e-5, rtol=0)
    with pytest.raises(ShapesDiffer, match=r"patch_embed"):
        load_into(SwinClassifier(SMALL[version].changed(patch_size=3, img_size=48)), old.state_dict())


def test_22k_head_rows_follow_the_authors_map() -> None:
    from swinkit.labels import imagenet_names, imagenet_synsets, map_22k_to_1k

    big = SwinClassifier(SMALL[1].changed(num_classes=21841))
    small = SwinClassifier(SMALL[1].changed(num_classes=1000))
    assert "authors' map" in load_into(small, big.state_dict(), head="22k")
    assert torch.equal(small.head.weight[7], big.head.weight[map_22k_to_1k()[7]])
    agree = sum(imagenet_synsets(21841)[m] == s for m, s in zip(map_22k_to_1k(), imagenet_synsets(1000), strict=True))
    assert agree == 999
    assert imagenet_names(1000)[281] == "tabby"
    assert imagenet_names(7) == ()


class _Evil:
    def __reduce__(self) -> tuple:
        import os

        return os.system, ("touch owned",)


def _small(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    tensors = _model(1).state_dict()
    for name, value in changes.items():
        key = name.replace("__", ".")
        tensors.pop(key, None)
        if value is not None:
            tensors[key] = value
    return tensors


def _hostile(path: Path) -> dict[str, tuple[Path, str]]:
    """Make every broken checkpoint; return file and a word of its sentence."""
    made: dict[str, tuple[Path, str]] = {}

    def raw(name: str, content: bytes, word: str) -> None:
        (path / name).write_bytes(content)
        made[name] = (path / name, word)

    def tensors(name: str, content: dict[str, torch.Tensor], word: str, metadata: dict | None = None) -> None:
        save_file({k: v.contiguous() for k, v in content.items()}, path / name, metadata=metadata)
        made[name] = (path / name, word)

    good = path / "good.safetensors"
    save_file(_small(), good)
    raw("evil.pth", pickle.dumps({"model": _Evil()}), "code")
    torch.save({"model": _small(), "config": _Evil()}, path / "evil2.pth")
    made["evil2.pth"] = (path / "evil2.pth", "code")
    raw("cut.safetensors", good.read_bytes()[:-500], "cut short")
    raw("huge_head.safetensors", (2**60).to_bytes(8, "little") + b"{" * 100, "announces")
    raw("bad_head.safetensors", (20).to_bytes(8, "little") + b"{" * 100, "header")
    raw("empty.safetensors", b"", "0 bytes")
    raw("page.pth", b"<!doctype html><html>Not found, sorry</html>", "no checkpoint")
    raw("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "announces")
    raw("tf_model.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "TensorFlow")
    torch.save({"model": _small()}, path / "whole.pth")
    raw("cut.pth", (path / "whole.pth").read_bytes()[:5000], "cut short")
    torch.save([1, 2, 3], path / "list.pth")
    made["list.pth"] = (path / "list.pth", "list")
    torch.save({"model": {"a": 3}}, path / "numbers.pth")
    made["numbers.pth"] = (path / "numbers.pth", "no tensors")
    torch.save({"a": torch.zeros(1).expand(10**9)}, path / "expanded.pth")
    made["expanded.pth"] = (path / "expanded.pth", "announce")
    tensors("nan.safetensors", _small(norm__weight=torch.full((64,), float("nan"))), "NaN")
    tensors("extra.safetensors", _small(strange__thing=torch.zeros(3)), "no place")
    tensors("missing.safetensors", _small(layers__0__blocks__1__mlp__fc2__weight=None), "missing")
    tensors("gap.safetensors", {k: v for k, v in _small().items() if ".blocks.0." not in k or "layers.1" not in k}, "")
    tensors(
        "odd_table.safetensors", _small(layers__0__blocks__0__attn__relative_position_bias_table=torch.zeros(50, 1)), "square"
    )
    tensors("other.safetensors", {"conv1.weight": torch.zeros(3)}, "no known")
    tensors("moe.safetensors", {**_small(), "layers.0.x._moe_layer.w": torch.zeros(1)}, "MoE")
    tensors("mlp.safetensors", {**_small(), "layers.0.blocks.0.spatial_mlp.weight": torch.zeros(1)}, "SwinMLP")
    half = from_neutral(_small(), "hf", 1, "swin.")
    half.pop(next(k for k in half if k.endswith("key.weight")))
    tensors("half.safetensors", half, "together")
    tensors("damaged.safetensors", _small(), "damaged", {"swinkit": "{not json"})
    tensors("wrong.safetensors", _small(), "damaged", {"swinkit": json.dumps({"variant": 3})})
    many = _spec(1).changed(labels=("a", "b")).to_dict()
    tensors("labels.safetensors", _small(), "class names", {"swinkit": json.dumps(many)})
    return made


def test_hostile_checkpoints_get_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = _hostile(tmp_path)
    assert len(made) >= 24
    for name, (file, word) in made.items():
        with pytest.raises(SwinkitError) as caught:
            load_checkpoint(file)
        said = str(caught.value)
        assert word in said, f"{name}: {said}"
        assert "\n" not in said, name
        assert len(said) < 600, name
    assert not (tmp_path / "owned").exists()


CONFIGS = {
    "not json": ("{", "JSON"),
    "a list": ("[]", "object"),
    "another model": ('{"model_type": "vit"}', "'vit'"),
    "gap": ('{"model_type": "swin", "id2label": {"0": "a", "2": "b"}}', "index 1"),
    "word key": ('{"model_type": "swin", "id2label": {"x": "a"}}', "number"),
    "depth text": ('{"model_type": "swin", "depths": "many", "id2label": {"0": "a"}}', ""),
    "huge window": ('{"model_type": "swin", "window_size": 1e9, "id2label": {"0": "a"}}', "window_size"),
    "negative": ('{"model_type": "swin", "embed_dim": -4, "id2label": {"0": "a"}}', "embed_dim"),
    "timm without cfg": ('{"architecture": "swin_tiny_patch4_window7_224"}', "pretrained_cfg"),
    "timm unknown": ('{"architecture": "nothing", "pretrained_cfg": {}}', "nothing"),
}


@pytest.mark.parametrize("case", sorted(CONFIGS))
def test_hostile_folders_get_one_sentence(case: str, tmp_path: Path) -> None:
    text, word = CONFIGS[case]
    (tmp_path / "config.json").write_text(text)
    save_file(from_neutral(_small(), "hf", 1, "swin."), tmp_path / "model.safetensors")
    with pytest.raises(SwinkitError) as caught:
        load_checkpoint(tmp_path)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parts_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    save_file(_small(), tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(UnsafeFile, match="secret"):
        load_checkpoint(folder)


def test_names_that_are_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        load_checkpoint("swin_smal")
    with pytest.raises(CheckpointError, match="swin-nano-cifar10"):
        load_checkpoint("microsoft/swin-small-patch4-window7-224")
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_checkpoint(tmp_path)
    with pytest.raises(KeysLeftOver):
        load_into(SwinClassifier(SMALL[1]), {**_small(), "more": torch.zeros(1)})


def test_native_file_keeps_everything(tmp_path: Path) -> None:
    spec = _spec(2).changed(facts={"licence": "none"}, multi_label=True)
    save_native(tmp_path / "x.safetensors", _model(2).state_dict(), spec)
    back = load_checkpoint(tmp_path / "x.safetensors")
    assert back.spec == spec
    assert back.dialect == "official"
    assert np.isfinite(next(iter(back.tensors.values())).numpy()).all()
