"""Graphs in eight bits, rewritten after NNCF: the same values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.test_engines import SHAPE, maps, shaken

from swinkit.engines.exported import ExportedEngine, canary_pixels
from swinkit.engines.fast import FromPixels
from swinkit.engines.openvino import core
from swinkit.errors import ExportError
from swinkit.export import eight_bits, export_network, int8
from swinkit.export.eight_bits import gather_eight_bits, round_means_apart, suit_processor
from swinkit.models.classifier import SwinClassifier
from swinkit.models.swin import SwinBackbone
from swinkit.specs import ModelSpec, Preprocessing


def answers(model: Any, *inputs: np.ndarray) -> list[np.ndarray]:
    """Return a graph's answers, computed exactly."""
    found = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(list(inputs))
    return [np.array(found[i]) for i in range(len(found))]


def kinds(model: Any) -> Counter[str]:
    """Return how many operations of each kind a graph has."""
    return Counter(node.get_type_name() for node in model.get_ordered_ops())


@pytest.mark.parametrize(
    ("kind", "version", "size", "smooth", "signed"),
    [
        ("classifier", 1, (56, 72), False, False),
        ("pyramid", 1, (50, 70), True, False),
        ("pyramid", 1, (50, 70), True, True),
        ("pyramid", 2, (64, 80), True, False),
        ("pyramid", 2, (64, 80), True, True),
    ],
)
def test_a_rewritten_graph_rounds_as_nncf_s_does(
    kind: str, version: int, size: tuple[int, int], smooth: bool, signed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows with and without shift, of whole maps and of padded ones; V2 keeps its own attention."""
    pytest.importorskip("nncf")
    monkeypatch.setattr(eight_bits, "has", lambda _unit: signed)
    models = []

    def watched(model: Any, size: tuple[int, int]) -> None:
        models.append(model.clone())
        eight_bits.quicken(model, size)
        models.append(model.clone())

    monkeypatch.setattr(int8, "quicken", watched)
    shape = SHAPE.changed(version=version, num_heads=(2, 4), num_classes=10 if kind == "classifier" else 0)
    torch.manual_seed(version)
    network = shaken(SwinClassifier(shape) if kind == "classifier" else SwinBackbone(shape))
    spec = ModelSpec(shape, Preprocessing(size))
    pictures = np.split(canary_pixels(spec, size, 8), 8)
    export_network(network, spec, tmp_path / "e", "openvino", [size], int8.quantiser(pictures, smooth))
    before, after = models
    pixels = np.concatenate(pictures[:3])
    with torch.inference_mode():
        exact = [map_.numpy() for map_ in maps(FromPixels(network, spec.preprocessing)(torch.from_numpy(pixels)))]
    for theirs, ours, true in zip(answers(before, pixels), answers(after, pixels), exact, strict=True):
        assert ours.shape == theirs.shape
        lost, moved = np.sqrt(((theirs - true) ** 2).mean()), np.sqrt(((ours - theirs) ** 2).mean())
        assert moved < 0.5 * lost  # where values lie between two steps, either may be taken
        assert np.sqrt(((ours - true) ** 2).mean()) < 1.1 * lost
    assert (kinds(after)["Convolution"] == 0) == (size[0] % 4 == size[1] % 4 == 0)  # others are filled up first
    blocks = sum(SHAPE.depths)
    assert kinds(before)["ScaledDotProductAttention"] == blocks
    bytes_meet = version == 1 and not signed  # V2's keys are no bytes of a product
    assert kinds(after)["ScaledDotProductAttention"] == (0 if bytes_meet else blocks)
    assert kinds(after)["Transpose"] == kinds(before)["Transpose"] - blocks * (2 if bytes_meet else 1)
    gone = kinds(before)["FakeQuantize"] - kinds(after)["FakeQuantize"]
    assert gone == (2 * blocks if version == 1 and signed else 0)


@pytest.mark.parametrize("signed", [False, True])
def test_bytes_that_meet_weights_are_those_that_the_processor_multiplies(signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ov, ops = pytest.importorskip("openvino"), pytest.importorskip("openvino.opset13")
    random = np.random.default_rng(0)
    tokens = ops.parameter([2, 5, 4], np.float32)

    def rounded(source: Any, low: float, high: float) -> Any:
        ends = [ops.constant(np.float32(value)) for value in (low, high)]
        return ops.fake_quantize(source, *ends, *ends, 256)

    weights = ops.constant(random.random((4, 3), dtype=np.float32))
    monkeypatch.setattr(eight_bits, "has", lambda _unit: signed)
    met = rounded(tokens, -1.28, 1.27)
    met_too = rounded(tokens, -1.905, 1.92)
    gathered = ops.gather(rounded(tokens, -2.56, 2.54), np.array([4, 0, 2, 1, 3]), 1)
    uneven = rounded(tokens, -1.0, 0.9)
    both = rounded(tokens, -1.28, 1.27)
    ends = [ops.constant(np.float32(value)) for value in (-0.64, 0.635, -1.28, 1.27)]
    stretched = ops.fake_quantize(tokens, *ends, 256)
    model = ov.Model(
        [
            ops.matmul(met, weights, False, False),
            ops.matmul(met_too, weights, False, False),
            ops.matmul(gathered, weights, False, False),
            ops.matmul(uneven, weights, False, False),
            ops.matmul(stretched, weights, False, False),
            ops.matmul(both, rounded(tokens, -1.28, 1.27), False, True),
        ],
        [tokens],
    )
    pixels = random.uniform(-1.26, 1.26, (2, 5, 4)).astype(np.float32)
    before = answers(model, pixels)
    suit_processor(model)
    for ours, theirs in zip(answers(model, pixels), before, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    ranges = Counter(
        tuple(round(float(node.input_value(i).get_node().data), 4) for i in (1, 2))
        for node in model.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize"
    )
    changed = {(-1.28, 1.27): 1, (-2.56, 2.54): 1, (-1.92, 1.905): 1}, {(-1.27, 1.28): 1, (-2.54, 2.56): 1, (-1.905, 1.92): 1}
    left = Counter({(-1.0, 0.9): 1, (-1.28, 1.27): 2, (-0.64, 0.635): 1})  # uneven, other operands, stretched
    assert ranges == left + Counter(changed[0 if signed else 1])


@pytest.mark.parametrize("dropped", [[1], [1, 2]])
def test_means_are_rounded_by_their_own_channels(dropped: list[int]) -> None:
    ov, ops = pytest.importorskip("openvino"), pytest.importorskip("openvino.opset13")
    random = np.random.default_rng(0)
    sides = [7] * len(dropped)
    tokens = ops.parameter([-1, *sides, 32], np.float32)
    spread = np.linspace(0.5, 2, 32, dtype=np.float32)
    ends = [ops.constant(np.float32(value)) for value in (-0.5, 0.47)]
    mean = ops.multiply(ops.reduce_mean(tokens, np.array(dropped), False), ops.constant(spread[None]))
    model = ov.Model([ops.relu(ops.fake_quantize(mean, *ends, *ends, 256))], [tokens])
    pixels = random.standard_normal((3, *sides, 32)).astype(np.float32)
    step = 0.97 / 255
    expected = np.round((np.clip(pixels.mean(tuple(dropped)) * spread, -0.5, 0.47) + 0.5) / step) * step - 0.5
    round_means_apart(model)
    np.testing.assert_allclose(answers(model, pixels)[0], np.maximum(expected, 0), atol=1.01 * step)


def smooth_classifier(folder: Path) -> tuple[ExportedEngine, list[np.ndarray]]:
    """Return a classifier in eight bits with SmoothQuant, and pictures."""
    torch.manual_seed(0)
    shape = SHAPE.changed(num_heads=(2, 4), num_classes=10)
    spec = ModelSpec(shape, Preprocessing((56, 56)))
    pictures = np.split(canary_pixels(spec, (56, 56), 8), 8)
    export_network(shaken(SwinClassifier(shape)), spec, folder, "openvino", [(56, 56)], int8.quantiser(pictures, smooth=True))
    return ExportedEngine(folder), pictures


def test_a_picture_is_answered_the_same_in_any_place(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    engine, pictures = smooth_classifier(tmp_path / "e")
    pixels = torch.from_numpy(np.concatenate(pictures))
    alone = torch.cat([engine(pixels[i : i + 1]) for i in range(8)])
    together = engine(pixels)
    torch.testing.assert_close(together, alone, atol=0.01 * float(alone.abs().max()), rtol=0)
    assert 0.002 < engine.manifest.tolerance / float(alone.abs().max()) < 0.05  # processors round some bytes otherwise


def test_an_export_that_looks_at_places_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setattr(eight_bits, "round_means_apart", lambda model: None)
    with pytest.raises(ExportError, match="in another place of a batch"):
        smooth_classifier(tmp_path / "e")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spread", [(1, 1, 4), (1, 6, 1), (4,)])
def test_rounding_moves_in_front_of_a_gather_of_tokens(spread: tuple[int, ...]) -> None:
    ov, ops = pytest.importorskip("openvino"), pytest.importorskip("openvino.opset13")
    random = np.random.default_rng(0)
    tokens = ops.parameter([2, 5, 4], np.float32)
    gather = ops.gather(tokens, np.array([4, 0, 2, 2, 1, 3]), 1)
    factors = ops.multiply(gather, ops.constant(random.random(spread, dtype=np.float32)))
    low, high = np.float32(-1), np.float32(0.9)
    rounded = ops.fake_quantize(factors, low, high, low, high, 256)
    two = [ops.matmul(rounded, random.random((4, 3), dtype=np.float32), False, False) for _ in range(2)]
    model, pixels = ov.Model(two, [tokens]), random.standard_normal((2, 5, 4)).astype(np.float32)
    before = answers(model, pixels)
    gather_eight_bits(model)
    for ours, theirs in zip(answers(model, pixels), before, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    (now,) = [node for node in model.get_ordered_ops() if node.get_type_name() == "Gather"]
    moved = now.input_value(0).get_node().get_type_name() == "FakeQuantize"
    assert moved == (spread != (1, 6, 1))  # a factor of its own for each place has to stay behind the gather
