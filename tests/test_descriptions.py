"""Descriptions beside weights: whatever stands in a field, the answer is a network that can be had or one sentence."""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.hostile import one_sentence

from swinkit.embedded import METADATA_KEY
from swinkit.errors import CheckpointError, InputError, SwinkitError, brief, out_of_memory
from swinkit.models.build import build_network
from swinkit.models.classifier import SwinClassifier
from swinkit.models.variants import RELEASES, parameter_count
from swinkit.specs import MAX_PARAMETERS, Decoder, MaskRules, ModelSpec, Preprocessing, Variant
from swinkit.weights import load_checkpoint
from swinkit.weights.described import folder_description, hf_spec, own_description

TINY = Variant(embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=4, img_size=32, num_classes=3)
SPEC = ModelSpec(
    TINY,
    Preprocessing((32, 32)),
    ("a", "b", "c"),
    "segment",
    "x",
    decoder=Decoder(),
    masks=MaskRules((0,), (1, 2, 3)),
    facts={"a": 1},
)
HF = {
    "model_type": "swin",
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
    "image_size": 32,
    "patch_size": 4,
    "num_channels": 3,
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "problem_type": "single_label_classification",
    "_name_or_path": "someone/swin",
}
UPERNET = {
    "model_type": "upernet",
    "hidden_size": 64,
    "pool_scales": [1, 2, 3, 6],
    "auxiliary_channels": 32,
    "use_auxiliary_head": True,
    "id2label": {"0": "a", "1": "b"},
    "backbone_config": {**HF, "model_type": "swinv2", "pretrained_window_sizes": [4, 2], "drop_path_rate": 0.2},
}
PREPARATION = {
    "do_resize": True,
    "size": {"shortest_edge": 36},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
TIMM = {
    "architecture": "swin_tiny_patch4_window7_224",
    "num_classes": 3,
    "pretrained_cfg": {
        "tag": "ms_in1k",
        "input_size": [3, 224, 224],
        "crop_pct": 0.9,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 3,
        "label_names": ["a", "b", "c"],
    },
}
ODD: list[Any] = [math.inf, -math.inf, math.nan, 1e-300, 10**30, -(10**30), 2**62, 0, -1, 1, 16384, 1_000_000]
ODD += ["", "\x1b[31m", "a\nb", "x" * 10_000]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(ODD)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=8), inner, max_size=5), max_leaves=20
)


