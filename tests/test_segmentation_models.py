"""Segmenters against reference outputs, transformers, direct formulas and counted operations."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.parity_segmentation import load_fixture, rows, transformers_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import swinkit
from swinkit.errors import UnknownName
from swinkit.models.segmentation import Segmenter
from swinkit.models.segmentation.losses import cross_entropy, dice
from swinkit.models.segmentation.upernet import _enlarged_conv
from swinkit.models.systems import SYSTEMS, segmenter_macs, segmenter_parameters, system_variant
from swinkit.models.variants import resolve
from swinkit.specs import Preprocessing
from swinkit.tasks.segment.passes import Passes, bands, class_map, passes_of, slide

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "seg"
KINDS = ("upernet", "fpn", "unet")


def _tiny(kind: str, **changes: object) -> Segmenter:
    torch.manual_seed(0)
    shape = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 4, "drop_path": 0.0}
    model = swinkit.create_model(kind, num_classes=5, backbone="swin_tiny", **{**shape, "channels": 24, **changes})
    assert isinstance(model, Segmenter)
    return model


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs ../shared/fixtures/seg, which is not in the repository")
def test_reference_outputs_are_met() -> None:
    found = [row for row in rows(FIXTURES) if row.compared]
    assert {row.system for row in found} == {"upernet", "upernet_aux", "fpn", "unet"}
    for row in found:
        assert row.compared >= 6
        assert row.fits, row


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs ../shared/fixtures/seg, which is not in the repository")
def test_gradients_and_running_statistics_are_the_references() -> None:
    network, tensors = load_fixture(FIXTURES / "upernet_aux.safetensors")
    network.train()
    targets = tensors["input/train_target"].long()
    logits, auxiliary = network.with_auxiliary((tensors["input/train"].float() - 128) / 64)
    assert auxiliary is not None
    (cross_entropy(logits, targets, "all") + 0.4 * cross_entropy(auxiliary, targets, "all")).backward()
    for ours, theirs in (
        ("decode_head.fuse.norm", "decode_head.fpn_bottleneck.bn"),
        ("decode_head.ppm.0.norm", "decode_head.psp_modules.0.1.bn"),
        ("auxiliary_head.convs.0.norm", "auxiliary_head.convs.0.bn"),
    ):
        for name in ("running_mean", "running_var"):
            expected = tensors[f"train/bn_after/{theirs}.{name}"]
            torch.testing.assert_close(network.get_buffer(f"{ours}.{name}"), expected, atol=1e-5, rtol=1e-4)
    stored = [key for key in tensors if key.startswith("train/grad/decode_head.conv_seg")]
    for key in stored:
        ours = key.removeprefix("train/grad/").replace("conv_seg", "classifier")
        torch.testing.assert_close(network.get_parameter(ours).grad, tensors[key], atol=1e-5, rtol=1e-3)


def test_transformers_upernet_answers_the_same_both_ways() -> None:
    pytest.importorskip("transformers")
    for row in transformers_rows():
        assert row.fits, row
        assert not row.note


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 33), st.integers(1, 33))
@settings(max_examples=40, deadline=None)
def test_a_convolution_of_an_enlarged_map_can_be_made_small(height: int, width: int, tall: int, wide: int) -> None:
    x, weight = torch.randn(2, 3, height, width), torch.randn(4, 3, 3, 3)
    direct = F.conv2d(F.interpolate(x, size=(tall, wide), mode="bilinear", align_corners=False), weight, padding=1)
    torch.testing.assert_close(_enlarged_conv(x, weight, (tall, wide)), direct, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (101, 143), (33, 20)])
def test_logits_have_the_images_size(kind: str, size: tuple[int, int]) -> None:
    model = _tiny(kind).eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 5, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_one_trains(kind: str) -> None:
    model = _tiny(kind, auxiliary_channels=8).train()
    logits, auxiliary = model.with_auxiliary(torch.randn(1, 3, 64, 96))
    assert auxiliary is not None
    targets = torch.randint(0, 5, (1, 64, 96))
    (cross_entropy(logits, targets) + 0.4 * cross_entropy(auxiliary, targets)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["upernet_swin_tiny", "upernet_swin_small", "upernet_swin_base"])
def test_published_sizes_and_costs_are_met(name: str) -> None:
    system = SYSTEMS[name]
    variant = system_variant(system)
    counted = segmenter_parameters(variant, system.decoder)
    with torch.device("meta"):
        model = swinkit.create_model(name)
    assert sum(counted.values()) == sum(p.numel() for p in model.parameters())
    assert system.params_m is not None
    assert system.gmacs is not None
    assert sum(counted.values()) == pytest.approx(system.params_m * 1e6, rel=0.01)
    assert sum(segmenter_macs(variant, system.decoder, system.size).values()) == pytest.approx(system.gmacs * 1e9, rel=0.01)


@pytest.mark.parametrize(("kind", "wishes"), [*((kind, {}) for kind in KINDS), ("unet", {"deconv_kernel": 4})])
def test_costs_are_those_the_profiler_counts(kind: str, wishes: dict[str, int]) -> None:
    with torch.device("meta"):
        model = swinkit.create_model(kind, num_classes=7, backbone="swin_tiny", **wishes).eval()
    variant = resolve("swin_tiny")[1].changed(num_classes=7)
    assert sum(segmenter_parameters(variant, model.decoder).values()) == sum(p.numel() for p in model.parameters())
    counted = segmenter_macs(variant, model.decoder, (256, 224), reordered=True)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 256, 224))
    attention = 0  # the profiler misses attention on the meta device or counts it: compare decoders alone
    head = sum(
        value
        for module, operations in counter.get_flop_counts().items()
        for value in operations.values()
        if module.split(".")[-1] in ("decode_head", "neck") and module.count(".") == 1
    )
    assert head + attention == 2 * (sum(counted.values()) - counted["backbone"])


def test_losses_leave_out_what_is_void() -> None:
    logits, targets = torch.randn(2, 4, 6, 5), torch.randint(0, 4, (2, 6, 5))
    targets[0, :3] = 255
    by_hand = [-logits[b, :, y, x].log_softmax(0)[targets[b, y, x]] for b in range(2) for y in range(6) for x in range(5)
               if targets[b, y, x] != 255]  # fmt: skip
    assert cross_entropy(logits, targets, "all") == pytest.approx(float(sum(by_hand)) / 60, rel=1e-5)
    assert cross_entropy(logits, targets, "valid") == pytest.approx(float(sum(by_hand)) / len(by_hand), rel=1e-5)
    void = torch.full_like(targets, 255)
    for loss in (cross_entropy(logits, void, "all"), cross_entropy(logits, void, "valid")):
        assert loss == 0
    weighted = cross_entropy(logits, targets, "valid", torch.tensor([1.0, 2.0, 0.5, 3.0]))
    expected = F.cross_entropy(logits, targets, torch.tensor([1.0, 2.0, 0.5, 3.0]), ignore_index=255)
    torch.testing.assert_close(weighted, expected)
    assert 0 < dice(logits, targets) < 1


def test_one_window_over_the_image_is_the_whole_image() -> None:
    model = _tiny("upernet").eval()
    images = torch.randn(1, 3, 70, 90)
    with torch.inference_mode():
        assert torch.equal(slide(model, images, 90, 45), model(images))
        assert torch.equal(slide(model, images, 200, 100), model(images))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [Passes(flip=True), Passes((0.5, 1.0, 1.5), flip=True), Passes((1.0,), True, 48, 32)])
def test_averaging_with_mirror_images_makes_answers_mirror(kind: str, options: Passes) -> None:
    model = _tiny(kind).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # answers that differ from class to class, and from left to right
            parameter.add_(0.1 * torch.randn_like(parameter))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 96, 3), dtype=np.uint8))
    plain = Preprocessing((64, 64), "native", 0, "bilinear")

    def probabilities(picture: Image.Image, how: Passes) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([scores for _, scores in bands(passes_of(model, picture, plain, how), 70, 96)], dim=1)

    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    both = probabilities(image, options)
    torch.testing.assert_close(probabilities(mirrored, options).flip(-1), both, atol=1e-5, rtol=0)
    assert both.sum(0).allclose(torch.ones(70, 96))
    once = dataclasses.replace(options, flip=False)
    alone = probabilities(image, once)
    assert (probabilities(mirrored, once).flip(-1) - alone).abs().max() > 1e-3


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_bands_are_the_bilinear_resize(height: int, width: int, tall: int, wide: int) -> None:
    from swinkit.tasks.segment import passes as dense

    logits = torch.randn(3, height, width)
    whole = F.interpolate(logits[None], size=(tall, wide), mode="bilinear", align_corners=False)[0]
    before, dense.BAND_VALUES = dense.BAND_VALUES, 3 * wide * 7
    try:
        pieces = list(bands([logits], tall, wide))
    finally:
        dense.BAND_VALUES = before
    assert [rows.start for rows, _ in pieces] == list(range(0, tall, 7))
    torch.testing.assert_close(torch.cat([piece for _, piece in pieces], dim=1), whole, atol=1e-5, rtol=0)
    assert class_map([logits], tall, wide).shape == (tall, wide)


def test_windows_that_leave_holes_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves holes"):
        Passes(crop=64, stride=65)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_a_backbone_of_timm_carries_the_same_decoder(name: str) -> None:
    pytest.importorskip("timm")
    model = swinkit.create_model("upernet", backbone=f"timm:{name}", num_classes=4, channels=16).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 96)).shape == (1, 4, 64, 96)
    with pytest.raises(UnknownName, match="resnet18"):
        swinkit.create_model("fpn", backbone="timm:resnet81")
