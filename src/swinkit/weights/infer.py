"""The network's shape from the shapes of its tensors, and from hints where those do not tell."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from swinkit.errors import CheckpointError, brief
from swinkit.specs import Variant
from swinkit.weights.convert import Neutral
from swinkit.weights.heads import HEADS

_MAX_STAGES, _MAX_BLOCKS, _MAX_DIM = 8, 256, 16384


def infer_variant(neutral: Neutral, name: str = "", hints: Variant | None = None) -> tuple[Variant, list[str]]:
    """Return the shape and notes about what had to be assumed.

    Args:
        neutral: tensors under our names.
        name: file or model name; says V2's window where nothing else does (``..._window12to16_192to256...``).
        hints: shape from a description beside the weights.

    Raises:
        CheckpointError: tensors that are no Swin.
    """
    tensors = neutral.tensors
    notes: list[str] = []
    try:
        patch = tensors["patch_embed.proj.weight"]
        embed_dim, in_chans, patch_size, _ = patch.shape
        depths = _depths(tensors)
        heads = tuple(_heads(tensors, stage, neutral.version) for stage in range(len(depths)))
        ratio = tensors["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / embed_dim
    except Exception as error:
        reason = brief(str(error))
        raise CheckpointError(f"the tensors are no complete Swin ({reason}); the file belongs to another network") from error
    if embed_dim * 2 ** (len(depths) - 1) > _MAX_DIM:
        raise CheckpointError(f"{embed_dim} channels in the first stage are more than a Swin has; the file is damaged")
    fields: dict[str, Any] = {
        "version": neutral.version,
        "embed_dim": int(embed_dim),
        "depths": depths,
        "num_heads": heads,
        "patch_size": int(patch_size),
        "mlp_ratio": ratio,
        "in_chans": int(in_chans),
        "num_classes": max(head.classes(tensors) for head in HEADS.values()),
        "drop_path": hints.drop_path if hints else 0.1,
        "absolute_position": "absolute_pos_embed" in tensors,
        "shift": hints.shift if hints else True,
    }
    if neutral.version == 1:
        fields |= _windows_v1(tensors, fields, name, hints)
    else:
        fields |= _windows_v2(neutral, fields, name, hints, notes)
    try:
        return Variant(**fields), notes
    except ValueError as error:
        raise CheckpointError(f"the tensors are no Swin: {error}; the file belongs to another network") from error


def _depths(tensors: dict[str, Tensor]) -> tuple[int, ...]:
    blocks: dict[int, set[int]] = {}
    for key in tensors:
        found = re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", key)
        if found:
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    if sorted(blocks) != list(range(len(blocks))) or not 1 <= len(blocks) <= _MAX_STAGES:
        raise ValueError(f"stages {sorted(blocks)[:10]}")
    for stage, numbers in blocks.items():
        if sorted(numbers) != list(range(len(numbers))) or len(numbers) > _MAX_BLOCKS:
            raise ValueError(f"blocks of stage {stage} are not numbered from 0 without gaps")
    return tuple(len(blocks[stage]) for stage in range(len(blocks)))


def _heads(tensors: dict[str, Tensor], stage: int, version: int) -> int:
    block = f"layers.{stage}.blocks.0.attn."
    if version == 1:
        return int(tensors[block + "relative_position_bias_table"].shape[1])
    return int(tensors[block + "logit_scale"].shape[0])


def _windows_v1(tensors: dict[str, Tensor], fields: dict[str, Any], name: str, hints: Variant | None) -> dict[str, Any]:
    """Return window and nominal size: a smaller table in the last stages tells the size the classifier was made for."""
    sides = []
    for stage in range(len(fields["depths"])):
        rows = tensors[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"].shape[0]
        side = (math.isqrt(rows) + 1) // 2
        if (2 * side - 1) ** 2 != rows:
            raise CheckpointError(f"a bias table of {rows} rows fits no square window; the file is damaged")
        sides.append(side)
    window, patch = sides[0], fields["patch_size"]
    candidates = [hints.img_size] if hints else []
    candidates += _sizes(name)[1:]
    candidates += [window * patch * 2 ** (len(sides) - 1)]
    candidates += [side * patch * 2**stage for stage, side in enumerate(sides)]
    for size in candidates:
        trial = Variant(**{**fields, "window_size": window, "img_size": size, "num_classes": 0})
        if trial.stage_windows == tuple(sides):
            return {"window_size": window, "img_size": size}
    if min(sides) == window:  # a dense network keeps the full window in every stage
        return {"window_size": window, "img_size": window * patch * 2 ** (len(sides) - 1)}
    raise CheckpointError(f"windows {sides} of the stages follow from no image size; the file belongs to a changed network")


def _windows_v2(neutral: Neutral, fields: dict[str, Any], name: str, hints: Variant | None, notes: list[str]) -> dict[str, Any]:
    stages = len(fields["depths"])
    tables = [neutral.derived.get(f"layers.{s}.blocks.0.relative_coords_table") for s in range(stages)]
    if hints is not None:
        return {
            "window_size": hints.window_size,
            "img_size": hints.img_size,
            "pretrained_windows": hints.pretrained_windows,
        }
    last_stride = fields["patch_size"] * 2 ** (stages - 1)
    if all(table is not None and table.ndim == 4 for table in tables):
        sides = [(int(table.shape[1]) + 1) // 2 for table in tables]  # type: ignore[union-attr]
        references = [_reference(table, side) for table, side in zip(tables, sides, strict=True)]  # type: ignore[arg-type]
        window = max(sides)
        size = last_stride * (min(window, sides[-1]))
        return {"window_size": window, "img_size": size, "pretrained_windows": tuple(references)}
    window, *sizes = _sizes(name)
    if window:
        size = sizes[0] if sizes else last_stride * window
        pretrained = (12, 12, 12, 6) if "window12to" in name and stages == 4 else (0,) * stages
        notes.append(f"window {window} and size {size} read from the name {name!r}")
        return {"window_size": window, "img_size": size, "pretrained_windows": pretrained}
    notes.append("nothing says the window of these V2 weights; 8 at 256 pixels is assumed")
    return {"window_size": 8, "img_size": 256}


def _reference(table: Tensor, window: int) -> int:
    """Return the window the coordinates were scaled by: 0 for the stage's own (checked formula of checkpoints' buffers)."""
    largest = float(table.abs().max())
    reference = round(8 * (window - 1) / (2 ** (3 * largest) - 1) + 1) if largest > 0 else window
    return 0 if reference == window else reference


def _sizes(name: str) -> list[int]:
    """Return [window, image size ...] out of a conventional name; window 0 when it has none."""
    window = re.search(r"window(?:\d+to)?(\d+)", name)
    image = re.search(r"window[\dto]+_(?:\d+to)?(\d{2,4})", name)
    return [int(window[1]) if window else 0, *([int(image[1])] if image else [])]
