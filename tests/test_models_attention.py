"""Attention as training writes it out, and what can be asked of it: weights and feature maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from swinkit.errors import InputError
from swinkit.models.attention import explicit_attention
from swinkit.models.classifier import SwinClassifier
from swinkit.models.swin import SwinBackbone, WindowAttention
from swinkit.models.windows import MASKED, Windows
from swinkit.specs import Variant


def _parts(patterns: int, dtype: torch.dtype, maps: int = 2) -> list[Tensor]:
    """Return queries, keys and values of ``maps`` maps of ``patterns`` windows, and a bias that masks some tokens."""
    torch.manual_seed(patterns)
    parts = [torch.randn(maps * patterns, 9, 2, 4, dtype=dtype).transpose(1, 2) for _ in range(3)]
    bias = torch.randn(patterns, 2, 9, 9, dtype=dtype)
    bias[:, :, 3:, :3] += MASKED
    return [part.requires_grad_() for part in (*parts, bias)]


@pytest.mark.parametrize("patterns", [1, 3])
def test_attention_in_training_has_the_gradients_of_its_formula(patterns: int) -> None:
    parts = _parts(patterns, torch.float64)
    assert torch.autograd.gradcheck(lambda *given: explicit_attention(*given, 0.5), parts)


@pytest.mark.parametrize("patterns", [1, 3])
def test_attention_in_training_is_pytorch_s(patterns: int) -> None:
    query, key, value, bias = parts = _parts(patterns, torch.float32)
    theirs = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.repeat(2, 1, 1, 1), scale=0.5)
    torch.manual_seed(0)
    towards = torch.randn_like(theirs)
    expected = torch.autograd.grad(theirs, parts, towards)
    ours = explicit_attention(*parts, 0.5)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    for found, wanted in zip(torch.autograd.grad(ours, parts, towards), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_no_product_meets_a_denormal_weight() -> None:
    """They take a hundred times as long; a mask of -100 makes weights of 1e-44."""
    parts = _parts(2, torch.float32)
    weights = explicit_attention(*parts, 0.5).grad_fn.next_functions[0][0].saved_tensors[3]  # type: ignore[union-attr]
    assert weights.shape == (2 * 2 * 2, 9, 9)
    assert (weights == 0).any()
    assert ((weights == 0) | (weights > 1e-30)).all()


def _network(version: int, kind: type = SwinClassifier) -> SwinClassifier | SwinBackbone:
    torch.manual_seed(version)
    model = kind(
        Variant(version=version, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, img_size=32, num_classes=3)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("size", [(64, 64), (40, 72)])
@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("kind", [SwinClassifier, SwinBackbone])
@pytest.mark.parametrize("version", [1, 2])
def test_weights_times_values_are_what_a_block_computes(
    version: int, kind: type, place: tuple[int, int], size: tuple[int, int]
) -> None:
    model, images = _network(version, kind), torch.randn(2, 3, *size)
    attention = model.get_submodule(f"layers.{place[0]}.blocks.{place[1]}.attn")
    assert isinstance(attention, WindowAttention)
    seen: list[tuple[Tensor, Windows, Tensor]] = []
    attention.register_forward_hook(lambda _, given, answer: seen.append((*given, answer)))
    with torch.no_grad():
        weights = model.attention_weights(images, *place)
        x, cut, answer = seen[0]
        value = attention.heads(attention.project(x, cut), cut.side**2)[2]
        mixed = (weights.flatten(0, 1) @ value).transpose(1, 2).flatten(2)
        expected = attention.proj(cut.reverse(mixed.reshape(len(x), -1, x.shape[2])))
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5)
    windows = -(-cut.height // cut.side) * -(-cut.width // cut.side)
    assert weights.shape == (2, windows, attention.num_heads, cut.side**2, cut.side**2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert len(attention._forward_pre_hooks) == 0


@pytest.mark.parametrize("place", [(2, 0), (-1, 0), (0, 2)])
def test_a_block_that_is_not_there_is_refused(place: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"no block {place[1]} in stage {place[0]}"):
        _network(1).attention_weights(torch.randn(1, 3, 32, 32), *place)


@pytest.mark.parametrize("version", [1, 2])
def test_features_are_maps_and_their_mean_is_what_the_head_takes(version: int) -> None:
    model, images = _network(version), torch.randn(2, 3, 40, 72)
    with torch.no_grad():
        features, maps = model.forward_features(images), model.feature_maps(images)
        assert [tuple(x.shape) for x in maps] == [(2, 8, 10, 18), (2, 16, 5, 9)]
        last = F.layer_norm(maps[1].permute(0, 2, 3, 1), (16,), model.norm.weight, model.norm.bias)
        torch.testing.assert_close(features, last.permute(0, 3, 1, 2))
        pooled = model.pooled_features(images)
        assert pooled.shape == (2, 16)
        torch.testing.assert_close(model.head(pooled), model(images), atol=1e-5, rtol=1e-5)
