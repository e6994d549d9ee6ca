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

from swinkit.engines import kernels, rewriting
from swinkit.engines.exported import ExportedEngine
from swinkit.engines.fast import folded
from swinkit.engines.program import with_outputs
from swinkit.export import export_network
from swinkit.models.classifier import SwinClassifier
from swinkit.models.swin import SwinBackbone
from swinkit.specs import ModelSpec, Preprocessing

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, float, Tensor, int], Tensor]


@pytest.fixture(scope="module")
def attend(tmp_path_factory: pytest.TempPathFactory) -> Attend:
    if kernels.why_not() is not None:
        pytest.skip("needs what the kernels are built with")
    return kernels.compiled(["attend"], tmp_path_factory.mktemp("attention"))["attend"]


def exact(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float, places: Tensor, rows: int) -> Tensor:
    query, key, value, bias = (x.double() for x in (query, key, value, bias))
    bias = bias.repeat(query.shape[0] // bias.shape[0], 1, 1, 1)
    answer = ((query @ key.transpose(-1, -2) * scale + bias).softmax(-1) @ value).float().transpose(1, 2).flatten(2)
    windows = answer.reshape(-1, len(places), answer.shape[2])
    maps = torch.full((len(windows), rows, answer.shape[2]), torch.nan)
    for place, token in zip(places.tolist(), windows.unbind(1), strict=True):
        if place < rows:
            maps[:, place] = token
    return maps


@given(
    tokens=st.one_of(st.integers(1, 70), st.sampled_from([49, 64, 144, 256])),
    heads=st.integers(1, 3),
    width=st.sampled_from([16, 32, 48, 64, 80, 128]),
    patterns=st.integers(1, 3),
    repeats=st.integers(1, 3),
    padding=st.floats(0, 0.5),
    one_product=st.booleans(),
    size=st.sampled_from([0.01, 1.0, 30.0]),
)
@settings(max_examples=60, deadline=None)
def test_it_is_attention(
    attend: Attend,
    tokens: int,
    heads: int,
    width: int,
    patterns: int,
    repeats: int,
    padding: float,
    one_product: bool,
    size: float,
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
    rows = patterns * tokens - int(padding * tokens)
    places = torch.randperm(patterns * tokens, generator=generator).clamp(max=rows)
    with torch.inference_mode():
        found = attend(query * size, key, value, bias, width**-0.5, places, rows)
    assert found.is_contiguous()
    wanted = exact(query * size, key, value, bias, width**-0.5, places, rows)
    # an exponent is right to 20 units of its last place (as in PyTorch's own fused attention), values lie within +-5
    torch.testing.assert_close(found, wanted, atol=1e-5 * max(size, 1.0), rtol=1e-5)


def test_what_it_cannot_do_it_refuses(attend: Attend) -> None:
    query, bias, places = torch.randn(2, 3, 5, 32), torch.randn(1, 3, 5, 5), torch.arange(5)
    attend(query, query, query, bias, 1.0, places, 5)
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
            attend(*wrong, 1.0, places, 5)
    for places, rows in (
        (torch.arange(5), 3),  # a place beyond the map and its padding
        (torch.arange(5), 6),  # a token of the map is in no window
        (torch.arange(5) - 1, 5),
        (torch.arange(4), 4),  # no whole window
        (torch.arange(15), 15),  # two windows are no map of three
        (torch.arange(5, dtype=torch.int32), 5),
        (torch.arange(5).view(1, 5), 5),
        (torch.arange(0), 0),
    ):
        with pytest.raises(RuntimeError):
            attend(query, query, query, bias, 1.0, places, rows)
    with pytest.raises(RuntimeError):
        attend(query[:, :, :0], query[:, :, :0], query[:, :, :0], bias[..., :0, :0], 1.0, torch.arange(5), 5)


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


@pytest.mark.parametrize("version", [1, 2])
def test_a_graph_leaves_it_the_way_back_and_the_repeats(version: int, tmp_path: Path) -> None:
    if kernels.why_not() is not None:
        pytest.skip("needs what the kernels are built with")
    torch.manual_seed(3)
    shape = {"version": version, "depths": (2, 2), "num_heads": (2, 4), "img_size": 36, "window_size": 4}  # maps of 9 and of 5
    network = folded(shaken(SwinBackbone(SHAPE.changed(**shape))))
    images = torch.randn(3, 3, 36, 36)
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    module = with_outputs(program, (0, 1))
    rewriting.rewrite(module, tmp_path)
    assert not module.graph.find_nodes(op="call_function", target=torch.ops.aten.scaled_dot_product_attention.default)
    norms = module.graph.find_nodes(op="call_function", target=torch.ops.aten.layer_norm.default)
    assert [128] not in [node.args[1] for node in norms]  # V1's in front of a merging goes into its linear layer
    calls = [node for node in module.graph.nodes if "attend_" in str(node.target)]
    assert [node.args[3].args[0].meta["val"].shape[0] for node in calls] == [1, 9, 1, 4]  # of windows, not pictures
    assert {user.target for node in calls for user in node.users} == {torch.ops.aten.linear.default}
    with torch.inference_mode():
        for many in (1, 3):
            for found, wanted in zip(module(images[:many]), network(images[:many]), strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_places_lead_back() -> None:
    index = torch.tensor([5, 0, 2, 3])
    assert rewriting._places(index, 6, 3).tolist() == [1, 4, 2, 3, 4, 0]  # type: ignore[union-attr]
    assert rewriting._places(index, 6, 4) is None
    assert rewriting._places(torch.tensor([5, 0, 5, 3]), 6, 3) is None


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
    rewriting.rewrite(module, tmp_path)
    assert str(module.graph) == before
    assert not [*tmp_path.iterdir()]