def places(value: Any, here: tuple = ()) -> list[tuple]:
    """Return the path of every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, item in inside for place in places(item, (*here, key)))]


@st.composite
def changed(draw: st.DrawFn, description: dict[str, Any]) -> Any:
    """A description of which up to three values are replaced, removed, or repeated very often."""
    made = copy.deepcopy(description)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(made)[1:] or [()]))
        if not place:
            return draw(VALUES)
        parent = made
        for key in place[:-1]:
            parent = parent[key]
        kind = draw(st.integers(0, 9))
        if kind == 0:
            del parent[place[-1]]
        elif kind == 1 and isinstance(parent[place[-1]], list):
            parent[place[-1]] = parent[place[-1]] * 100_000
        else:
            parent[place[-1]] = draw(VALUES)
    return made


@given(st.data())
def test_our_own_descriptions(data: st.DataObject) -> None:
    description = data.draw(changed(SPEC.to_dict()))
    began = time.process_time()
    for kind, values in (
        (ModelSpec, description),
        *((kind, data.draw(changed(part))) for kind, part in ((Variant, TINY.to_dict()), (Decoder, Decoder().to_dict()))),
        (Preprocessing, data.draw(changed(Preprocessing().to_dict()))),
        (MaskRules, data.draw(changed({"void": [0, 1], "palette": [1, 2, 3]}))),
    ):
        try:
            spec = kind.from_dict(values)  # type: ignore[attr-defined]
        except SwinkitError as error:
            one_sentence(error, "")
        else:
            if isinstance(spec, ModelSpec):
                json.dumps(spec.to_dict(), allow_nan=True)
                assert parameter_count(spec.variant) < 1.1 * MAX_PARAMETERS
    assert time.process_time() - began < 5


@given(st.data())
def test_descriptions_inside_a_file(data: st.DataObject) -> None:
    text = json.dumps(data.draw(changed(SPEC.to_dict())))
    for written in (text, text.replace("32", "1e400", 1), text.replace("16", "9" * 900_000, 1)):
        try:
            own_description(Path("x.safetensors"), {METADATA_KEY: written})
        except CheckpointError as error:
            one_sentence(error, "x.safetensors")


@pytest.mark.parametrize("source", [HF, UPERNET, TIMM], ids=["transformers", "upernet", "timm"])
def test_descriptions_in_a_folder(source: dict, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("model")

    @given(st.data())
    def check(data: st.DataObject) -> None:
        config, preparation = data.draw(changed(source)), data.draw(changed(PREPARATION))
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
        began = time.process_time()
        try:
            assert isinstance(folder_description(folder), ModelSpec)
        except SwinkitError as error:
            assert isinstance(error, CheckpointError)
            one_sentence(error, folder.name)
        assert time.process_time() - began < 5

    check()


def test_the_unchanged_descriptions_are_good(tmp_path: Path) -> None:
    for source in (HF, UPERNET, TIMM):
        (tmp_path / "config.json").write_text(json.dumps(source))
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPARATION))
        spec = folder_description(tmp_path)
        assert spec is not None
        assert spec.labels[0] == "a"
    assert ModelSpec.from_dict(SPEC.to_dict()) == SPEC


@pytest.mark.parametrize(
    ("kind", "changes", "word"),
    [
        (Preprocessing, {"std": (math.inf, 1, 1)}, "std"),
        (Preprocessing, {"std": (1e-300, 1, 1)}, "std"),
        (Preprocessing, {"mean": (math.nan, 0, 0)}, "mean"),
        (Preprocessing, {"size": (16384, 16384)}, "size"),
        (Preprocessing, {"resize": "shorter", "resize_to": 16384}, "resize_to"),
        (Preprocessing, {"size": 3}, "size"),
        (Decoder, {"pool_scales": (1, 10**6)}, "pool_scales"),
        (Decoder, {"pool_scales": ()}, "pool_scales"),
        (Decoder, {"channels": 10**9}, "channels"),
        (Decoder, {"dropout": math.nan}, "dropout"),
        (Variant, {"depths": (10**9, 1)}, "depths"),
        (Variant, {"depths": (1,) * 60, "num_heads": (1,) * 60}, "depths"),
        (Variant, {"embed_dim": 16384, "depths": (1,), "num_heads": (1,), "num_classes": 10**6}, "parameters"),
        (Variant, {"num_classes": 10**12}, "num_classes"),
        (Variant, {"window_size": 10**5}, "window_size"),
        (Variant, {"mlp_ratio": math.inf}, "mlp_ratio"),
        (Variant, {"drop_path": math.nan}, "drop_path"),
        (Variant, {"shift": 1}, "shift"),
        (MaskRules, {"void": tuple(range(70_000))}, "void"),
        (MaskRules, {"palette": (0,) * 300_000}, "palette"),
        (MaskRules, {"palette": ("red", 0, 0)}, "palette"),
    ],
)
def test_fields_out_of_range_are_named(kind: Any, changes: dict, word: str) -> None:
    with pytest.raises(InputError) as caught:
        kind(**changes)
    one_sentence(caught.value, word)


@pytest.mark.parametrize("label", ["a\nb", "\x1b[31mred", "x" * 501, "\ud800", "a\u202eb", 3, None])
def test_labels_that_cannot_be_shown(label: Any) -> None:
    with pytest.raises(InputError, match=r"labels\[1\]"):
        ModelSpec(TINY, Preprocessing(), ("a", label, "c"))


def test_labels_of_every_script_are_taken() -> None:
    names = ("Eichhörnchen", "می\u200cخواهم", "松鼠", "emoji 👩\u200d🚀", "")
    assert ModelSpec(TINY.changed(num_classes=5), Preprocessing(), names).labels == names


def test_every_release_is_within_the_bounds() -> None:
    assert all(parameter_count(release.variant) < MAX_PARAMETERS / 10 for release in RELEASES.values())


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({"0": "a", "00": "b"}, "twice"),
        ({"0": ["a"]}, r"id2label\[0\]"),
        ({"0": None}, r"id2label\[0\]"),
        ({"1e3": "a"}, "no number"),
        ({"9" * 900_000: "a"}, "no number"),
        ({"-1": "a"}, "no number"),
        ({"0": "a\x1b[2J"}, "cannot be shown"),
        (["a", "b"], "table"),
    ],
)
def test_odd_tables_of_labels(table: Any, word: str) -> None:
    with pytest.raises(SwinkitError, match=word):
        hf_spec({**HF, "id2label": table}, None)


@pytest.mark.parametrize(
    ("part", "changes", "word"),
    [
        ("pretrained_cfg", {"input_size": [3, 0, 0]}, "input_size"),
        ("pretrained_cfg", {"input_size": [3, 224]}, "input_size"),
        ("pretrained_cfg", {"crop_pct": 0}, "crop_pct"),
        ("pretrained_cfg", {"crop_pct": 1e-9}, "crop_pct"),
        ("pretrained_cfg", {"std": [0, 0, 0]}, "std"),
        ("pretrained_cfg", {"interpolation": ["bicubic"]}, "interpolation"),
        ("pretrained_cfg", {"label_names": "abc"}, "labels"),
        ("", {"num_classes": -5}, "num_classes"),
        ("", {"num_classes": "many"}, "num_classes"),
        ("", {"architecture": 3}, "architecture"),
    ],
)
def test_odd_fields_of_timm(part: str, changes: dict, word: str, tmp_path: Path) -> None:
    config = copy.deepcopy(TIMM)
    (config[part] if part else config).update(changes)  # type: ignore[attr-defined]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=word):
        folder_description(tmp_path)


def test_a_description_that_the_tensors_belie_is_a_sentence(tmp_path: Path) -> None:
    """A few kilobytes of tensors do not become a network of terabytes."""
    spec = ModelSpec(TINY, Preprocessing((32, 32)), backbone="timm:resnet10t", decoder=Decoder(channels=4096), task="segment")
    spec = spec.changed(variant=TINY.changed(num_classes=1_000_000))
    path = tmp_path / "x.safetensors"
    save_file(SwinClassifier(TINY).state_dict(), path, metadata={METADATA_KEY: json.dumps(spec.to_dict())})
    pytest.importorskip("timm")
    from swinkit.prediction import load

    with pytest.raises(SwinkitError):
        load(path)
    huge = TINY.to_dict() | {"embed_dim": 8192, "depths": [2, 250], "num_heads": [1, 1]}
    described = ModelSpec(TINY, Preprocessing((32, 32))).to_dict() | {"variant": huge}
    save_file(SwinClassifier(TINY).state_dict(), path, metadata={METADATA_KEY: json.dumps(described)})
    with pytest.raises(CheckpointError, match="parameters"):
        load_checkpoint(path)


def test_tensors_of_odd_shapes_are_sentences(tmp_path: Path) -> None:
    good = SwinClassifier(TINY).state_dict()

    @given(st.sampled_from(sorted(good)), st.lists(st.integers(0, 9), max_size=5), st.sampled_from(["float32", "int64", "bool"]))
    def check(name: str, shape: list[int], kind: str) -> None:
        save_file({**good, name: torch.zeros(shape, dtype=getattr(torch, kind))}, tmp_path / "x.safetensors")
        try:
            checkpoint = load_checkpoint(tmp_path / "x.safetensors")
            from swinkit.weights import load_into

            with torch.device("meta"):
                network = build_network(checkpoint.spec)
            load_into(network, checkpoint)
        except SwinkitError as error:
            one_sentence(error, "")

    check()


def test_a_message_is_one_line_whatever_is_in_it() -> None:
    error = InputError("a file called x\x1b[2J\nswinkit: all is well")
    assert str(error) == "a file called x\\x1b[2J\\nswinkit: all is well"
    assert brief("a" * 1000, 100).count("a") == 91
    assert len(str(InputError("x" * 10**6))) < 1100
    assert brief(10**10_000) == "a int"


def test_memory_that_cannot_be_had_is_a_sentence() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert str(out_of_memory(caught.value)).startswith("out of memory")
    assert str(out_of_memory(MemoryError())).startswith("out of memory")
    assert out_of_memory(RuntimeError("shapes do not fit")) is None


def test_the_command_line_says_that_memory_is_lacking(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from swinkit import cli

    def lacking(*_arguments: object, **_options: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(cli, "app", lacking)
    assert cli.main(["models"]) == 1
    said = capsys.readouterr().err
    assert "out of memory" in said
    assert "internal" not in said
