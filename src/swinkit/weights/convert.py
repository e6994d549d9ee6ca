"""Read the tables of ``dialects.py`` in either direction; what no row explains is an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import Tensor

from swinkit.errors import KeysLeftOver, UnknownDialect
from swinkit.weights import heads
from swinkit.weights.dialects import DIALECTS, HEAD, HF_5_SPELLINGS, OPERATIONS, Dialect
from swinkit.weights.rows import Indices, Row, fill, match


@dataclass
class Neutral:
    """Tensors under our names, and what was learnt on the way.

    Args:
        tensors: the network's parameters; names as in the original repository.
        dialect: name of the table that explained them.
        version: 1 or 2.
        derived: tensors that are not weights but tell the window (``relative_coords_table`` ...), by our block name.
        aside: number of tensors of other parts (detection heads ...), by their first word.
        head: kind of the head that stands apart from the backbone, None when none does.
        apart: tensors of that head, under our names.
    """

    tensors: dict[str, Tensor]
    dialect: str
    version: int
    derived: dict[str, Tensor] = field(default_factory=dict)
    aside: dict[str, int] = field(default_factory=dict)
    head: heads.Head | None = None
    apart: dict[str, Tensor] = field(default_factory=dict)


def recognise(keys: set[str]) -> tuple[str, str]:
    """Return (dialect, prefix before the network's keys).

    Raises:
        UnknownDialect: with the reason where the family is known but not a Swin of ours.
    """
    refusals = {
        "_moe_layer": "is a Swin-MoE (experts), which this package does not build",
        "spatial_mlp": "is a SwinMLP (no attention), which this package does not build",
        "meta_mlp": "is timm's swinv2_cr, another network than Swin V2",
    }
    for word, reason in refusals.items():
        if any(word in key for key in keys):
            raise UnknownDialect(f"the checkpoint {reason}; use a Swin V1 or V2")
    for prefix in ("", "swin.", "swinv2.", "backbone.swin.", "backbone.swinv2.", "backbone."):
        if prefix + "embeddings.patch_embeddings.projection.weight" in keys:
            return "hf", prefix
    if "features.0.0.weight" in keys and any(key.startswith("features.1.0.attn.") for key in keys):
        return "torchvision", ""
    for prefix in ("", "backbone.", "encoder."):
        if prefix + "patch_embed.projection.weight" in keys and any(".attn.w_msa." in key for key in keys):
            return "mm", prefix
        if prefix + "patch_embed.proj.weight" not in keys or not any(k.startswith(prefix + "layers.0.") for k in keys):
            continue
        merges = [key for key in keys if key.endswith("downsample.reduction.weight")]
        first_has_merge = prefix + "layers.0.downsample.reduction.weight" in keys
        if any(f"{prefix}{outer}weight" in keys for outer in heads.outer_names("timm")) or (merges and not first_has_merge):
            return "timm", prefix
        return "official", prefix
    listed = ", ".join(sorted(keys)[:3])
    raise UnknownDialect(f"{len(keys)} keys belong to no known Swin code base (first: {listed}); known are {', '.join(DIALECTS)}")


def to_neutral(tensors: dict[str, Tensor]) -> Neutral:
    """Return the tensors of any dialect under our names.

    Raises:
        UnknownDialect: no code base has such keys.
        KeysLeftOver: some keys are explained by no row (listed), or one part of a group is missing.
    """
    name, prefix = recognise(set(tensors))
    dialect = DIALECTS[name]
    version = 2 if any(re.search(r"logit_scale|cpb_mlp|rpe_mlp|continuous_position_bias_mlp", key) for key in tensors) else 1
    neutral = Neutral({}, name, version)
    neutral.head, neutral.apart = heads.read_apart(tensors)
    if neutral.head is not None:
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(neutral.head.apart)}
    rows = table(dialect, version)
    groups: dict[tuple[int, tuple], dict[int, tuple[str, Tensor]]] = {}
    unknown = []
    for key, tensor in tensors.items():
        inner = _inner(key, prefix, name)
        if inner is None:
            word = key.split(".")[0]
            neutral.aside[word] = neutral.aside.get(word, 0) + 1
            continue
        claims = _claims(inner, rows)
        if not claims:
            block = _derived(inner, dialect)
            if block is None:
                unknown.append(f"{key} {tuple(tensor.shape)}")
            else:
                neutral.derived[block] = tensor
            continue
        for number, place, indices in claims:
            groups.setdefault((number, tuple(sorted(indices.items()))), {})[place] = (key, tensor)
    if unknown:
        raise KeysLeftOver(
            f"{len(unknown)} keys have no place in a Swin V{version} (first: {', '.join(sorted(unknown)[:5])}); "
            "the file belongs to a changed network"
        )
    for (number, solved), members in groups.items():
        row = rows[number]
        if len(members) != len(row.theirs):
            present = next(iter(members.values()))[0]
            raise KeysLeftOver(f"{present} stands alone: {len(row.theirs)} tensors belong together there; the file is incomplete")
        ours = OPERATIONS[row.operation][0]([members[place][1] for place in range(len(row.theirs))])
        for pattern, value in zip(row.ours, ours, strict=True):
            neutral.tensors[fill(pattern, dict(solved))] = value
    last = max((int(key.split(".")[1]) for key in neutral.tensors if key.startswith("layers.")), default=0)
    if name == "mm" and f"norm{last}.weight" in neutral.tensors and "head.weight" in neutral.tensors:
        # mmpretrain's classifier calls its last norm by the stage's number
        for part in ("weight", "bias"):
            neutral.tensors[f"norm.{part}"] = neutral.tensors.pop(f"norm{last}.{part}")
    return neutral


def from_neutral(tensors: dict[str, Tensor], dialect_name: str, version: int, prefix: str = "") -> dict[str, Tensor]:
    """Return our tensors in a dialect's names and packing.

    Raises:
        KeysLeftOver: the dialect has no name for some of them.
    """
    dialect = DIALECTS[dialect_name]
    result: dict[str, Tensor] = {}
    left = dict(tensors)
    if dialect_name == "mm" and "head.weight" in left and "norm.weight" in left:
        last = max(int(key.split(".")[1]) for key in left if key.startswith("layers."))
        for part in ("weight", "bias"):
            left[f"norm{last}.{part}"] = left.pop(f"norm.{part}")
    within = heads.rows_within(dialect_name)
    for row in table(dialect, version):
        # transformers' classifier stands beside its backbone
        outer = "" if row in within and prefix in ("swin.", "swinv2.") else prefix
        for key in [key for key in left if match(row.ours[0], key) is not None]:
            indices = match(row.ours[0], key) or {}
            names = [fill(pattern, indices) for pattern in row.ours]
            missing = [name for name in names if name not in left]
            if missing:
                raise KeysLeftOver(f"{key} has no partner {missing[0]}; the checkpoint is incomplete")
            packed = OPERATIONS[row.operation][1]([left.pop(name) for name in names])
            for pattern, value in zip(row.theirs, packed, strict=True):
                result[outer + fill(pattern, indices)] = value
    if left:
        raise KeysLeftOver(f"{dialect_name} has no name for {len(left)} tensors (first: {min(left)})")
    return result


def table(dialect: Dialect, version: int) -> tuple[Row, ...]:
    """Return a dialect's rows with those of heads among them."""
    within = heads.rows_within(dialect.name)
    return tuple(one for row in dialect.rows[version] for one in (within if row is HEAD else (row,)))


def _inner(key: str, prefix: str, dialect: str) -> str | None:
    """Return the key inside the network, or None for another part of the file."""
    if dialect == "hf" and prefix.endswith(("swin.", "swinv2.")):
        beside = key.removeprefix(prefix.removesuffix("swin.").removesuffix("swinv2."))
        if beside.startswith((*heads.outer_names(dialect), "hidden_states_norms.")):
            return beside
    if dialect == "mm" and prefix and key.startswith("head."):  # any head of mmpretrain; those of other tasks are left aside
        return key if key.startswith(heads.outer_names(dialect)) else None
    if not key.startswith(prefix):
        return None
    inner = key.removeprefix(prefix)
    if dialect == "hf":
        # what only training uses; a final norm that transformers 5 keeps in its pyramids and never uses
        if inner.startswith((*heads.beginnings("unread"), "swin.layernorm.", "swinv2.layernorm.")):
            return None
        for theirs, files in HF_5_SPELLINGS:
            inner = inner.replace(theirs, files)
    return inner.replace(".rpe_mlp.", ".cpb_mlp.")


def _claims(key: str, rows: tuple[Row, ...]) -> list[tuple[int, int, Indices]]:
    found = []
    for number, row in enumerate(rows):
        for place, pattern in enumerate(row.theirs):
            indices = match(pattern, key)
            if indices is not None:
                found.append((number, place, indices))
    return found


def _derived(key: str, dialect: Dialect) -> str | None:
    """Return the name a derived table is remembered by, or None."""
    for pattern in dialect.drop:
        indices = match(pattern, key)
        if indices is not None:
            return f"layers.{indices['s']}.blocks.{indices['b']}.{pattern.rsplit('.', 1)[-1]}"
    return None
