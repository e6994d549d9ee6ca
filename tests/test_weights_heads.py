"""Weights know no task: another kind of head is one object and one line; what a head does not say stays as it was."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import swinkit
from swinkit.errors import CheckpointError, KeysLeftOver
from swinkit.models.build import build_network
from swinkit.models.simmim import SimMIM
from swinkit.models.swin import SwinBackbone
from swinkit.specs import Decoder, ModelSpec, Preprocessing, Variant
from swinkit.weights import heads, load_checkpoint, load_into, save_dialect, save_native
from swinkit.weights.rows import Row, renamed

WEIGHTS = Path(swinkit.__file__).parent / "weights"
SHAPE = Variant(embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=4, img_size=128, num_classes=0)
OPTIONS = {name: getattr(SHAPE, name) for name in ("embed_dim", "depths", "num_heads", "window_size")}


class Counter(nn.Module):
    """One number a picture."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.backbone = SwinBackbone(variant)
        self.counter = nn.Linear(variant.channels[-1], 1)


class Count(heads.Head):
    """The head that no file of the package knows."""

    task = "count"
    called = "a counter"
    network = Counter
    apart = ("counter.",)
    table = (Row(("counter.*",), ("count_head.fc.*",)),)

    def describes(self, spec: ModelSpec) -> bool:
        return "counts" in spec.facts

    def read(self, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
        theirs = {name: value for name, value in tensors.items() if name.startswith("count_head.")}
        ours = {name: value for name, value in tensors.items() if name.startswith("counter.")}
        return renamed(theirs, self.table, True, "a counter") | ours if theirs or ours else None

    def shape(self, apart: dict[str, Tensor], variant: Variant, described: ModelSpec | None) -> tuple[Variant, dict[str, Any]]:
        return variant, {"decoder": None, "facts": {"counts": int(apart["counter.weight"].shape[0])}}

    def undescribed(self, variant: Variant, fields: dict[str, Any], dialect: str, name: str) -> ModelSpec:
        fields = {key: value for key, value in fields.items() if key != "task"}
        return ModelSpec(variant, Preprocessing((128, 128)), name=name, **fields)

    def body(self, network: nn.Module) -> nn.Module:
        return network.backbone  # type: ignore[return-value]

    def load(self, network: nn.Module, apart: dict[str, Tensor], mode: heads.Mode) -> list[str]:
        if not apart and mode == "exact":
            raise KeysLeftOver("the weights have no counter")
        if apart:
            network.counter.load_state_dict({name.removeprefix("counter."): value for name, value in apart.items()})  # type: ignore[union-attr]
        return ["the counter too" if apart else "the counter starts anew"]

    def refuse(self, dialect: str) -> None:
        if dialect != "mm":
            raise CheckpointError(f"{dialect} has no counters; write mm")

    def prefix(self, spec: ModelSpec, dialect: str) -> str:
        return "backbone."

    def write(self, apart: dict[str, Tensor], dialect: str) -> dict[str, Tensor]:
        return renamed(apart, self.table, False, "a counter")


@pytest.fixture
def counting() -> Iterator[None]:
    rest = dict(heads.HEADS)
    heads.HEADS.clear()
    heads.HEADS.update({"count": Count()} | rest)
    yield
    heads.HEADS.clear()
    heads.HEADS.update(rest)


@pytest.mark.usefixtures("counting")
def test_another_kind_of_head_is_one_object(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Counter(SHAPE)
    tensors = {name.removeprefix("backbone."): value for name, value in network.state_dict().items()}
    spec = ModelSpec(SHAPE, Preprocessing((128, 128)), name="c", facts={"counts": 1})
    for path in (tmp_path / "c.pth", tmp_path / "c.safetensors"):
        save_dialect(path, tensors, spec, "mm")
        checkpoint = load_checkpoint(path)
        assert checkpoint.spec.facts == {"counts": 1}
        again = Counter(SHAPE)
        assert load_into(again, checkpoint).endswith("; the counter too")
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in again.state_dict().items())
    stored = torch.load(tmp_path / "c.pth", weights_only=True)
    assert {"count_head.fc.weight", "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight"} <= stored.keys()
    save_native(tmp_path / "own.safetensors", tensors, spec)
    assert load_into(Counter(SHAPE), load_checkpoint(tmp_path / "own.safetensors")).endswith("the counter too")
    # Other networks leave it aside by its name, and it does without what they have.
    said = load_into(swinkit.create_model("swin_tiny", 3, **OPTIONS), checkpoint, "new")
    assert "left aside 2 tensors of a counter" in said
    segmenter = swinkit.create_model("fpn", 5, channels=8, **OPTIONS)
    assert "the decoder starts anew" in load_into(segmenter, checkpoint, "new")
    body = {name.removeprefix("backbone."): value for name, value in segmenter.state_dict().items()}
    assert "the counter starts anew" in load_into(Counter(SHAPE), body, "new")
    with pytest.raises(CheckpointError, match="timm has no counters"):
        save_dialect(tmp_path / "t.pth", tensors, spec, "timm")


def test_nothing_beside_heads_names_a_task() -> None:
    tasks = set(heads.HEADS)
    asked = {"decoder", "task"}
    for path in sorted(WEIGHTS.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant):
                assert node.value not in tasks, f"{path.name}:{node.lineno} names {node.value!r}"
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                names = {side.attr if isinstance(side, ast.Attribute) else getattr(side, "id", "") for side in sides}
                assert not names & asked, f"{path.name}:{node.lineno} compares {names & asked}"


def test_an_encoder_s_weights_are_a_classifier_s_without_classes(tmp_path: Path) -> None:
    encoder = SimMIM(SHAPE).encoder
    spec = ModelSpec(SHAPE, Preprocessing((128, 128)), task="simmim", name="m")
    save_native(tmp_path / "m.safetensors", encoder.state_dict(), spec)
    checkpoint = load_checkpoint(tmp_path / "m.safetensors")
    assert checkpoint.spec.task == "simmim"
    assert load_into(SimMIM(SHAPE).encoder, checkpoint) == "loaded 81 of 81 tensors"
    features = swinkit.create_model("swin_tiny", pretrained=tmp_path / "m.safetensors", **OPTIONS)
    assert isinstance(features.head, nn.Identity)
    assert "left aside mask_token" in features.loaded
    assert (
        "a new head for 7 classes"
        in swinkit.create_model("swin_tiny", 7, pretrained=tmp_path / "m.safetensors", **OPTIONS).loaded
    )


@pytest.mark.parametrize("window", [4, 6])
def test_a_v2_segmenter_written_as_official_says_its_window(window: int, tmp_path: Path) -> None:
    variant = SHAPE.changed(version=2, num_classes=5, window_size=window, img_size=32 * window)
    spec = ModelSpec(
        variant, Preprocessing((128, 128)), task="segment", name="s", decoder=Decoder(channels=8, auxiliary_channels=0)
    )
    network = build_network(spec).eval()
    tensors = {name.removeprefix("backbone."): value for name, value in network.state_dict().items()}
    checkpoint = load_checkpoint(save_dialect(tmp_path / "s.pth", tensors, spec, "official"))
    assert checkpoint.spec.variant.window_size == window
    assert not any("assumed" in note for note in checkpoint.notes)
    again = build_network(checkpoint.spec).eval()
    load_into(again, checkpoint)
    images = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))
