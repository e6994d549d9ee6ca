"""Windows: which token sits in which, who may see whom, how far apart two tokens are, and attention inside them.

Positions are functions of sizes. Their tables are cached by size (a bounded cache, never part of a checkpoint) and become
constants of an exported graph; one whose sizes are free computes them, as torch.compile's does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from swinkit.models.attention import explicit_attention

Device = torch.device | None
# Multiplying before the map is cut leaves out the products of padding but moves rows three times as wide. It pays where the share
# of padding in a map times C is larger than this (measured on a CPU: benchmarks, section pyramid).
PADDING_PAYS = 100
# A GPU's fused attention takes a bias only whose rows begin at multiples of so many numbers; others PyTorch computes in float32.
ALIGNED = 8
MASKED = -100.0  # the original code's finite mask; released weights were trained with it


class Windows(NamedTuple):
    """How a map is cut: into N windows of T = side**2 tokens each.

    Attributes:
        height, width: size of the map in tokens.
        side: of a window in tokens.
        shift: rows and columns the map is rolled by, up and left, before it is cut.
    """

    height: int
    width: int
    side: int
    shift: int

    def partition(self, x: Tensor, pad_value: Tensor | None = None) -> Tensor:
        """Return the tokens window by window: (B, H*W, C) -> (B, N*T, C).

        Args:
            x: the map, row-major.
            pad_value: (C,) the token that fills windows beyond the map; None is zeros.
        """
        return rearrange(x, table("index", *self, device=x.device), table("inverse", *self, device=x.device), pad_value)

    def reverse(self, x: Tensor) -> Tensor:
        """Return the map again, without its padding: (B, N*T, C) -> (B, H*W, C)."""
        return rearrange(x, table("inverse", *self, device=x.device), table("index", *self, device=x.device))

    def mask(self, bias: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what is added to the scores of every window.

        Args:
            bias: (heads, T, T) of the positions, the same in every window.
            dtype: of the answer.

        Returns:
            (N, heads, T, T), -100 lower where two tokens may not see each other; (1, heads, T, T) where no window is shifted.
        """
        if not self.shift:
            return bias[None].to(dtype)
        masks = table("masks", self.side, self.shift, device=bias.device)[:, None]  # (4, 1, T, T)
        patterns = table("patterns", self.height, self.width, self.side, device=bias.device)
        return (bias + masks.to(bias.dtype)).to(dtype)[patterns]

    def multiply_first(self, channels: int) -> bool:
        """Say whether there is so much padding that a linear layer, C to 3C, is quicker on the map than on its windows."""
        area = self.height * self.width
        padding = (self.height + -self.height % self.side) * (self.width + -self.width % self.side) - area
        return not known(padding * channels <= PADDING_PAYS * area)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Return softmax(scale q k^T + bias) v: three times (B*N, heads, T, D), bias (1 or N, heads, T, T) -> as the first."""
    if query.requires_grad and query.device.type == "cpu":
        return explicit_attention(query, key, value, bias, scale)
    tokens, on_gpu = query.shape[2], query.device.type == "cuda"
    if on_gpu:
        bias = F.pad(bias, (0, -tokens % ALIGNED)).contiguous()
    if not known(bias.shape[0] == 1):
        bias = bias.expand(query.shape[0] // bias.shape[0], *bias.shape).reshape(-1, *bias.shape[1:])  # (B*N, heads, T, T)
    if on_gpu:
        bias = bias[..., :tokens]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)


def window_index(height: int, width: int, window: int, shift: int, device: Device = None) -> Tensor:
    """Return which token of the row-major map every place of every window takes.

    The map is padded right and bottom to whole windows, rolled up and left by ``shift`` and cut, all as one gather.

    Args:
        height, width: size of the map in tokens.
        window: side of a window.
        shift: rows and columns the padded map is rolled by.

    Returns:
        (N * T,) int64 for N windows of T = window**2 places, windows row-major, places row-major inside; padding
        has the index height * width, one past the last token.
    """
    rows_of_windows, columns_of_windows = whole(height, window), whole(width, window)
    rows = (torch.arange(rows_of_windows * window, device=device) + shift) % (rows_of_windows * window)
    columns = (torch.arange(columns_of_windows * window, device=device) + shift) % (columns_of_windows * window)
    rows, columns = rows.view(-1, 1, window, 1), columns.view(1, -1, 1, window)  # (rows of windows, 1, window, 1), ...
    inside = (rows < height) & (columns < width)
    return torch.where(inside, rows * width + columns, height * width).reshape(-1)


def inverse_index(height: int, width: int, window: int, shift: int, device: Device = None) -> Tensor:
    """Return the place in window order of every token of the map: (height * width,) int64, ``window_index`` undone."""
    rows_of_windows, columns_of_windows = whole(height, window), whole(width, window)
    # never negative: torch's compiler could not bound what % makes of it
    rows = (torch.arange(height, device=device) + rows_of_windows * window - shift) % (rows_of_windows * window)
    columns = (torch.arange(width, device=device) + columns_of_windows * window - shift) % (columns_of_windows * window)
    of_row = rows // window * (columns_of_windows * window * window) + rows % window * window
    of_column = columns // window * (window * window) + columns % window
    return (of_row[:, None] + of_column[None, :]).reshape(-1)


def merging_index(height: int, width: int, device: Device = None) -> Tensor:
    """Return the four tokens of every cell of 2 x 2, in the order (0,0), (1,0), (0,1), (1,1) of (row, column).

    Returns:
        (ceil(height / 2) * ceil(width / 2) * 4,) int64, cells row-major; padding has the index height * width.
    """
    rows, columns = (
        torch.arange(whole(height, 2) * 2, device=device).view(-1, 1, 1, 2),
        torch.arange(whole(width, 2) * 2, device=device).view(1, -1, 2, 1),
    )
    return torch.where((rows < height) & (columns < width), rows * width + columns, height * width).reshape(-1)


def merging_inverse(height: int, width: int, device: Device = None) -> Tensor:
    """Return the place of every token among those of ``merging_index``: (height * width,) int64."""
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)[None, :]
    return (((rows // 2) * whole(width, 2) + columns // 2) * 4 + columns % 2 * 2 + rows % 2).reshape(-1)


def whole(size: int, window: int) -> int:
    """Return how many windows cover ``size`` tokens."""
    return (size + window - 1) // window


def window_patterns(height: int, width: int, window: int, device: Device = None) -> Tensor:
    """Return which of the four mask patterns each shifted window of a map has.

    Returns:
        (N,) int64: 0 interior, 1 right edge, 2 bottom edge, 3 corner.
    """
    rows, columns = whole(height, window), whole(width, window)
    bottom = (torch.arange(rows, device=device) == rows - 1).long()
    right = (torch.arange(columns, device=device) == columns - 1).long()
    return (2 * bottom[:, None] + right[None, :]).reshape(-1)


def mask_patterns(window: int, shift: int, device: Device = None) -> Tensor:
    """Return the four masks of shifted windows.

    A cyclic shift brings tokens together that are no neighbours, but only in the last row and the last column
    of windows; so four masks serve any map.

    Returns:
        (4, T, T) float, T tokens of a window: 0 where two tokens may see each other, else -100.
    """
    side = (torch.arange(window, device=device) >= window - shift).long()
    masks = []
    for bottom, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        region = (2 * bottom * side[:, None] + right * side[None, :]).reshape(-1)  # (T,)
        masks.append((region[:, None] != region[None, :]).float() * MASKED)
    return torch.stack(masks)


def bias_index(window: int, table_side: int, device: Device = None) -> Tensor:
    """Return the row of the bias table for every pair of tokens in a window.

    Args:
        window: side, not larger than the window the table was made for.
        table_side: 2W - 1 for a table of window W; a smaller window uses the table's middle.

    Returns:
        (T, T) int64, first index the query. Row (dh + W - 1) * (2W - 1) + dw + W - 1 for a query dh rows
        below and dw columns right of the key.
    """
    offsets = torch.arange(window, device=device)[:, None] - torch.arange(window, device=device)[None, :] + (table_side - 1) // 2
    rows = offsets[:, None, :, None] * table_side + offsets[None, :, None, :]
    return rows.reshape(window * window, window * window)


def relative_coordinates(window: int, reference: int, device: Device = None) -> Tensor:
    """Return V2's log-spaced coordinates, one row for each row of the bias table.

    Args:
        window: side W of the window the table spans.
        reference: window the position network was trained with (arXiv 2111.09883, section 3.3).

    Returns:
        ((2W - 1) ** 2, 2) float: sign(d) * log2(1 + |d|) / 3, d = 8 * offset / (reference - 1), rows first.
    """
    offsets = torch.arange(-(window - 1), window, dtype=torch.float32, device=device)
    scaled = 8.0 * offsets / max(reference - 1, 1)
    spaced = torch.sign(scaled) * torch.log2(scaled.abs() + 1.0) / math.log2(8.0)
    grid = torch.stack(torch.meshgrid(spaced, spaced, indexing="ij"), dim=-1)
    return grid.reshape(-1, 2)


def resize_bias_table(table: Tensor, window: int) -> Tensor:
    """Return a V1 bias table for another window, bicubic as the original loader (``utils.py``) does it.

    Args:
        table: ((2W - 1) ** 2, heads).
        window: the new side.

    Returns:
        ((2 * window - 1) ** 2, heads), the same dtype.
    """
    old = math.isqrt(table.shape[0])
    new = 2 * window - 1
    if old * old != table.shape[0]:
        raise ValueError(f"a bias table needs a square number of rows, got {table.shape[0]}")
    if old == new:
        return table
    grid = table.float().T.reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.reshape(-1, new * new).T.to(table.dtype).contiguous()


class _Rearrange(torch.autograd.Function):
    """A gather whose gradient is a gather as well, far quicker than the scatter of indexing."""

    @staticmethod
    def forward(tokens: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        return rearrange(tokens.detach(), index, inverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004 - autograd's own
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return rearrange(gradient, inverse, index), None, None


def rearrange(tokens: Tensor, index: Tensor, inverse: Tensor, pad_value: Tensor | None = None) -> Tensor:
    """Return (B, len(index), C): the tokens (B, L, C) in the order of ``index``.

    Args:
        tokens: (B, L, C).
        index: places to take; L means padding.
        inverse: leads back, for the gradient.
        pad_value: (C,) what padding is; None is zeros.
    """
    if tokens.requires_grad and not torch.compiler.is_exporting():
        moved = _Rearrange.apply(tokens, index, inverse)
        return moved if pad_value is None else moved + (index == tokens.shape[1])[:, None] * pad_value.to(moved.dtype)
    if not known(index.shape[0] <= tokens.shape[1]):  # there is padding: one token more
        if pad_value is None:
            tokens = F.pad(tokens, (0, 0, 0, 1))
        else:
            tokens = torch.cat((tokens, pad_value.to(tokens.dtype).expand(tokens.shape[0], 1, -1)), dim=1)
    return tokens.index_select(1, index)


def known(condition: bool | torch.SymBool) -> bool:
    """Return whether a condition on sizes holds, without tying an exported graph's free sizes to it."""
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


@functools.lru_cache(maxsize=256)
def _cached(function: str, args: tuple, device: str) -> Tensor:
    # Normal tensors even when first asked for inside inference_mode (a later training step saves them) or inside an export
    # (whose stand-ins hold no values).
    with _disable_current_modes(), torch.inference_mode(False):
        return _FUNCTIONS[function](*args).to(device)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "index": window_index,
    "inverse": inverse_index,
    "merging": merging_index,
    "merged": merging_inverse,
    "patterns": window_patterns,
    "masks": mask_patterns,
    "bias": bias_index,
    "coordinates": relative_coordinates,
}


def table(function: str, *args: int | torch.SymInt, device: torch.device) -> Tensor:
    """Return one of the tables above, cached by its sizes; a part of the graph where dynamo traces or sizes are free."""
    if torch.compiler.is_dynamo_compiling() or any(isinstance(arg, torch.SymInt) for arg in args):
        return _FUNCTIONS[function](*args, device=device)  # fused into whatever reads it
    return _cached(function, args, str(device))
