"""Read the tables of ``dialects.py`` in either direction; what no row explains is an error."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

from torch import Tensor

from swinkit.errors import KeysLeftOver, UnknownDialect
from swinkit.weights.dialects import DIALECTS, HF_5_SPELLINGS, OPERATIONS, Dialect, Row
from swinkit.weights.heads import HEADS, IGNORED, PREFIXES, recognise_head

Indices = dict[str, int]


@dataclass
class Neutral:
    """Tensors under our names, and what was learnt on the way.

    Args:
        tensors: the network's parameters; names as in the original repository.
        dialect: name of the table that explained them.
        version: 1 or 2.
        derived: tensors that are not weights but tell the window (``relative_coords_table`` ...), by our block name.
        aside: number of tensors of other parts (detection heads ...), by their first word.
        head: tensors of a segmentation decoder, under our names.
    """

    tensors: dict[str, Tensor]
    dialect: str
    version: int
    derived: dict[str, Tensor] = field(default_factory=dict)
    aside: dict[str, int] = field(default_factory=dict)
    head: dict[str, Tensor] = field(default_factory=dict)


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
        if prefix + "head.fc.weight" in keys or (merges and not first_has_merge):
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
    decoder = recognise_head(set(tensors))
    if decoder is not None:
        neutral.head = _renamed({k: t for k, t in tensors.items() if k.startswith(PREFIXES)}, decoder, backwards=True)
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(PREFIXES)}
    groups: dict[tuple[int, tuple], dict[int, tuple[str, Tensor]]] = {}
    unknown = []
    for key, tensor in tensors.items():
        inner = _inner(key, prefix, name)
        if inner is None:
            word = key.split(".")[0]
            neutral.aside[word] = neutral.aside.get(word, 0) + 1
            continue
        claims = list(_claims(inner, dialect, version))
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
        row = dialect.rows[version][number]
        if len(members) != len(row.theirs):
            present = next(iter(members.values()))[0]
            raise KeysLeftOver(f"{present} stands alone: {len(row.theirs)} tensors belong together there; the file is incomplete")
        ours = OPERATIONS[row.operation][0]([members[place][1] for place in range(len(row.theirs))])
        for pattern, value in zip(row.ours, ours, strict=True):
            neutral.tensors[_fill(pattern, dict(solved))] = value
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
    for row in dialect.rows[version]:
        for key in [key for key in left if _match(row.ours[0], key) is not None]:
            indices = _match(row.ours[0], key) or {}
            names = [_fill(pattern, indices) for pattern in row.ours]
            missing = [name for name in names if name not in left]
            if missing:
                raise KeysLeftOver(f"{key} has no partner {missing[0]}; the checkpoint is incomplete")
            packed = OPERATIONS[row.operation][1]([left.pop(name) for name in names])
            for pattern, value in zip(row.theirs, packed, strict=True):
                outer = "" if pattern.startswith(("classifier.", "head.")) and prefix in ("swin.", "swinv2.") else prefix
                result[outer + _fill(pattern, indices)] = value
    if left:
        raise KeysLeftOver(f"{dialect_name} has no name for {len(left)} tensors (first: {min(left)})")
    return result


def head_from_neutral(head: dict[str, Tensor], table: str) -> dict[str, Tensor]:
    """Return a decoder's tensors in the names of ``HEADS[table]``.

    Raises:
        KeysLeftOver: that code base has no such decoder.
    """
    return _renamed(head, table, backwards=False)


def _renamed(tensors: dict[str, Tensor], table: str, backwards: bool) -> dict[str, Tensor]:
    """Rename by a table of one-to-one rows: theirs to ours (``backwards``) or ours to theirs."""
    result: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.startswith(IGNORED):
            continue
        for row in HEADS[table]:
            source, target = (row.theirs[0], row.ours[0]) if backwards else (row.ours[0], row.theirs[0])
            indices = _match(source, key)
            if indices is not None:
                result[_fill(target, indices)] = tensor
                break
        else:
            raise KeysLeftOver(f"{key} {tuple(tensor.shape)} has no place in a decoder of the dialect {table}")
    return result


def _inner(key: str, prefix: str, dialect: str) -> str | None:
    """Return the key inside the network, or None for another part of the file."""
    if dialect == "hf" and prefix.endswith(("swin.", "swinv2.")):
        beside = key.removeprefix(prefix.removesuffix("swin.").removesuffix("swinv2."))
        if beside.startswith(("classifier.", "hidden_states_norms.")):
            return beside
    if dialect == "mm" and key.startswith("head.") and prefix:
        return key if key.startswith("head.fc.") else None
    if not key.startswith(prefix):
        return None
    inner = key.removeprefix(prefix)
    if dialect == "hf":
        # SimMIM's decoder; a final norm that transformers 5 keeps in its pyramids and never uses
        if inner.startswith(("decoder.", "swin.layernorm.", "swinv2.layernorm.")):
            return None
        for theirs, files in HF_5_SPELLINGS:
            inner = inner.replace(theirs, files)
    return inner.replace(".rpe_mlp.", ".cpb_mlp.")


def _claims(key: str, dialect: Dialect, version: int) -> list[tuple[int, int, Indices]]:
    found = []
    for number, row in enumerate(dialect.rows[version]):
        for place, pattern in enumerate(row.theirs):
            indices = _match(pattern, key)
            if indices is not None:
                found.append((number, place, indices))
    return found


def _derived(key: str, dialect: Dialect) -> str | None:
    """Return the name a derived table is remembered by, or None."""
    for pattern in dialect.drop:
        indices = _match(pattern, key)
        if indices is not None:
            return f"layers.{indices['s']}.blocks.{indices['b']}.{pattern.rsplit('.', 1)[-1]}"
    return None


@functools.cache
def _compiled(pattern: str) -> tuple[re.Pattern[str], tuple[tuple[str, int, int], ...]]:
    """Return the regular expression of a pattern and (letter, factor, offset) of its numbers."""
    numbers = []
    parts = []
    for piece in re.split(r"(\{[^}]*\}|\*)", pattern):
        if piece == "*":
            parts.append("(?P<rest>.+)")
        elif piece.startswith("{"):
            factor, letter, offset = re.fullmatch(r"\{(\d*)([sb])(?:\+(\d+))?\}", piece).groups()  # type: ignore[union-attr]
            numbers.append((letter, int(factor or 1), int(offset or 0)))
            parts.append(r"(\d{1,4})")
        else:
            parts.append(re.escape(piece))
    return re.compile("".join(parts)), tuple(numbers)


def _match(pattern: str, key: str) -> dict | None:
    """Return the indices (and the rest) for which ``pattern`` is ``key``, solving the arithmetic backwards."""
    expression, numbers = _compiled(pattern)
    found = expression.fullmatch(key)
    if found is None:
        return None
    indices: dict = {}
    values = [group for name, group in zip(range(expression.groups), found.groups(), strict=True) if group is not None]
    for (letter, factor, offset), text in zip(numbers, values, strict=False):
        value = int(text) - offset
        if value < 0 or value % factor or str(int(text)) != text:
            return None
        indices[letter] = value // factor
    if "rest" in expression.groupindex:
        indices["rest"] = found["rest"]
    return indices


def _fill(pattern: str, indices: dict) -> str:
    def number(match: re.Match[str]) -> str:
        return str(int(match[1] or 1) * indices[match[2]] + int(match[3] or 0))

    return re.sub(r"\{(\d*)([sb])(?:\+(\d+))?\}", number, pattern).replace("*", str(indices.get("rest", "*")))


def unused_rows(dialect: Dialect, version: int, keys: set[str]) -> list[Row]:
    """Return rows of a table that explain none of ``keys``; the tests ask that each is used somewhere."""
    return [
        row
        for row in dialect.rows[version]
        if not any(_match(pattern, key) is not None for pattern in row.theirs for key in keys)
    ]
