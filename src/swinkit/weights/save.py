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
from swinkit.models.segmentation import Segmenter
from swinkit.models.swin import Swin
from swinkit.models.variants import RELEASES
from swinkit.models.windows import relative_coordinates
from swinkit.specs import ModelSpec, Preprocessing, Variant
from swinkit.weights.convert import from_neutral, head_from_neutral
from swinkit.weights.heads import PREFIXES

_RESAMPLE = {"bilinear": 2, "bicubic": 3}


def save_native(path: str | Path, tensors: dict[str, Tensor], spec: ModelSpec) -> None:
    """Write our own form: safetensors under our names, with the description as metadata."""
    _save_tensors(Path(path), tensors, {METADATA_KEY: json.dumps(spec.to_dict()), "format": "pt"})


def save_pretrained(model: nn.Module, spec: ModelSpec, folder: str | Path, card: str | None = None) -> Path:
    """Write a folder that ``transformers`` opens and that answers the same there.

    Args:
        model: a classifier or segmenter of this package.
        spec: its description.
        folder: made if it does not exist; config.json, preprocessor_config.json and model.safetensors are replaced.
        card: text of README.md.

    Raises:
        CheckpointError: the network is one that transformers cannot hold, with the reason.
    """
    tensors = model.state_dict()
    if isinstance(model, Swin):
        spec = spec.changed(variant=model.variant)
    if isinstance(model, Segmenter) and isinstance(model.backbone, Swin):
        spec = spec.changed(variant=model.backbone.variant.changed(num_classes=model.num_classes), decoder=model.decoder)
    if spec.decoder is not None and not spec.backbone:
        tensors = {key.removeprefix("backbone."): tensor for key, tensor in tensors.items()}
    return save_folder(tensors, spec, folder, card)


def save_folder(tensors: dict[str, Tensor], spec: ModelSpec, folder: str | Path, card: str | None = None) -> Path:
    """Write a Hugging Face folder from neutral tensors; see ``save_pretrained``."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder")
    variant = spec.variant
    _refuse_unshifted(variant)
    if spec.decoder is not None:
        config, converted = _hf_segmenter(tensors, spec)
    else:
        _refuse_hf(variant)
        prefix = ("swin." if variant.version == 1 else "swinv2.") if variant.num_classes else ""
        config, converted = _hf_config(spec), from_neutral(_hf_shaped(tensors, variant), "hf", variant.version, prefix)
    atomic_write(folder / "config.json", json.dumps(config, indent=2) + "\n")
    atomic_write(folder / "preprocessor_config.json", json.dumps(_hf_processor(spec.preprocessing), indent=2) + "\n")
    # Last: a folder with weights is a complete one.
    _save_tensors(folder / "model.safetensors", converted, {METADATA_KEY: json.dumps(spec.to_dict()), "format": "pt"})
    if card is not None:
        atomic_write(folder / "README.md", card)
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
    if spec.decoder is not None:
        if dialect not in ("official", "mm"):
            raise CheckpointError(f"{dialect} has no segmenters; write official, mm or hf")
        converted = _segmenter(tensors, spec, dialect, "mm")
    else:
        converted = from_neutral(tensors, dialect, variant.version)
    if dialect == "official" and variant.version == 2:
        converted |= _coordinate_tables(variant)  # the only place where a .pth says its window
    if path.suffix == ".safetensors":
        _save_tensors(path, converted, {METADATA_KEY: json.dumps(spec.to_dict()), "format": "pt"})
    elif path.suffix in (".pth", ".pt", ".bin"):
        content: dict[str, Any] = {"model": converted} if dialect == "official" else converted
        if spec.decoder is not None:
            content = {"meta": {"CLASSES": list(spec.labels)}, "state_dict": converted}
        with atomic_path(path) as temporary:
            torch.save(content, temporary)
    elif dialect == "timm" and not path.suffix:
        atomic_write(path / "config.json", json.dumps(_timm_config(spec), indent=2) + "\n")
        _save_tensors(path / "model.safetensors", converted, {METADATA_KEY: json.dumps(spec.to_dict()), "format": "pt"})
    else:
        raise InputError(f"{path}: give a file ending in .safetensors or .pth for {dialect}")
    return path


def _segmenter(tensors: dict[str, Tensor], spec: ModelSpec, dialect: str, head: str) -> dict[str, Tensor]:
    """Return a segmenter's tensors in the names of a dialect's backbone and a table's decoder."""
    if spec.backbone:
        raise CheckpointError(f"a backbone of timm ({spec.backbone}) has no other dialect; save it as .safetensors of our own")
    body = {key: tensor for key, tensor in tensors.items() if not key.startswith(PREFIXES)}
    decoder = {key: tensor for key, tensor in tensors.items() if key.startswith(PREFIXES)}
    converted = from_neutral(body, dialect, spec.variant.version, "backbone.")
    if dialect == "official":
        converted = {f"backbone.{key.removeprefix('backbone.')}": tensor for key, tensor in converted.items()}
    return converted | head_from_neutral(decoder, head)


