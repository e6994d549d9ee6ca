"""Write weights down: our own file, a Hugging Face folder, or another dialect's file. Always whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from swinkit.embedded import METADATA_KEY
from swinkit.errors import CheckpointError, InputError
from swinkit.files import atomic_path, atomic_write
from swinkit.models.variants import RELEASES
from swinkit.models.windows import relative_coordinates
from swinkit.specs import ModelSpec, Variant
from swinkit.weights import heads, hf
from swinkit.weights.convert import from_neutral


def save_native(path: str | Path, tensors: dict[str, Tensor], spec: ModelSpec) -> None:
    """Write our own form: safetensors under our names, with the description as metadata."""
    _save_tensors(Path(path), tensors, {METADATA_KEY: json.dumps(spec.to_dict()), "format": "pt"})


def save_pretrained(model: nn.Module, spec: ModelSpec, folder: str | Path) -> Path:
    """Write a folder that ``transformers`` opens and that answers the same there.

    Args:
        model: a network of this package.
        spec: its description.
        folder: made if it does not exist; config.json, preprocessor_config.json and model.safetensors are replaced.

    Raises:
        CheckpointError: the network is one that transformers cannot hold, with the reason.
    """
    return save_folder(*heads.of_network(model).taken(model, spec), folder)


def save_folder(tensors: dict[str, Tensor], spec: ModelSpec, folder: str | Path) -> Path:
    """Write a Hugging Face folder from neutral tensors; see ``save_pretrained``."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder")
    _refuse_unshifted(spec.variant)
    config, converted = heads.of_description(spec).write_hf(spec), _converted(tensors, spec, "hf")
    atomic_write(folder / "config.json", json.dumps(config, indent=2) + "\n")
    atomic_write(folder / "preprocessor_config.json", json.dumps(hf.write_preparation(spec.preprocessing), indent=2) + "\n")
    # Last: a folder with weights is a complete one.
    _save_tensors(folder / "model.safetensors", converted, {METADATA_KEY: json.dumps(spec.to_dict()), "format": "pt"})
    return folder


def save_dialect(path: str | Path, tensors: dict[str, Tensor], spec: ModelSpec, dialect: str) -> Path:
    """Write weights as another code base has them.

    Args:
        path: "hf" and "timm": a folder, or for timm also a file; else a .pth or .safetensors file.
        tensors: neutral.
        spec: their description.
        dialect: "official", "hf", "timm", "torchvision" or "mm" (mmsegmentation and its kin).

    Raises:
        CheckpointError: a pair that the dialect cannot hold, with the reason.
        InputError: a destination of the wrong kind.
    """
    path, variant = Path(path), spec.variant
    _refuse_unshifted(variant)
    if dialect == "hf":
        return save_folder(tensors, spec, path)
    if dialect == "torchvision":
        _refuse_torchvision(variant)
    if dialect not in ("official", "timm", "torchvision", "mm"):
        raise InputError(f"cannot write {dialect!r}; choose official, hf, timm, torchvision or mm")
    head = heads.of_description(spec)
    head.refuse(dialect)
    converted = _converted(tensors, spec, dialect)
    if dialect == "official" and variant.version == 2:
        # The only place where a .pth says its window.
        converted |= {head.prefix(spec, dialect) + name: table for name, table in _coordinate_tables(variant).items()}
    if path.suffix == ".safetensors":
        _save_tensors(path, converted, {METADATA_KEY: json.dumps(spec.to_dict()), "format": "pt"})
    elif path.suffix in (".pth", ".pt", ".bin"):
        with atomic_path(path) as temporary:
            torch.save(head.content(converted, spec, dialect), temporary)
    elif dialect == "timm" and not path.suffix:
        atomic_write(path / "config.json", json.dumps(_timm_config(spec), indent=2) + "\n")
        _save_tensors(path / "model.safetensors", converted, {METADATA_KEY: json.dumps(spec.to_dict()), "format": "pt"})
    else:
        raise InputError(f"{path}: give a file ending in .safetensors or .pth for {dialect}")
    return path


def _converted(tensors: dict[str, Tensor], spec: ModelSpec, dialect: str) -> dict[str, Tensor]:
    """Return all tensors in a dialect's names."""
    if spec.backbone:
        raise CheckpointError(f"a backbone of timm ({spec.backbone}) has no other dialect; save it as .safetensors of our own")
    head = heads.of_description(spec)
    body, apart = heads.split(tensors)
    converted = from_neutral(body, dialect, spec.variant.version, head.prefix(spec, dialect))
    return converted | head.write(apart.pop(head.task, {}), dialect)


def _save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata=metadata)


def _coordinate_tables(variant: Variant) -> dict[str, Tensor]:
    """Return the buffers of the original V2 code that hold the windows: (1, 2W - 1, 2W - 1, 2) for each block."""
    tables = {}
    for stage, (window, reference) in enumerate(zip(variant.stage_windows, variant.reference_windows, strict=True)):
        side = 2 * window - 1
        table = relative_coordinates(window, reference).reshape(1, side, side, 2)
        for block in range(variant.depths[stage]):
            tables[f"layers.{stage}.blocks.{block}.attn.relative_coords_table"] = table
    return tables


def _refuse_unshifted(variant: Variant) -> None:
    if not variant.shift:
        raise CheckpointError("no other code base has a Swin without shifted windows; keep it as .safetensors of our own")


def _refuse_torchvision(variant: Variant) -> None:
    if len(set(variant.stage_windows)) > 1:
        raise CheckpointError(
            f"torchvision never shrinks a window, this network has {variant.stage_windows}; its answers would differ"
        )
    if any(p not in (0, variant.window_size) for p in variant.pretrained_windows):
        raise CheckpointError("torchvision knows no pre-training window of a Swin V2; its answers would differ")
    if variant.in_chans != 3:
        raise CheckpointError(f"torchvision's stem has 3 channels, this network {variant.in_chans}")
    if variant.num_classes == 0 or variant.absolute_position:
        raise CheckpointError("torchvision's Swin has a head and no absolute position; this network differs")


def _timm_config(spec: ModelSpec) -> dict[str, Any]:
    """Return timm's ``config.json``; only networks timm has a name for can be written as a folder."""
    shape = spec.variant
    for release in RELEASES.values():
        known = release.variant
        same = (
            "version",
            "embed_dim",
            "depths",
            "num_heads",
            "window_size",
            "patch_size",
            "img_size",
            "pretrained_windows",
        )
        names = [alias for alias in release.aliases if ".ms_" in alias]
        if names and all(getattr(known, field) == getattr(shape, field) for field in same):
            architecture = names[0].split(".")[0]
            break
    else:
        raise CheckpointError("timm has no name for this shape; write a .safetensors file instead of a folder")
    height, width = spec.preprocessing.size
    crop = min(height, width) / spec.preprocessing.resize_to if spec.preprocessing.resize == "shorter" else 1.0
    return {
        "architecture": architecture,
        "num_classes": shape.num_classes,
        "num_features": shape.channels[-1],
        "pretrained_cfg": {
            "num_classes": shape.num_classes,
            "input_size": [shape.in_chans, height, width],
            "interpolation": spec.preprocessing.interpolation,
            "crop_pct": crop,
            "crop_mode": "squash" if spec.preprocessing.resize == "squash" else "center",
            "mean": list(spec.preprocessing.mean),
            "std": list(spec.preprocessing.std),
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
            **({"label_names": list(spec.labels)} if spec.labels else {}),
        },
    }
