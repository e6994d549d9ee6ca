"""Which linear layers products of bytes (``tiles.cpp``) are close enough for: measured on the network's own numbers.

Their steps are those of the largest number of a row. Where a few channels are 50 to 1,000 times the rest, as in trained Swins,
the rest has few steps left, and the answer may be rounded many times as much as float32 rounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from swinkit.engines.kernels.reference import products_of_bytes

MOST = 4.0  # times float32's own rounding
ROWS, COLUMNS = 128, 96  # of a layer that are looked at, evenly spread


def loss(x: Tensor, weight: Tensor, product: Callable[[Tensor, Tensor], Tensor] = products_of_bytes) -> float:
    """Return how many times as much a product is rounded as float32's own: root mean squares against float64.

    Args:
        x: (rows, K) float32.
        weight: (columns, K) float32.
        product: of the two, (rows, columns).
    """
    exact = x.double() @ weight.double().T
    ours, own = ((answer.double() - exact).square().mean().sqrt().item() for answer in (product(x, weight), F.linear(x, weight)))
    return ours / own if own else (0.0 if ours == 0 else float("inf"))


def close_enough(
    module: fx.GraphModule, layers: Collection[fx.Node], example: Tensor, weight_of: Callable[[fx.Node], Tensor]
) -> list[fx.Node]:
    """Return the linear layers of a graph that products of bytes round at most ``MOST`` times as much as float32 does.

    Args:
        module: an exported graph of one input.
        layers: its nodes that are linear layers.
        example: what it is given, (B, ...).
        weight_of: gives a layer's weights, (columns, K).
    """
    kept = []

    class Watcher(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            answer = super().run_node(n)
            if n in layers:
                x = self.env[n.args[0]].reshape(-1, self.env[n.args[0]].shape[-1])  # type: ignore[index]
                if loss(_some(x, ROWS), _some(weight_of(n).detach(), COLUMNS)) <= MOST:  # NaN is not
                    kept.append(n)
            return answer

    with torch.no_grad():
        Watcher(module, garbage_collect_values=False).run(example, enable_io_processing=False)
    return kept


def _some(rows: Tensor, most: int) -> Tensor:
    return rows[torch.linspace(0, len(rows) - 1, min(most, len(rows))).round().long()]
