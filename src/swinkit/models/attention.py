"""Attention for training on a CPU: three products and a softmax, and their gradient, written out.

PyTorch's fused attention has no gradient for a bias on a CPU. Its way around is slow: scores in float32 whatever the precision, a
bias repeated for the batch, products in slow layouts. ``python -m benchmarks --only training`` prints the difference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Weights below it are far below the rounding of their sum, 1. A mask of -100 makes weights of 1e-44, and processors need about a
# hundred cycles for a product with a number that small (a denormal one): the products took 25 times as long.
NOTHING = 1e-20


def explicit_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Return softmax(scale q k^T + bias) v, with gradients for all four.

    Args:
        query, key, value: (B*N, heads, T, D) each.
        bias: (1 or N, heads, T, T).
        scale: of the products of queries and keys.

    Returns:
        (B*N, heads, T, D).
    """
    query, key, value = (part.contiguous().flatten(0, 1) for part in (query, key, value))  # (B*N*heads, T, D)
    heads = bias.shape[1]
    mixed: Tensor = _Attention.apply(query, key, value, bias.flatten(0, 1), scale)[0]
    return mixed.unflatten(0, (-1, heads))


class _Attention(torch.autograd.Function):
    """On (M, T, D) and a bias (P, T, T), row m of which the windows m, m + P, m + 2 P ... share."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        scores = bias.repeat(query.shape[0] // bias.shape[0], 1, 1).baddbmm_(query, key.transpose(1, 2), alpha=scale)
        weights = F.threshold(scores.softmax(dim=-1), NOTHING, 0.0, inplace=True).to(value.dtype)  # (M, T, T)
        return weights @ value, weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        query, key, value, bias, ctx.scale = inputs
        ctx.save_for_backward(query, key, value, output[1])
        ctx.patterns = bias.shape[0]
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        query, key, value, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_weights = gradient @ value.transpose(1, 2)
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        return (
            (of_scores @ key).mul_(ctx.scale),
            (of_scores.transpose(1, 2) @ query).mul_(ctx.scale),
            weights.transpose(1, 2) @ gradient,
            of_scores.unflatten(0, (-1, ctx.patterns)).sum(dim=0),
            None,
        )
