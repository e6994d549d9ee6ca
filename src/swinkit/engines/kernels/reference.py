"""The operations of this folder in plain PyTorch: what each computes, its shapes, and the oracle of its tests.

Given float32 they round as PyTorch does; given float64 they are the truth that the C++ is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST = 8355000.0  # of the numbers that three signed digits of eight bits write, as in tiles.cpp
CHUNK = 384  # inputs that have a step of their own, where there are more than two chunks of them


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float, places: Tensor, rows: int) -> Tensor:
    """Return softmax(scale q k^T + bias) v, each token where it belongs in its map.

    Args:
        query, key, value: (M, heads, T, D), the M windows of maps that have N windows each.
        bias: (P, heads, T, T); window m takes that of m % P.
        scale: what the products are multiplied with.
        places: (N T,), whole numbers: where in its map each token of its windows lies, from 0 to ``rows`` - 1, each once;
            ``rows`` for padding, which is left out.
        rows: tokens of a map.

    Returns:
        (M / N, rows, heads D).
    """
    scores = query @ key.transpose(-1, -2) * scale + bias.repeat(len(query) // len(bias), 1, 1, 1)
    tokens = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    windows = tokens.reshape(-1, len(places), tokens.shape[2])
    answer = tokens.new_zeros(len(windows), rows + 1, tokens.shape[2])
    answer[:, places] = windows
    return answer[:, :rows]


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    curved: bool = False,
    eps: float | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """Return a linear layer's answer, with what comes before it and behind it.

    The operation itself takes ``pack(weight), columns`` in the place of ``weight``.

    Args:
        x: (..., K); with an index (B, L, K / p).
        weight: (columns, K).
        bias: (columns,).
        added: (..., columns), a residual that is added last.
        curved: GELU, the exact one, before that.
        eps: of a LayerNorm without weights before the layer; None means no norm.
        index: (rows, p), which tokens of a map stand side by side in each row of the layer's input.

    Returns:
        (..., columns); with an index (B, rows, columns).
    """
    x = x if index is None else x[:, index].flatten(2)
    x = x if eps is None else F.layer_norm(x, x.shape[-1:], eps=eps)
    answer = F.linear(x, weight, bias)
    answer = F.gelu(answer) if curved else answer
    return answer if added is None else answer + added


def mlp(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None = None,
    added: Tensor | None = None,
    eps: float | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """Return two layers' answer, GELU between them; the arguments are those of ``linear``."""
    return linear(linear(x, weight, bias, None, True, eps, index), weight2, bias2, added)


def products_of_bytes(x: Tensor, weight: Tensor) -> Tensor:
    """Return x (rows, K) times weights (columns, K), float32, rounded as ``tiles.cpp`` rounds it on a processor with AMX.

    A row's numbers, and a column's of the weights, become multiples of a step, the largest of them ``LARGEST`` steps, and three
    digits each. Six of the nine products of digits are summed, exactly.
    """
    inputs = x.shape[1]
    size = next((size for size in range(CHUNK, CHUNK // 2 - 1, -64) if inputs % size == 0), inputs)
    size = inputs if inputs <= 2 * CHUNK else size
    right, right_step = _digits(weight)
    answer = x.new_zeros(len(x), len(weight))
    for begin in range(0, inputs, size):
        left, left_step = _digits(x[:, begin : begin + size])
        part = right[:, :, begin : begin + size].mT
        orders = [sum(left[i] @ part[order - i] for i in range(order + 1)) for order in range(3)]
        high, middle, low = (order.float() for order in orders)  # type: ignore[union-attr]
        together = high * 65536 + (middle * 256 + low)
        answer = answer + together * (left_step * right_step.T * 65536)
    return answer


def _digits(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return three digits of each number, largest first, (3, rows, K) float64, and the step of each row, (rows, 1)."""
    most = numbers.abs().amax(1, keepdim=True).clamp(min=1e-31)
    steps = (numbers * (LARGEST / most)).round().long()
    digits = []
    for _ in range(3):
        digit = (steps + 128) % 256 - 128
        digits.append(digit.double())
        steps = (steps - digit) // 256
    return torch.stack(digits[::-1]), most / LARGEST


def _attended(query: Tensor, _k: Tensor, _v: Tensor, _bias: Tensor, _scale: float, places: Tensor, rows: int) -> Tensor:
    many, heads, tokens, width = query.shape
    return query.new_empty(many // (places.shape[0] // tokens), rows, heads * width)


def _multiplied(x: Tensor, _packed: Tensor, columns: int, _b: Any, _added: Any, _curved: bool, _eps: Any, index: Any) -> Tensor:
    return x.new_empty(*(x.shape[:-1] if index is None else (x.shape[0], index.shape[0])), columns)


def _multiplied_twice(
    x: Tensor, packed: Tensor, _h: int, _b: Any, _p2: Tensor, columns: int, _b2: Any, added: Any, eps: Any, index: Any
) -> Tensor:
    return _multiplied(x, packed, columns, None, added, False, eps, index)


_LAYERS: dict[str, Callable[..., Any]] = {"": _multiplied, "_mlp": _multiplied_twice}
# operation -> what follows its name -> the shape of the answer, for torch's compiler
SHAPES: dict[str, dict[str, Callable[..., Any]]] = {"attend": {"": _attended}, "linear": _LAYERS, "tiles": _LAYERS}
