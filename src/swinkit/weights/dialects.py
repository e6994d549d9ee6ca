"""How each code base names and packs the tensors of a Swin: tables, read in both directions.

A row is (our names, their names, operation), in the pattern language of ``rows.py``; names of heads stand in ``heads/``.

To add a dialect: a table here, a line in ``convert.recognise``, and the live library in ``benchmarks/parity.py``: equal
shapes prove nothing (``merge_weight`` loads without complaint when it is forgotten).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from swinkit.weights.rows import Row

Tensors = list[Tensor]


def _merge_to_unfold(weight: Tensor) -> Tensor:
    """Reorder merging inputs from blocks (00, 10, 01, 11) to ``nn.Unfold``'s channel-major cells."""
    out, width = weight.shape
    return weight.reshape(out, 4, width // 4)[:, [0, 2, 1, 3]].transpose(1, 2).reshape(out, width).contiguous()


def _merge_from_unfold(weight: Tensor) -> Tensor:
    out, width = weight.shape
    return weight.reshape(out, width // 4, 4).transpose(1, 2)[:, [0, 2, 1, 3]].reshape(out, width).contiguous()


# name -> (from theirs to ours, from ours to theirs), on lists as long as the cells of the row
OPERATIONS: dict[str, tuple[Callable[[Tensors], Tensors], Callable[[Tensors], Tensors]]] = {
    "same": (lambda t: t, lambda t: t),
    "stack": (lambda t: [torch.cat(t)], lambda t: [part.clone() for part in t[0].chunk(3)]),
    # torchvision keeps a key bias that its forward sets to zero; whatever a file holds there is not used
    "zero_key": (
        lambda t: [t[0].chunk(3)[0].clone(), t[0].chunk(3)[2].clone()],
        lambda t: [torch.cat((t[0], torch.zeros_like(t[0]), t[1]))],
    ),
    "merge_weight": (lambda t: [_merge_from_unfold(t[0])], lambda t: [_merge_to_unfold(t[0])]),
    "merge_vector": (lambda t: [_merge_from_unfold(t[0][None])[0]], lambda t: [_merge_to_unfold(t[0][None])[0]]),
}


# Here stand the rows of ``heads/`` in a table: their place decides the order of tensors in a file.
HEAD = Row((), ())


@dataclass(frozen=True)
class Dialect:
    """A code base's way of writing a Swin down.

    Args:
        name: as in ``swinkit convert --to`` where it can be written.
        rows: V1 and V2 tables.
        drop: patterns of keys that are derived and never weights.
    """

    name: str
    rows: dict[int, tuple[Row, ...]]
    drop: tuple[str, ...] = ()


def _rows(*names: str, ours: str = "", theirs: str = "") -> tuple[Row, ...]:
    """Return rows that differ in nothing but what stands before the name."""
    return tuple(Row((ours + name,), (theirs + name,)) for name in names)


BLOCK = "layers.{s}.blocks.{b}."
_SAME_BLOCK = _rows("norm1.*", "norm2.*", "mlp.*", "attn.qkv.*", "attn.proj.*", ours=BLOCK, theirs=BLOCK)
_OURS = (*_rows("patch_embed.*", "norm.*", "norm{s}.*", "absolute_pos_embed", "mask_token"), *_SAME_BLOCK)
_TABLE = "attn.relative_position_bias_table"
_COSINE = ("attn.q_bias", "attn.v_bias", "attn.logit_scale", "attn.cpb_mlp.*")
_OURS_1 = _rows(_TABLE, ours=BLOCK, theirs=BLOCK)
_OURS_2 = _rows(*_COSINE, ours=BLOCK, theirs=BLOCK)
_MERGE = "layers.{s}.downsample."
_DERIVED = (
    BLOCK + "attn.relative_position_index",
    BLOCK + "attn.relative_coords_table",
    BLOCK + "attn.k_bias",
    BLOCK + "attn_mask",
)

# microsoft/Swin-Transformer models/; also the detection and segmentation forks behind ``backbone.`` and SimMIM's
# encoder behind ``encoder.`` (whose oldest files say rpe_mlp).
_OFFICIAL_ENDS = (HEAD, *_rows("*", ours=_MERGE, theirs=_MERGE))
OFFICIAL = Dialect("official", {1: (*_OURS, *_OFFICIAL_ENDS, *_OURS_1), 2: (*_OURS, *_OFFICIAL_ENDS, *_OURS_2)}, _DERIVED)

# timm 1.x swin_transformer.py, swin_transformer_v2.py: merging at the start of the next stage, head.fc.
_TIMM_ENDS = (HEAD, Row((_MERGE + "*",), ("layers.{s+1}.downsample.*",)))
TIMM = Dialect("timm", {1: (*_OURS, *_TIMM_ENDS, *_OURS_1), 2: (*_OURS, *_TIMM_ENDS, *_OURS_2)}, _DERIVED)

# transformers modeling_swin.py, modeling_swinv2.py: the names in files, which version 5 still writes.
_HF = "encoder.layers.{s}.blocks.{b}."
_HF_SELF = _HF + "attention.self."
_PARTS = ("query", "key", "value")
_HF_COMMON = (
    Row(("patch_embed.proj.*",), ("embeddings.patch_embeddings.projection.*",)),
    Row(("patch_embed.norm.*",), ("embeddings.norm.*",)),
    Row(("absolute_pos_embed",), ("embeddings.position_embeddings",)),
    Row(("mask_token",), ("embeddings.mask_token",)),
    Row((BLOCK + "norm1.*",), (_HF + "layernorm_before.*",)),
    Row((BLOCK + "norm2.*",), (_HF + "layernorm_after.*",)),
    Row((BLOCK + "attn.qkv.weight",), tuple(_HF_SELF + f"{part}.weight" for part in _PARTS), "stack"),
    Row((BLOCK + "attn.proj.*",), (_HF + "attention.output.dense.*",)),
    Row((BLOCK + "mlp.fc1.*",), (_HF + "intermediate.dense.*",)),
    Row((BLOCK + "mlp.fc2.*",), (_HF + "output.dense.*",)),
    Row((_MERGE + "*",), ("encoder.layers.{s}.downsample.*",)),
    Row(("norm.*",), ("layernorm.*",)),
    Row(("norm{s}.*",), ("hidden_states_norms.stage{s+1}.*",)),
    HEAD,
)
_HF_1 = (
    Row((BLOCK + "attn.qkv.bias",), tuple(_HF_SELF + f"{part}.bias" for part in _PARTS), "stack"),
    Row((BLOCK + _TABLE,), (_HF_SELF + "relative_position_bias_table",)),
)
_HF_2 = (
    Row((BLOCK + "attn.q_bias",), (_HF_SELF + "query.bias",)),
    Row((BLOCK + "attn.v_bias",), (_HF_SELF + "value.bias",)),
    Row((BLOCK + "attn.logit_scale",), (_HF_SELF + "logit_scale",)),
    Row((BLOCK + "attn.cpb_mlp.*",), (_HF_SELF + "continuous_position_bias_mlp.*",)),
)
HF = Dialect(
    "hf",
    {1: _HF_COMMON + _HF_1, 2: _HF_COMMON + _HF_2},
    (_HF_SELF + "relative_position_index", _HF_SELF + "relative_coords_table", _HF + "attn_mask"),
)
# The spelling of the same tensors inside transformers 5 modules, which some files hold.
HF_5_SPELLINGS = (
    ("attention.q_proj.", "attention.self.query."),
    ("attention.k_proj.", "attention.self.key."),
    ("attention.v_proj.", "attention.self.value."),
    ("attention.o_proj.", "attention.output.dense."),
    ("attention.relative_position_bias.relative_position_bias_table", "attention.self.relative_position_bias_table"),
    ("attention.relative_position_bias.relative_position_index", "attention.self.relative_position_index"),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)

# torchvision models/swin_transformer.py: stages at odd places of ``features``, merging between them.
_TV = "features.{2s+1}.{b}."
_TV_COMMON = (
    Row(("patch_embed.proj.*",), ("features.0.0.*",)),
    Row(("patch_embed.norm.*",), ("features.0.2.*",)),
    *_rows("norm1.*", "norm2.*", "attn.qkv.weight", "attn.proj.*", ours=BLOCK, theirs=_TV),
    Row((BLOCK + "mlp.fc1.*",), (_TV + "mlp.0.*",)),
    Row((BLOCK + "mlp.fc2.*",), (_TV + "mlp.3.*",)),
    Row((_MERGE + "*",), ("features.{2s+2}.*",)),
    *_rows("norm.*"),
    HEAD,
)
TORCHVISION = Dialect(
    "torchvision",
    {
        1: (*_TV_COMMON, *_rows("attn.qkv.bias", _TABLE, ours=BLOCK, theirs=_TV)),
        2: (
            *_TV_COMMON,
            *_rows("attn.logit_scale", "attn.cpb_mlp.*", ours=BLOCK, theirs=_TV),
            Row((BLOCK + "attn.q_bias", BLOCK + "attn.v_bias"), (_TV + "attn.qkv.bias",), "zero_key"),
        ),
    },
    (_TV + "attn.relative_position_index", _TV + "attn.relative_coords_table"),
)

# mmdet 3.x, mmseg 1.x, mmpretrain swin_transformer*.py: merging by nn.Unfold, so its inputs are permuted.
_MM = "stages.{s}.blocks.{b}."
_MM_COMMON = (
    Row(("patch_embed.proj.*",), ("patch_embed.projection.*",)),
    *_rows("patch_embed.norm.*", "norm{s}.*", "norm.*", "absolute_pos_embed"),
    *_rows("norm1.*", "norm2.*", ours=BLOCK, theirs=_MM),
    *_rows("qkv.*", "proj.*", ours=BLOCK + "attn.", theirs=_MM + "attn.w_msa."),
    Row((BLOCK + "mlp.fc1.*",), (_MM + "ffn.layers.0.0.*",)),
    Row((BLOCK + "mlp.fc2.*",), (_MM + "ffn.layers.1.*",)),
    HEAD,
)
MM = Dialect(
    "mm",
    {
        1: (
            *_MM_COMMON,
            *_rows("relative_position_bias_table", ours=BLOCK + "attn.", theirs=_MM + "attn.w_msa."),
            Row((_MERGE + "reduction.weight",), ("stages.{s}.downsample.reduction.weight",), "merge_weight"),
            Row((_MERGE + "norm.weight",), ("stages.{s}.downsample.norm.weight",), "merge_vector"),
            Row((_MERGE + "norm.bias",), ("stages.{s}.downsample.norm.bias",), "merge_vector"),
        ),
        2: (
            *_MM_COMMON,
            *_rows("q_bias", "v_bias", "logit_scale", "cpb_mlp.*", ours=BLOCK + "attn.", theirs=_MM + "attn.w_msa."),
            Row((_MERGE + "reduction.weight",), ("stages.{s+1}.downsample.reduction.weight",), "merge_weight"),
            Row((_MERGE + "norm.*",), ("stages.{s+1}.downsample.norm.*",)),
        ),
    },
    (
        _MM + "attn.w_msa.relative_position_index",
        _MM + "attn.w_msa.relative_coords_table",
        _MM + "attn.attn_mask",
        _MM + "attn_mask",
    ),
)

DIALECTS: dict[str, Dialect] = {d.name: d for d in (OFFICIAL, HF, TIMM, TORCHVISION, MM)}
