"""The dialects of Swin checkpoints, as tables. A row is (ours, theirs, operation); both directions read it.

A pattern is matched against the whole key. ``{s}`` (stage) and ``{b}`` (block) are numbers, with arithmetic
(``{2s+1}``) that is solved backwards in reading; ``{L}`` is the last stage; ``*`` is ``weight`` or ``bias``; a leading
``@`` marks what stands behind the dialect's prefix. A cell with several names takes or gives several tensors.

To add a dialect: write its rows here, say in ``recognise.py`` how its keys are told from the others, and add it to the
live comparison in ``benchmarks/parity.py``: equal shapes prove nothing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Values = list[Tensor]


class Operation(NamedTuple):
    """A pair of inverse functions on lists of tensors: theirs to ours, ours to theirs."""

    read: Callable[[Values], Values]
    write: Callable[[Values], Values]


class Row(NamedTuple):
    """One correspondence. ``version`` 0 holds for both generations."""

    ours: str
    theirs: str
    operation: str = "same"
    version: int = 0


def _merge_columns(weight: Tensor, read: bool) -> Tensor:
    """Reorder the last axis between four blocks of C (ours) and C cells of four (``nn.Unfold``).

    Ours: blocks (0,0), (1,0), (0,1), (1,1) of (row, column); theirs: channel-major, cells row-major.
    """
    *lead, width = weight.shape
    if read:
        return weight.reshape(*lead, width // 4, 4)[..., [0, 2, 1, 3]].transpose(-1, -2).reshape(*lead, width)
    return weight.reshape(*lead, 4, width // 4)[..., [0, 2, 1, 3], :].transpose(-1, -2).reshape(*lead, width)


def _split(packed: Tensor) -> Values:
    return [part.contiguous() for part in packed.chunk(3, dim=0)]


def _zero_key(values: Values) -> Values:
    query, value = values
    return [torch.cat((query, torch.zeros_like(query), value))]


OPERATIONS: dict[str, Operation] = {
    "same": Operation(lambda values: values, lambda values: values),
    "stack_qkv": Operation(lambda values: [torch.cat(values)], lambda values: _split(values[0])),
    # torchvision keeps a key bias in V2 that its forward sets to zero; whatever a file holds there is ignored.
    "zero_key": Operation(lambda values: _split(values[0])[::2], _zero_key),
    "merge": Operation(
        lambda values: [_merge_columns(value, read=True) for value in values],
        lambda values: [_merge_columns(value, read=False) for value in values],
    ),
}

_OURS = "layers.{s}.blocks.{b}."


def _block(theirs: str, names: Sequence[tuple[str, str]], version: int = 0) -> tuple[Row, ...]:
    return tuple(Row(_OURS + ours, theirs + leaf, "same", version) for ours, leaf in names)


def _alike(*names: str) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


_NORMS = _alike("norm1.*", "norm2.*")
_MLP = _alike("mlp.fc1.*", "mlp.fc2.*")
_CPB = ("attn.cpb_mlp.0.*", "attn.cpb_mlp.2.weight")
_ATTENTION = (
    *_block("@" + _OURS, _alike("attn.qkv.weight", "attn.proj.*")),
    *_block("@" + _OURS, _alike("attn.qkv.bias", "attn.relative_position_bias_table"), 1),
    *_block("@" + _OURS, _alike("attn.q_bias", "attn.v_bias", "attn.logit_scale", *_CPB), 2),
)
_BODY = (
    Row("patch_embed.proj.*", "@patch_embed.proj.*"),
    Row("patch_embed.norm.*", "@patch_embed.norm.*"),
    *_block("@" + _OURS, [*_NORMS, *_MLP]),
    *_ATTENTION,
)
_MERGING = (
    Row("layers.{s}.downsample.reduction.weight", "@layers.{s}.downsample.reduction.weight"),
    Row("layers.{s}.downsample.norm.*", "@layers.{s}.downsample.norm.*"),
)
_DENSE_NORM = Row("norm{s}.*", "@norm{s}.*")

OFFICIAL = (
    *_BODY,
    *_MERGING,
    Row("norm.*", "@norm.*"),
    Row("head.*", "head.*"),
    Row("absolute_pos_embed", "@absolute_pos_embed"),
    Row("mask_token", "@mask_token"),
)
FORK = (*_BODY, *_MERGING, _DENSE_NORM)
SIMMIM = (*OFFICIAL, *_block("@" + _OURS, [("attn.cpb_mlp.0.*", "attn.rpe_mlp.0.*"), ("attn.cpb_mlp.2.weight", "attn.rpe_mlp.2.weight")], 2))
TIMM = (
    *_BODY,
    Row("layers.{s}.downsample.reduction.weight", "layers.{s+1}.downsample.reduction.weight"),
    Row("layers.{s}.downsample.norm.*", "layers.{s+1}.downsample.norm.*"),
    Row("norm.*", "norm.*"),
    Row("head.*", "head.fc.*"),
)

_HF = "@encoder.layers.{s}.blocks.{b}."
_HF_SELF = _HF + "attention.self."
_HF_COMMON = (
    Row("patch_embed.proj.*", "@embeddings.patch_embeddings.projection.*"),
    Row("patch_embed.norm.*", "@embeddings.norm.*"),
    *_block(_HF, [("norm1.*", "layernorm_before.*"), ("norm2.*", "layernorm_after.*")]),
    Row("layers.{s}.downsample.reduction.weight", "@encoder.layers.{s}.downsample.reduction.weight"),
    Row("layers.{s}.downsample.norm.*", "@encoder.layers.{s}.downsample.norm.*"),
    Row("norm.*", "@layernorm.*"),
    Row("norm{s}.*", "hidden_states_norms.stage{s+1}.*", version=1),
    Row("head.*", "classifier.*"),
    Row("mask_token", "@embeddings.mask_token"),
)
HF = (
    *_HF_COMMON,
    Row(_OURS + "attn.qkv.weight", " ".join(f"{_HF_SELF}{n}.weight" for n in ("query", "key", "value")), "stack_qkv"),
    Row(_OURS + "attn.qkv.bias", " ".join(f"{_HF_SELF}{n}.bias" for n in ("query", "key", "value")), "stack_qkv", 1),
    *_block(_HF_SELF, [("attn.relative_position_bias_table", "relative_position_bias_table")], 1),
    *_block(
        _HF_SELF,
        [
            ("attn.q_bias", "query.bias"),
            ("attn.v_bias", "value.bias"),
            ("attn.logit_scale", "logit_scale"),
            ("attn.cpb_mlp.0.*", "continuous_position_bias_mlp.0.*"),
            ("attn.cpb_mlp.2.weight", "continuous_position_bias_mlp.2.weight"),
        ],
        2,
    ),
    *_block(_HF, [("attn.proj.*", "attention.output.dense.*")]),
    *_block(_HF, [("mlp.fc1.*", "intermediate.dense.*"), ("mlp.fc2.*", "output.dense.*")]),
)
# What transformers 5 calls V1's parameters in memory; its files keep the names above.
HF_MEMORY = (
    *_HF_COMMON,
    Row(_OURS + "attn.qkv.weight", " ".join(f"{_HF}attention.{n}_proj.weight" for n in "qkv"), "stack_qkv", 1),
    Row(_OURS + "attn.qkv.bias", " ".join(f"{_HF}attention.{n}_proj.bias" for n in "qkv"), "stack_qkv", 1),
    *_block(
        _HF,
        [
            (
                "attn.relative_position_bias_table",
                "attention.relative_position_bias.relative_position_bias_table",
            ),
            ("attn.proj.*", "attention.o_proj.*"),
            *_MLP,
        ],
        1,
    ),
)

_TV = "features.{2s+1}.{b}."
TORCHVISION = (
    Row("patch_embed.proj.*", "features.0.0.*"),
    Row("patch_embed.norm.*", "features.0.2.*"),
    *_block(_TV, [*_NORMS, ("mlp.fc1.*", "mlp.0.*"), ("mlp.fc2.*", "mlp.3.*")]),
    *_block(_TV, _alike("attn.qkv.weight", "attn.proj.*")),
    *_block(_TV, _alike("attn.qkv.bias", "attn.relative_position_bias_table"), 1),
    *_block(_TV, _alike("attn.logit_scale", *_CPB), 2),
    Row(f"{_OURS}attn.q_bias {_OURS}attn.v_bias", _TV + "attn.qkv.bias", "zero_key", 2),
    Row("layers.{s}.downsample.reduction.weight", "features.{2s+2}.reduction.weight"),
    Row("layers.{s}.downsample.norm.*", "features.{2s+2}.norm.*"),
    Row("norm.*", "norm.*"),
    Row("head.*", "head.*"),
)

_MM = "@stages.{s}.blocks.{b}."
_MM_BODY = (
    Row("patch_embed.proj.*", "@patch_embed.projection.*"),
    Row("patch_embed.norm.*", "@patch_embed.norm.*"),
    *_block(_MM, [*_NORMS, ("mlp.fc1.*", "ffn.layers.0.0.*"), ("mlp.fc2.*", "ffn.layers.1.*")]),
    *_block(_MM + "attn.w_msa.", [("attn.qkv.weight", "qkv.weight"), ("attn.proj.*", "proj.*")]),
    *_block(
        _MM + "attn.w_msa.",
        [
            ("attn.qkv.bias", "qkv.bias"),
            ("attn.relative_position_bias_table", "relative_position_bias_table"),
        ],
        1,
    ),
    *_block(
        _MM + "attn.w_msa.",
        [(name, name.removeprefix("attn.")) for name in ("attn.q_bias", "attn.v_bias", "attn.logit_scale", *_CPB)],
        2,
    ),
    # V1 merges at the end of a stage; V2 (mmpretrain) at the start of the next, and only its linear layer is permuted.
    Row("layers.{s}.downsample.reduction.weight", "@stages.{s}.downsample.reduction.weight", "merge", 1),
    Row("layers.{s}.downsample.norm.*", "@stages.{s}.downsample.norm.*", "merge", 1),
    Row("layers.{s}.downsample.reduction.weight", "@stages.{s+1}.downsample.reduction.weight", "merge", 2),
    Row("layers.{s}.downsample.norm.*", "@stages.{s+1}.downsample.norm.*", "same", 2),
)
MMDET = (*_MM_BODY, _DENSE_NORM)
MMPRETRAIN = (*_MM_BODY, Row("norm.*", "@norm{L}.*"), Row("head.*", "head.fc.*"))
MMCLS = (*_MM_BODY, Row("norm.*", "@norm.*"), Row("head.*", "head.fc.*"))


@dataclass(frozen=True)
class Dialect:
    """A code base's way to name the parameters.

    Args:
        title: its name for people.
        rows: the table.
        prefixes: what "@" stands for in writing V1 and V2.
        dropped: pattern (regular expression) of keys that carry nothing a network needs.
        tasks: True when heads of other tasks may stand beside the prefixed backbone; they are left aside.
    """

    title: str
    rows: tuple[Row, ...]
    prefixes: tuple[str, str] = ("", "")
    dropped: str = "(?!)"
    tasks: bool = False


DIALECTS: dict[str, Dialect] = {
    "official": Dialect("original repository", OFFICIAL),
    "simmim": Dialect("SimMIM pre-training", SIMMIM, ("encoder.", "encoder."), dropped=r"decoder\.0\.(weight|bias)"),
    "fork": Dialect("authors' detection and segmentation forks", FORK, ("backbone.", "backbone."), tasks=True),
    "hf": Dialect("Hugging Face", HF, ("swin.", "swinv2."), dropped=r"decoder\.0\.(weight|bias)"),
    "hf_memory": Dialect("Hugging Face, names in memory", HF_MEMORY, ("swin.", "swinv2."), dropped=r"decoder\.0\.(weight|bias)"),
    "timm": Dialect("timm", TIMM, dropped=r"layers\.\d+\.blocks\.\d+\.attn\.k_bias"),
    "torchvision": Dialect("torchvision", TORCHVISION),
    "mmdet": Dialect("mmdet and mmsegmentation", MMDET, ("backbone.", "backbone."), tasks=True),
    "mmpretrain": Dialect("mmpretrain", MMPRETRAIN, ("backbone.", "backbone."), tasks=True),
    "mmcls": Dialect("mmcls of the first releases", MMCLS, ("backbone.", "backbone."), tasks=True),
}

# Tables of positions that follow from sizes; every network makes its own.
BUFFERS = re.compile(r"(.*\.)?(relative_position_index|relative_coords_table|attn_mask)")

_VARIABLE = re.compile(r"\\\{(\d*)([sb])(?:\\\+(\d+))?\\\}")


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> tuple[re.Pattern[str], tuple[tuple[str, int, int], ...]]:
    """Return the regular expression of a pattern and, for each number in it, (variable, factor, offset)."""
    solved: list[tuple[str, int, int]] = []

    def number(found: re.Match[str]) -> str:
        factor, variable, offset = found.groups()
        solved.append((variable, int(factor or 1), int(offset or 0)))
        return r"(0|[1-9]\d{0,3})"

    text = _VARIABLE.sub(number, re.escape(pattern)).replace(r"\*", "(weight|bias)")
    return re.compile(text), tuple(solved)


def match(pattern: str, key: str) -> tuple[tuple[str, int | str], ...] | None:
    """Return the values of a pattern's variables in ``key`` (as sorted pairs), or None when it does not fit."""
    expression, variables = _compiled(pattern)
    found = expression.fullmatch(key)
    if found is None:
        return None
    values: dict[str, int | str] = {}
    for text, (variable, factor, offset) in zip(found.groups(), variables, strict=False):
        value, rest = divmod(int(text) - offset, factor)
        if rest or value < 0 or values.setdefault(variable, value) != value:
            return None
    if pattern.endswith("*"):
        values["*"] = found.groups()[-1]
    return tuple(sorted(values.items()))


def fill(pattern: str, values: dict[str, int | str]) -> str:
    """Return ``pattern`` with its variables replaced."""
    for variable in ("s", "b"):
        if variable in values:
            base = int(values[variable])
            pattern = re.sub(
                r"\{(\d*)" + variable + r"(?:\+(\d+))?\}",
                lambda found, base=base: str(base * int(found.group(1) or 1) + int(found.group(2) or 0)),
                pattern,
            )
    return pattern.replace("*", str(values.get("*", "*")))
