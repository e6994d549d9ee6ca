"""What stands beside weights in a folder of transformers: ``config.json``, ``preprocessor_config.json``, read and written."""

from __future__ import annotations

import re
from typing import Any

from swinkit.bounds import reals, text, whole, wholes
from swinkit.errors import CheckpointError, brief, refusing
from swinkit.labels import imagenet_names
from swinkit.specs import MAX_CLASSES, ModelSpec, Preprocessing, Variant

BODIES = ("swin", "swinv2")  # model_type of a Swin
FIX = "mend it, or download it again"
_RESAMPLE = {"bilinear": 2, "bicubic": 3}


def read_config(config: dict[str, Any], preparation: dict[str, Any] | None) -> ModelSpec:
    """Return what a configuration of a Swin and that of its processor (None: there is none) say.

    Raises:
        CheckpointError, InputError: a field of the wrong kind or out of its bounds.
    """
    labels = _labels(config)
    depths = wholes("config.json: depths", config.get("depths", (2, 2, 6, 2)), 1, 256)
    variant = Variant(
        version=1 + BODIES.index(config["model_type"]),
        embed_dim=integer(config, "embed_dim", 96),
        depths=depths,
        num_heads=wholes("config.json: num_heads", config.get("num_heads", (3, 6, 12, 24)), 1, 16384),
        window_size=integer(config, "window_size", 7),
        patch_size=integer(config, "patch_size", 4),
        img_size=integer(config, "image_size", 224),
        in_chans=integer(config, "num_channels", 3),
        num_classes=len(labels),
        pretrained_windows=config.get("pretrained_window_sizes") or (0,) * len(depths),
    )
    side = variant.img_size
    return ModelSpec(
        variant,
        Preprocessing((side, side), "squash") if preparation is None else read_preparation(preparation, side),
        labels,
        name=text("config.json: _name_or_path", config.get("_name_or_path") or ""),
    )


def integer(config: dict[str, Any], name: str, default: int, where: str = "config.json") -> int:
    """Return a field that is a whole number from 1, or a list of one such number repeated."""
    value = config.get(name, default)
    if isinstance(value, list) and len(value) <= 16 and value and all(item == value[0] for item in value):
        value = value[0]
    return whole(f"{where}: {name}", value, 1, 99_999)


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """Return class names in index order; keys must be 0 .. K-1.

    Without names, or with transformers' placeholders for a known list, the known list is taken.
    """
    table = config.get("id2label")
    if table is None or table == {}:
        return ()
    if not isinstance(table, dict) or len(table) > MAX_CLASSES:
        raise CheckpointError(f"config.json: id2label must be a table of class names, got {brief(table)}")
    names: dict[int, str] = {}
    for key, value in table.items():
        if not re.fullmatch(r"[0-9]{1,7}", key.strip()):
            raise CheckpointError(f"config.json: id2label has a key that is no number ({brief(key)!r})")
        if int(key) in names:
            raise CheckpointError(f"config.json: id2label names the index {int(key)} twice; mend it")
        names[int(key)] = text(f"config.json: id2label[{int(key)}]", str(value) if isinstance(value, int | float) else value)
    gap = next((index for index in range(len(names)) if index not in names), None)
    if gap is not None:
        if len(names) == 21841:  # V1 22K copies on the hub number their names with the two replaced entries left out
            return imagenet_names(21841)
        raise CheckpointError(f"config.json: id2label has {len(names)} names but none for index {gap}; mend it")
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names.values()):
        return imagenet_names(len(names)) or tuple(names[i] for i in range(len(names)))
    return tuple(names[i] for i in range(len(names)))


def read_preparation(config: dict[str, Any], img_size: int) -> Preprocessing:
    """Return the preparation a transformers ``preprocessor_config.json`` describes, old or new form.

    Raises:
        CheckpointError, InputError: a field of the wrong kind or out of its bounds.
    """
    where = "preprocessor_config.json"

    def sides(name: str, value: Any, *keys: str) -> tuple[int, ...]:
        return tuple(whole(f"{where}: {name}.{key}", value.get(key), 1, 16384) for key in keys)

    resample = whole(f"{where}: resample", config.get("resample", 3), 0, 5)
    interpolation = {2: "bilinear", 3: "bicubic"}.get(resample)
    if interpolation is None:
        raise CheckpointError(f"{where}: resample {resample} is not bilinear (2) or bicubic (3)")
    normal: dict[str, Any] = {"interpolation": interpolation}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if config.get(theirs) is not None:
            normal[ours] = reals(f"{where}: {theirs}", config[theirs], -1e4, 1e4)
    size, crop = config.get("size", img_size), config.get("crop_size")
    with refusing(CheckpointError, f"{where} cannot be understood", FIX):
        if config.get("do_resize") is False:
            return Preprocessing((img_size, img_size), "native", **normal)
        if not isinstance(size, dict):
            side = integer({"size": size}, "size", img_size, where)
            return Preprocessing((side, side), "squash", **normal)
        if "longest_edge" in size:
            shorter, longer = sides("size", size, "shortest_edge", "longest_edge")
            return Preprocessing((shorter, longer), "box", antialias=interpolation != "bilinear", **normal)
        if "shortest_edge" in size:
            (edge,) = sides("size", size, "shortest_edge")
            height = width = edge
            if config.get("do_center_crop") and isinstance(crop, dict):
                height, width = sides("crop_size", crop, "height", "width")
            elif config.get("do_center_crop") and crop is not None:
                height = width = integer({"crop_size": crop}, "crop_size", edge, where)
            return Preprocessing((height, width), "shorter", edge, **normal)
        height, width = sides("size", size, "height", "width")
        return Preprocessing((height, width), "squash", **normal)


def write_config(spec: ModelSpec) -> dict[str, Any]:
    """Return the configuration of a Swin; what its head says comes from the head."""
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
    return config


def label_tables(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Return class names as a configuration has them, both ways round."""
    labels = spec.labels or tuple(f"LABEL_{i}" for i in range(spec.variant.num_classes))
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def write_preparation(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the ``preprocessor_config.json`` of the processor that prepares photos the same way."""
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
