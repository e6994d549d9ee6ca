"""Linear layers by oneDNN: the same numbers, and only where nobody watches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from swinkit.models import linear
from swinkit.models.swin import Mlp


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=0, max_size=3), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.booleans())
def test_it_is_the_product(shape: list[int], wide: int, out: int, biased: bool, gelu: bool) -> None:
    x, weight, bias = torch.randn(*shape, wide), torch.randn(out, wide), torch.randn(out) if biased else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    exact = F.gelu(exact) if gelu else exact
    with torch.inference_mode():
        found = linear.linear(x, weight, bias, gelu)
    assert found.shape == (*shape, out)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)


def test_rows_that_are_not_contiguous_and_no_rows_at_all() -> None:
    x, weight = torch.randn(6, 4, 5).transpose(0, 1), torch.randn(3, 5)
    with torch.no_grad():
        torch.testing.assert_close(linear.linear(x, weight, None), x.contiguous() @ weight.T, atol=1e-5, rtol=1e-5)
        assert linear.linear(torch.zeros(0, 5), weight, None, gelu=True).shape == (0, 3)


def test_the_short_way_is_taken_only_by_plain_numbers_that_nobody_watches() -> None:
    x = torch.randn(2, 4)
    assert not linear.quick(x)  # gradients
    with torch.no_grad():
        assert linear.quick(x) == linear._there()
        assert not linear.quick(x.double())
        with torch.autocast("cpu"):
            assert not linear.quick(x)
        with FlopCounterMode(display=False):
            assert not linear.quick(x)


@pytest.mark.parametrize("what", ["hook", "early hook", "another layer", "counter"])
def test_whoever_watches_a_layer_sees_it(what: str) -> None:
    mlp, x, seen = Mlp(4, 8), torch.randn(3, 4), []
    with torch.no_grad():
        plain = mlp(x)
        if what == "hook":
            mlp.fc1.register_forward_hook(lambda *_: seen.append(1))
        elif what == "early hook":
            mlp.fc1.register_forward_pre_hook(lambda *_: seen.append(1))
        elif what == "another layer":
            first = mlp.fc1

            class Other(nn.Linear):
                def forward(self, x: torch.Tensor) -> torch.Tensor:
                    seen.append(1)
                    return first(x)

            mlp.fc1 = Other(4, 8)
        with FlopCounterMode(display=False) as counter:
            torch.testing.assert_close(mlp(x), plain)
    assert counter.get_total_flops() == 2 * 2 * 3 * 4 * 8
    assert bool(seen) == (what != "counter")
