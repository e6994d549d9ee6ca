"""The attention that machine code brings of its own, compared in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.test_engines import SHAPE, shaken
from torch import Tensor, nn
from torch.nn import functional as F

from swinkit.engines import native
from swinkit.engines.exported import ExportedEngine
from swinkit.export import export_network
from swinkit.models.classifier import SwinClassifier
from swinkit.specs import ModelSpec, Preprocessing

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


@pytest.fixture(scope="module")
def attend(tmp_path_factory: pytest.TempPathFactory) -> Attend:
    if native.compiler() is None:
        pytest.skip("needs a C++ compiler")
    return native.compile_attention(tmp_path_factory.mktemp("attention"))


def exact(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    query, key, value, bias = (x.double() for x in (query, key, value, bias))
    bias = bias.repeat(query.shape[0] // bias.shape[0], 1, 1, 1)
    return ((query @ key.transpose(-1, -2) * scale + bias).softmax(-1) @ value).float()


@given(
    tokens=st.one_of(st.integers(1, 70), st.sampled_from([49, 64, 144, 256])),
    heads=st.integers(1, 3),
    width=st.sampled_from([16, 32, 48, 64, 80, 128]),
    patterns=st.integers(1, 3),
    repeats=st.integers(1, 3),
    one_product=st.booleans(),
    size=st.sampled_from([0.01, 1.0, 30.0]),
)
@settings(max_examples=60, deadline=None)
def test_it_is_attention(
    attend: Attend, tokens: int, heads: int, width: int, patterns: int, repeats: int, one_product: bool, size: float
) -> None:
    generator = torch.Generator().manual_seed(tokens * width)
    many, channels = patterns * repeats, heads * width
    if one_product:
        parts = torch.randn(many, tokens, 3 * channels, generator=generator).chunk(3, dim=2)
    else:
        parts = tuple(torch.randn(3, many, tokens, channels, generator=generator))
    query, key, value = (part.unflatten(2, (heads, width)).transpose(1, 2) for part in parts)
    bias = torch.randn(patterns, tokens, tokens, heads, generator=generator).permute(0, 3, 1, 2)
    bias = bias - 100.0 * (torch.rand(patterns, 1, tokens, tokens, generator=generator) > 0.7)  # as the masks of shifted windows
    with torch.inference_mode():
        found = attend(query * size, key, value, bias, width**-0.5)
    assert found.shape == query.shape
    assert found.transpose(1, 2).is_contiguous()
    # an exponent is right to 20 units of its last place (as in PyTorch's own fused attention), values lie within +-5
    torch.testing.assert_close(found, exact(query * size, key, value, bias, width**-0.5), atol=1e-5 * max(size, 1.0), rtol=1e-5)


def test_what_it_cannot_do_it_refuses(attend: Attend) -> None:
    query, bias = torch.randn(2, 3, 5, 32), torch.randn(1, 3, 5, 5)
    for wrong in (
        (query[..., :24], query[..., :24], query[..., :24], bias),
        (query, query[:1], query, bias),
        (query, query, query, bias[:, :2]),
        (query, query, query, bias[..., :4]),
        (query.double(), query.double(), query.double(), bias.double()),
        (query.transpose(2, 3), query.transpose(2, 3), query.transpose(2, 3), torch.randn(1, 3, 32, 32)),
        (query, query, query, torch.empty(0, 3, 5, 5)),
    ):
        with pytest.raises(RuntimeError):
            attend(*wrong, 1.0)


def test_machine_code_calls_it(attend: Attend, tmp_path: Path) -> None:
    torch.manual_seed(3)
    variant = SHAPE.changed(depths=(2,), num_heads=(2,), img_size=48)  # a plain and a shifted block
    network = shaken(SwinClassifier(variant))
    assert isinstance(network, SwinClassifier)
    export_network(network, ModelSpec(variant, Preprocessing((48, 48))), tmp_path / "e", "aotinductor")
    assert [*tmp_path.glob("e/48x48/attend_*.so")]
    with torch.profiler.profile() as profiler:
        ExportedEngine(tmp_path / "e", trusted=True)(torch.zeros(5, 3, 48, 48))
    calls = {event.key: event.count for event in profiler.key_averages()}
    assert sum(count for name, count in calls.items() if name.startswith("swinkit::attend_")) % 2 == 0
    assert any(name.startswith("swinkit::attend_") for name in calls)
    assert not any("scaled_dot_product" in name for name in calls)


def test_attention_of_other_forms_stays(tmp_path: Path) -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor, mask: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
            attend = F.scaled_dot_product_attention
            return (
                attend(x, x, x),
                attend(x, x, x, mask),
                attend(x, x, x, None, 0.0, True),
                attend(x[0], x[0], x[0], bias[0]),
                attend(x, x[:, :, :3], x[:, :, :3], bias[..., :3]),
                attend(x[..., :24], x[..., :24], x[..., :24], bias),
                attend(x, x, x, bias[:, :1]),
            )

    example = (torch.randn(2, 3, 5, 32), torch.ones(2, 3, 5, 5, dtype=torch.bool), torch.randn(2, 3, 5, 5))
    module = torch.export.export(Other(), example).module()
    before = str(module.graph)
    assert str(native._own_attention(module, tmp_path).graph) == before
    assert not [*tmp_path.iterdir()]