def _hf_segmenter(tensors: dict[str, Tensor], spec: ModelSpec) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config.json and tensors of transformers' UPerNet."""
    decoder, variant = spec.decoder, spec.variant
    assert decoder is not None
    if decoder.kind != "upernet":
        raise CheckpointError(f"transformers has no {decoder.kind} on Swin, only UPerNet; write official or mm instead")
    if decoder.auxiliary_channels and decoder.auxiliary_index != 2:
        raise CheckpointError("transformers' auxiliary head stands on the third map; this one does not")
    if variant.version == 2:
        raise CheckpointError("transformers' Swin V2 backbone has no output norms; a segmenter on it cannot be written as hf")
    body = _hf_config(spec.changed(variant=variant.changed(num_classes=0)))
    stages = [f"stage{i + 1}" for i in range(len(variant.depths))]
    body |= {"out_features": stages, "stage_names": ["stem", *stages]}
    labels = spec.labels or tuple(f"LABEL_{i}" for i in range(variant.num_classes))
    config = {
        "architectures": ["UperNetForSemanticSegmentation"],
        "model_type": "upernet",
        "backbone_config": body,
        "hidden_size": decoder.channels,
        "pool_scales": list(decoder.pool_scales),
        "use_auxiliary_head": bool(decoder.auxiliary_channels),
        "auxiliary_loss_weight": 0.4,
        "auxiliary_in_channels": variant.channels[2],
        "auxiliary_channels": decoder.auxiliary_channels or 256,
        "auxiliary_num_convs": 1,
        "auxiliary_concat_input": False,
        "loss_ignore_index": 255,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "torch_dtype": "float32",
    }
    return config, _segmenter(tensors, spec, "hf", "hf")


def _save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata=metadata)


def _coordinate_tables(variant: Variant) -> dict[str, Tensor]:
    """Return the buffers of the original V2 code that hold the windows: (1, 2W - 1, 2W - 1, 2) for each block."""
    tables = {}
    for stage, (window, pretrained) in enumerate(zip(variant.stage_windows, variant.pretrained_windows, strict=True)):
        side = 2 * window - 1
        table = relative_coordinates(window, pretrained or window).reshape(1, side, side, 2)
        for block in range(variant.depths[stage]):
            tables[f"layers.{stage}.blocks.{block}.attn.relative_coords_table"] = table
    return tables


def _refuse_unshifted(variant: Variant) -> None:
    if not variant.shift:
        raise CheckpointError("no other code base has a Swin without shifted windows; keep it as .safetensors of our own")


def _refuse_hf(variant: Variant) -> None:
    if variant.version == 1 and len(set(variant.stage_windows)) > 1:
        raise CheckpointError(
            f"transformers gives every stage of a Swin V1 the window {variant.window_size}, this network has "
            f"{variant.stage_windows}; it cannot be written as hf (use --to official)"
        )


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


def _hf_shaped(tensors: dict[str, Tensor], variant: Variant) -> dict[str, Tensor]:
    """Add the class token's place that transformers keeps in absolute positions; nothing else differs."""
    if not variant.absolute_position:
        return tensors
    raise CheckpointError("absolute positions cannot be written as hf; no released model has them")


def _hf_config(spec: ModelSpec) -> dict[str, Any]:
    variant = spec.variant
    first = "Swin" if variant.version == 1 else "Swinv2"
    config: dict[str, Any] = {
        "architectures": [f"{first}ForImageClassification" if variant.num_classes else f"{first}Model"],
        "model_type": first.lower(),
        "image_size": variant.img_size,
        "patch_size": variant.patch_size,
        "num_channels": variant.in_chans,
        "embed_dim": variant.embed_dim,
        "depths": list(variant.depths),
        "num_heads": list(variant.num_heads),
        "window_size": variant.window_size,
        "mlp_ratio": variant.mlp_ratio,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": variant.drop_path,
        "use_absolute_embeddings": False,
        "layer_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "encoder_stride": variant.strides[-1],
        "hidden_size": variant.channels[-1],
        "num_layers": len(variant.depths),
        "torch_dtype": "float32",
    }
    if variant.version == 2:
        config["pretrained_window_sizes"] = list(variant.pretrained_windows)
    labels = spec.labels or tuple(f"LABEL_{i}" for i in range(variant.num_classes))
    if variant.num_classes:
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
        config["problem_type"] = "multi_label_classification" if spec.multi_label else "single_label_classification"
    return config


def _hf_processor(preprocessing: Preprocessing) -> dict[str, Any]:
    height, width = preprocessing.size
    common = {
        "do_resize": True,
        "resample": _RESAMPLE[preprocessing.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if preprocessing.resize == "native":
        return {"image_processor_type": "SegformerImageProcessor", **common, "do_resize": False}
    if preprocessing.resize == "box":
        box = {"shortest_edge": min(preprocessing.size), "longest_edge": max(preprocessing.size)}
        return {"image_processor_type": "SegformerImageProcessor", "size": box, **common}
    if preprocessing.resize == "squash":
        return {"image_processor_type": "ViTImageProcessor", "size": {"height": height, "width": width}, **common}
    return {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": preprocessing.resize_to},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        **common,
    }


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
