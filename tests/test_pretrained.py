"""Networks with weights by name, where names lead, and what networks are given."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from tests.hostile import one_sentence

import swinkit
from swinkit.errors import CheckpointError, InputError, MissingExtraError, ShapesDiffer, SwinkitError, UnknownName
from swinkit.extras import need
from swinkit.models import build
from swinkit.models.classifier import SwinClassifier
from swinkit.models.swin import SwinBackbone
from swinkit.specs import ModelSpec, Preprocessing, Variant
from swinkit.weights import load_checkpoint, save_native

ROOT = Path(__file__).resolve().parents[1]
NANO = Variant(
    embed_dim=64, depths=(2, 4, 2), num_heads=(2, 4, 8), window_size=4, patch_size=2, img_size=32, num_classes=4, drop_path=0.05
)
SMALL = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4, "img_size": 32, "channels": 8}


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, SwinClassifier]:
    network = SwinClassifier(NANO).eval()
    spec = ModelSpec(NANO, Preprocessing((32, 32)), tuple("abcd"), name="mine")
    save_native(tmp_path / "mine.safetensors", network.state_dict(), spec)
    return tmp_path / "mine.safetensors", network


WEIGHTS = ["swin-nano-cifar10", "microsoft/swin-tiny-patch4-window7-224", "timm/swin_tiny_patch4_window7_224.ms_in1k"]


@pytest.mark.parametrize("name", [*WEIGHTS, "swin_tiny_patch4_window7_224.pth"])
@pytest.mark.parametrize("make", [swinkit.create_model, swinkit.create_backbone, build.create_model, build.create_backbone])
def test_names_of_weights_do_not_give_random_networks(name: str, make) -> None:
    with pytest.raises(InputError) as caught:
        make(name)
    said = one_sentence(caught.value, name)
    assert f"pretrained='{name}'" in said
    assert f"swinkit.load('{name}')" in said
    assert make.__name__ in said


def test_systems_of_the_hub_do_not_give_random_networks() -> None:
    with pytest.raises(InputError, match="pretrained='openmmlab/upernet-swin-tiny'"):
        swinkit.create_model("openmmlab/upernet-swin-tiny")


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swin_t", "swin_tiny_patch4_window7_224.ms_in1k", "swin_nano"])
def test_names_of_networks_give_random_ones(name: str) -> None:
    with torch.device("meta"):
        assert isinstance(swinkit.create_model(name), SwinClassifier)
        assert isinstance(swinkit.create_backbone(name), SwinBackbone)


def test_a_classifier_with_its_weights(trained: tuple[Path, SwinClassifier]) -> None:
    path, network = trained
    images = torch.randn(2, 3, 40, 36)
    made = swinkit.create_model("swin_nano", pretrained=path).eval()
    with torch.no_grad():
        torch.testing.assert_close(made(images), network(images), atol=0, rtol=0)
    total = len(network.state_dict())
    assert f"{path}: loaded {total} of {total} tensors" in made.loaded
    new = swinkit.create_model("swin_nano", num_classes=7, pretrained=str(path))
    assert new.head.out_features == 7
    assert "4 -> 7" in new.loaded
    assert torch.equal(new.layers[0].blocks[0].mlp.fc1.weight, network.layers[0].blocks[0].mlp.fc1.weight)
    grey = swinkit.create_model("swin_nano", in_chans=1, pretrained=path)
    assert "3 -> 1" in grey.loaded
    with pytest.raises(CheckpointError, match="another variant"):
        swinkit.create_model("swin_tiny", pretrained=path)
    with pytest.raises(ShapesDiffer):
        swinkit.create_model("swin_nano", embed_dim=32, num_heads=(1, 2, 4), pretrained=path)


def test_the_embedded_weights_by_name(embedded: str) -> None:
    expected = load_checkpoint(embedded).tensors
    for network in (
        swinkit.create_model(embedded, pretrained=True),
        swinkit.create_model("swin_nano", pretrained=True),
        swinkit.create_model("swin_nano", pretrained=embedded),
    ):
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    backbone = swinkit.create_backbone("swin_nano", pretrained=embedded, out_indices=(0, 2))
    assert torch.equal(backbone.state_dict()["layers.0.blocks.1.attn.qkv.weight"], expected["layers.0.blocks.1.attn.qkv.weight"])
    assert "head" in backbone.loaded
    segmenter = swinkit.create_model("fpn", 3, backbone="swin_nano", channels=8, neck_channels=8, pretrained=True)
    assert torch.equal(segmenter.backbone.layers[0].blocks[0].mlp.fc1.weight, expected["layers.0.blocks.0.mlp.fc1.weight"])
    assert "decoder starts anew" in segmenter.loaded


def test_a_segmenter_with_its_weights(tmp_path: Path) -> None:
    options = {"backbone": "swin_tiny", **SMALL, "neck_channels": 8}
    network = swinkit.create_model("fpn", 5, **options).eval()
    variant = network.backbone.variant.changed(num_classes=5)
    spec = ModelSpec(variant, Preprocessing((32, 32)), tuple("abcde"), "segment", decoder=network.decoder)
    save_native(tmp_path / "x.safetensors", network.state_dict(), spec)
    made = swinkit.create_model("fpn", pretrained=tmp_path / "x.safetensors", **options).eval()
    images = torch.randn(1, 3, 40, 36)
    with torch.no_grad():
        torch.testing.assert_close(made(images), network(images), atol=0, rtol=0)
    other = swinkit.create_model("fpn", 2, pretrained=tmp_path / "x.safetensors", **options)
    assert "5 -> 2" in other.loaded


def test_timm_s_own_weights_are_timm_s(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    asked: list[bool] = []
    create = timm.create_model

    def watched(name: str, pretrained: bool, **options: object) -> torch.nn.Module:
        asked.append(pretrained)
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", watched)
    swinkit.create_model("fpn", 3, backbone="timm:resnet10t", channels=8, neck_channels=8, pretrained=True)
    assert asked[-1]
    swinkit.create_backbone("timm:resnet10t", pretrained=True)
    assert asked[-1]
    asked.clear()
    swinkit.create_backbone("timm:resnet10t")
    assert asked == [False]


def test_timm_s_weights_without_a_connection_are_a_sentence() -> None:
    pytest.importorskip("timm")
    with pytest.raises(CheckpointError, match="timm's own weights of 'resnet10t' cannot be had"):
        swinkit.create_backbone("timm:resnet10t", pretrained=True)


def test_dir_shows_the_public_names_alone() -> None:
    code = "import swinkit; swinkit.create_model; swinkit.load; print(*dir(swinkit)); import swinkit.models as m; print(*dir(m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src", check=True)
    ours, models = done.stdout.splitlines()
    assert ours.split() == sorted(swinkit.__all__)
    assert models.split() == sorted(importlib.import_module("swinkit.models").__all__)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "runs" / "flowers" / "weights").mkdir(parents=True)
    (tmp_path / "flowers.safetensors").write_bytes(b"")
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def refuse(*_arguments: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("swinkit.weights.checkpoint.download", refuse)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("runs/flower", "runs/flowers"),
        ("run/flowers", "runs/flowers"),
        ("./runs/flower", "runs/flowers"),
        ("~/runs/flower", "runs/flowers"),
        ("flower.safetensors", "flowers.safetensors"),
        ("runs/flowers/weight", "runs/flowers/weights"),
        ("models/mine", ""),
        ("/nowhere/at/all", ""),
        ("runs/other.pth", "flowers"),
        ("C:\\models\\x", ""),
    ],
)
def test_a_mistyped_path_is_answered_at_once(typed: str, near: str, folders: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UnknownName) as caught:
        load_checkpoint(typed)
    assert near in one_sentence(caught.value, typed)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("name", ["someone/swin-flowers", "microsoft/swin-tiny-patch4-window7-224"])
def test_a_hub_id_still_goes_to_the_hub(name: str, folders: Path) -> None:
    (folders / "microsoft").mkdir()  # a folder of that name does not hide what the tables know
    with pytest.raises(AssertionError, match="the hub was asked"):
        load_checkpoint(name)


def test_the_home_folder_is_understood(folders: Path, trained: tuple[Path, SwinClassifier]) -> None:
    assert load_checkpoint("~/mine.safetensors").spec.labels == tuple("abcd")


def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])


def test_extras_that_messages_name_exist() -> None:
    named: list[tuple[str, str]] = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        named += [(path.name, extra) for extra in re.findall(r"swinkit\[([a-z_,]+)\]", text)]
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "need":
                (value,) = [*call.args[1:], *(keyword.value for keyword in call.keywords)]
                if isinstance(value, ast.Constant):
                    named.append((path.name, value.value))
                else:
                    module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
                    named.append((path.name, eval(ast.unparse(value), vars(importlib.import_module(module)))))
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        found = re.findall(r"swinkit\[([a-z_,]+)\]", path.read_text(encoding="utf-8"))
        named += [(path.name, extra) for extra in found]
    assert len(named) > 20
    assert {(file, extra) for file, several in named for extra in several.split(",") if extra not in extras()} == set()


def test_a_missing_library_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "tensorboard" or name.startswith("torch.utils.tensorboard"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"needs tensorboard, which is not installed.*swinkit\[train\]"):
        need("torch.utils.tensorboard", "train")


IMAGES = {
    "bytes": (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "uint8"),
    "whole numbers": (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "int64"),
    "numpy's": (torch.zeros(1, 3, 32, 32, dtype=torch.float64), "float64"),
    "one image": (torch.zeros(3, 32, 32), "images\\[None\\]"),
    "grey": (torch.zeros(1, 1, 32, 32), "\\(B, 3, H, W\\)"),
    "no image": (torch.zeros(0, 3, 32, 32), "hold pixels"),
    "no pixel": (torch.zeros(1, 3, 0, 32), "hold pixels"),
    "no tensor": (b"photo", "a bytes"),
}


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize("kind", ["classifier", "backbone", "segmenter", "timm"])
def test_what_a_network_cannot_take_is_a_sentence(case: str, kind: str) -> None:
    images, word = IMAGES[case]
    shape = {key: value for key, value in SMALL.items() if key != "channels"}
    if kind == "classifier":
        network: torch.nn.Module = swinkit.create_model("swin_tiny", 3, **shape)
    elif kind == "backbone":
        network = swinkit.create_backbone("swin_tiny", **shape)
    elif kind == "segmenter":
        network = swinkit.create_model("fpn", 3, backbone="swin_tiny", neck_channels=8, **SMALL)
    else:
        pytest.importorskip("timm")
        network = swinkit.create_model("fpn", 3, backbone="timm:resnet10t", channels=8, neck_channels=8)
    with pytest.raises(InputError, match=word):
        network.eval()(images)


def test_a_vit_of_timm_under_a_decoder_says_which_size_it_takes() -> None:
    pytest.importorskip("timm")
    network = swinkit.create_model("upernet", 3, backbone="timm:vit_tiny_patch16_224", channels=8, auxiliary_channels=0).eval()
    with pytest.raises(InputError) as caught:
        network(torch.randn(1, 3, 100, 140))
    one_sentence(caught.value, "vit_tiny_patch16_224")
    assert "224" in str(caught.value)
    sized = swinkit.create_model(
        "upernet", 3, backbone="timm:vit_tiny_patch16_224", channels=8, auxiliary_channels=0, img_size=64
    ).eval()
    with torch.no_grad():
        assert sized(torch.randn(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_timm_under_a_decoder_compiles_as_one_graph() -> None:
    pytest.importorskip("timm")
    torch._dynamo.reset()
    network = swinkit.create_model("fpn", 3, backbone="timm:resnet10t", channels=8, neck_channels=8, auxiliary_channels=0).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True, backend="eager")(images)
        torch.testing.assert_close(compiled, network(images), atol=1e-5, rtol=1e-5)


def test_errors_of_create_model_are_ours() -> None:
    for options in ({"window": 3}, {"backbone": "swin_tiny"}, {"embed_dim": "x"}, {"depths": None}):
        with pytest.raises(SwinkitError):
            swinkit.create_model("swin_nano", **options)  # type: ignore[arg-type]
