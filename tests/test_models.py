"""The network against independent truths: transformers' pyramid, ten-line counts, finite differences."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from swinkit.errors import UnknownName
from swinkit.models import create_backbone, create_model, list_models, windows
from swinkit.models.classifier import SwinClassifier
from swinkit.models.swin import SwinBackbone
from swinkit.models.variants import VARIANTS
from swinkit.specs import Variant
from swinkit.weights.convert import to_neutral

TINY = Variant(embed_dim=16, depths=(2, 2, 2), num_heads=(1, 2, 4), window_size=4, img_size=64, num_classes=5)
SIZES = st.integers(1, 23)
WINDOWS = st.integers(1, 8)


def _shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model with random weights everywhere: zero tables and identity norms would hide mistakes."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@given(SIZES, SIZES, WINDOWS, st.data())
@settings(max_examples=60, deadline=None)
def test_windows_are_the_rolled_and_cut_map(height: int, width: int, window: int, data: st.DataObject) -> None:
    shift = data.draw(st.integers(0, window - 1))
    tokens = torch.arange(1, height * width + 1).float().reshape(1, -1, 1).repeat(2, 1, 3)
    index = windows.window_index(height, width, window, shift)
    inverse = windows.inverse_index(height, width, window, shift)
    # The original way: pad, roll, view, permute.
    padded = torch.nn.functional.pad(tokens.view(2, height, width, 3), (0, 0, 0, -width % window, 0, -height % window))
    rolled = torch.roll(padded, (-shift, -shift), (1, 2))
    _, tall, wide, _ = rolled.shape
    cut = rolled.view(2, tall // window, window, wide // window, window, 3).permute(0, 1, 3, 2, 4, 5).reshape(2, -1, 3)
    assert torch.equal(windows.rearrange(tokens, index, inverse), cut)
    assert torch.equal(windows.rearrange(cut, inverse, index), tokens)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(2, 6), st.data())
@settings(max_examples=40, deadline=None)
def test_masks_part_what_the_roll_joined(rows: int, columns: int, window: int, data: st.DataObject) -> None:
    shift = data.draw(st.integers(1, window - 1))
    height, width = rows * window, columns * window
    # The original way: number nine regions of the map, compare the numbers inside each window.
    regions = torch.zeros(height, width)
    parts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, part in enumerate(parts):
        for j, other in enumerate(parts):
            regions[part, other] = 3 * i + j
    cut = regions.view(rows, window, columns, window).permute(0, 2, 1, 3).reshape(rows * columns, -1)
    expected = (cut[:, :, None] != cut[:, None, :]).float() * windows.MASKED
    patterns = windows.window_patterns(height, width, window)
    assert torch.equal(windows.mask_patterns(window, shift)[patterns], expected)


def test_the_gather_has_the_right_gradient() -> None:
    index, inverse = windows.window_index(3, 5, 2, 1), windows.inverse_index(3, 5, 2, 1)
    map_tokens = torch.randn(2, 15, 3, dtype=torch.double, requires_grad=True)
    window_tokens = torch.randn(2, 24, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(windows.rearrange, (map_tokens, index, inverse))
    assert torch.autograd.gradcheck(windows.rearrange, (window_tokens, inverse, index))


@given(WINDOWS, WINDOWS)
def test_a_smaller_window_uses_the_middle_of_the_bias_table(big: int, small: int) -> None:
    small = min(big, small)
    index = windows.bias_index(small, 2 * big - 1)
    for query in range(small**2):
        for key in range(small**2):
            down, right = query // small - key // small, query % small - key % small
            assert index[query, key] == (down + big - 1) * (2 * big - 1) + right + big - 1


@pytest.mark.parametrize("size", [(225, 227), (96, 200), (160, 160), (64, 97)])
@pytest.mark.parametrize("version", [1, 2])
def test_the_pyramid_equals_that_of_transformers(version: int, size: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers")
    names = {1: ("SwinConfig", "SwinBackbone"), 2: ("Swinv2Config", "Swinv2Backbone")}[version]
    config = getattr(transformers, names[0])(
        embed_dim=16,
        depths=[2, 2, 2],
        num_heads=[1, 2, 4],
        window_size=4,
        image_size=256,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3"],
    )
    theirs = _shaken(getattr(transformers, names[1])(config))
    ours = SwinBackbone(dataclasses.replace(TINY, version=version)).eval()
    tensors = to_neutral(theirs.state_dict()).tensors
    ours.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("norm.")}, strict=version == 1)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        # transformers' V2 backbone has no output norms
        maps = ours(images) if version == 1 else [m.permute(0, 3, 1, 2) for m in ours.stages(ours.embed(images))]
        for a, b in zip(maps, theirs(images).feature_maps, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("version", [1, 2])
def test_other_windows_channels_and_patches(version: int) -> None:
    variant = dataclasses.replace(TINY, version=version, window_size=5, in_chans=4, patch_size=3)
    model = _shaken(SwinClassifier(variant))
    answer = model(torch.randn(2, 4, 50, 71))
    assert answer.shape == (2, 5)
    assert answer.isfinite().all()
    with pytest.raises(ValueError, match=r"images must be \(B, 4, H, W\), got \(2, 3, 50, 71\)"):
        model(torch.randn(2, 3, 50, 71))


@pytest.mark.parametrize("version", [1, 2])
def test_activation_checkpointing_changes_no_gradient(version: int) -> None:
    gradients: list[list[Tensor]] = []
    for checkpointing in (False, True):
        torch.manual_seed(2)
        model = _shaken(SwinClassifier(dataclasses.replace(TINY, version=version, drop_path=0.3))).train()
        model.activation_checkpointing = checkpointing  # type: ignore[assignment]
        torch.manual_seed(3)
        model(torch.linspace(-1, 1, 2 * 3 * 40 * 56).reshape(2, 3, 40, 56)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 50
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    block = SwinClassifier(dataclasses.replace(TINY, drop_path=0.5)).layers[2].blocks[1]  # type: ignore[union-attr,index]
    branch = torch.ones(4000, 4, 16)
    torch.manual_seed(0)
    dropped = block.train()._drop(branch)
    per_sample = dropped.flatten(1)
    assert ((per_sample == 0).all(1) | (per_sample == 2).all(1)).all()
    assert abs(float(dropped.mean()) - 1.0) < 0.05
    assert torch.equal(block.eval()._drop(branch), branch)


@pytest.mark.parametrize("version", [1, 2])
def test_bf16_answers_near_fp32(version: int) -> None:
    model = _shaken(SwinClassifier(dataclasses.replace(TINY, version=version)))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images).float()
        whole = model.bfloat16()(images.bfloat16()).float()
    spread = float(exact.abs().max())
    for answer in (rough, whole):
        assert 0 < float((answer - exact).abs().max()) < 0.1 * spread


def test_every_released_network_can_be_built() -> None:
    assert len(VARIANTS) > 30
    for name, variant in VARIANTS.items():
        with torch.device("meta"):
            model = create_model(name)
            backbone = create_backbone(name)
        assert backbone.channels == variant.channels
        assert sum(p.numel() for p in model.parameters()) > 1e6
    assert set(list_models("classify")) <= set(VARIANTS)


def test_without_shift_no_window_sees_its_neighbour() -> None:
    model = _shaken(SwinBackbone(dataclasses.replace(TINY, depths=(2,), num_heads=(1,), pretrained_windows=(0,), shift=False)))
    shifted = _shaken(SwinBackbone(dataclasses.replace(TINY, depths=(2,), num_heads=(1,), pretrained_windows=(0,))))
    images = torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[..., :16, :16] += 1  # the first window of 4 x 4 tokens of 4 pixels
    with torch.no_grad():
        for network, spreads in ((model, False), (shifted, True)):
            moved = (network(images)[0] - network(changed)[0]).abs().amax(1)[0] > 0
            assert moved[:4, :4].all()
            assert bool(moved[4:].any() or moved[:, 4:].any()) == spreads


@pytest.mark.parametrize("name", ["resnet50", "swin_tinny", "microsoft/swin-smal-patch4-window7-224"])
def test_an_unknown_name_gets_the_nearest_three(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        create_model(name)
    assert str(caught.value).count("'") == 2 + 2 + 2 * 3  # the name, the command, three names


@pytest.mark.parametrize("changes", [{"img_size": (224, 224)}, {"window_size": 7.5}, {"num_classes": -1}, {"in_chans": None}])
def test_fields_that_are_no_whole_numbers_are_named(changes: dict) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        create_model("swin_nano", **{"embed_dim": 12, "num_heads": (1, 2, 4), **changes})


def test_numpy_s_whole_numbers_count() -> None:
    variant = Variant(num_classes=np.int64(4))  # what labels.max() + 1 gives
    json.dumps(variant.to_dict())


@pytest.mark.parametrize("height", range(1, 6))
@pytest.mark.parametrize("width", range(1, 6))
def test_merging_takes_the_four_tokens_of_each_cell(height: int, width: int) -> None:
    places = torch.full((height + height % 2, width + width % 2), height * width)
    places[:height, :width] = torch.arange(height * width).view(height, width)
    cells = torch.stack([places[0::2, 0::2], places[1::2, 0::2], places[0::2, 1::2], places[1::2, 1::2]], dim=-1)
    index = windows.merging_index(height, width)
    assert torch.equal(index, cells.reshape(-1))
    assert torch.equal(index[windows.merging_inverse(height, width)], torch.arange(height * width))


@pytest.mark.parametrize("version", [1, 2])
def test_on_a_gpu_rows_of_the_bias_begin_where_its_fused_attention_can_read_them(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No accelerator is needed: tensors without values say how they would lie in its memory."""
    network = SwinClassifier(dataclasses.replace(TINY, version=version, window_size=7))
    biases: list[Tensor] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(*parts: Tensor, attn_mask: Tensor, scale: float) -> Tensor:
        biases.append(attn_mask)
        return attention(*parts, attn_mask=attn_mask, scale=scale)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(windows, "table", lambda name, *sizes, device: windows._FUNCTIONS[name](*sizes, device=device))
    with FakeTensorMode(allow_non_fake_inputs=True):
        weights = {name: torch.empty_like(value, device="cuda") for name, value in network.state_dict().items()}
        torch.func.functional_call(network, weights, (torch.empty(2, 3, 64, 64, device="cuda"),))
    assert {bias.shape[0] == 1 for bias in biases} == {True, False}  # of all windows alike, and of shifted ones
    assert all(bias.stride(-1) == 1 and not any(step % 8 for step in bias.stride()[:-1]) for bias in biases)
    assert any(bias.shape[-1] % 8 for bias in biases)
