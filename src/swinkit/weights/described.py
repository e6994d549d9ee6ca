"""Descriptions that stand beside weights: our own, transformers' and timm's, every field held against its bounds."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from swinkit.bounds import real, reals, text, whole, wholes
from swinkit.embedded import METADATA_KEY
from swinkit.errors import CheckpointError, UnknownName, refusing, shown
from swinkit.files import parse_json
from swinkit.labels import ade20k, imagenet_names
from swinkit.models.variants import resolve
from swinkit.specs import MAX_CLASSES, Decoder, MaskRules, ModelSpec, Preprocessing, Variant
from swinkit.weights.read import MAX_HEADER, read_json

_FIX = "mend it, or download it again"


def own_description(path: Path, metadata: dict[str, str]) -> ModelSpec | None:
    """Return our own description out of a safetensors file's metadata, None when it has none.

    Raises:
        CheckpointError: it is damaged, or a field is out of its bounds.
    """
    if METADATA_KEY not in metadata:
        return None
    where = f"{path}: the description stored with the weights is damaged"
    with refusing(CheckpointError, where, "write the file again"):
        if len(metadata[METADATA_KEY]) > MAX_HEADER:
            raise CheckpointError(f"{where} (more than {MAX_HEADER:,} letters); write the file again")
        values = parse_json(metadata[METADATA_KEY], where, CheckpointError, "write the file again")
        try:
            return ModelSpec.from_dict(values)
        except ValueError as error:
            raise CheckpointError(f"{where} ({error}); write the file again") from error


def folder_description(folder: Path) -> ModelSpec | None:
    """Return the description in a folder of transformers or timm, None when there is no ``config.json``.

    Raises:
        CheckpointError: a file cannot be read, or says something that cannot be; with file and field.
    """
    path = folder / "config.json"
    if not os.path.lexists(path):
        return None
    config = read_json(path)
    try:
        with refusing(CheckpointError, "config.json cannot be understood", _FIX):
            if "architecture" in config:
                return timm_spec(config)
            beside = folder / "preprocessor_config.json"
            return hf_spec(config, read_json(beside) if os.path.lexists(beside) else None)
    except CheckpointError as error:
        raise type(error)(f"{folder}: {error}") from error


def hf_spec(config: dict[str, Any], preparation: dict[str, Any] | None) -> ModelSpec:
    """Return the description in a transformers ``config.json`` and ``preprocessor_config.json`` (None: there is none).

    Raises:
        CheckpointError, InputError: a field of the wrong kind or out of its bounds.
    """
    kind = config.get("model_type")
    if kind == "upernet":
        return _upernet_spec(config, preparation)
    if kind not in ("swin", "swinv2"):
        raise CheckpointError(f"config.json describes a {shown(kind)!r}, not a swin or swinv2")
    labels = _hf_labels(config)
    depths = wholes("config.json: depths", config.get("depths", (2, 2, 6, 2)), 1, 256)
    variant = Variant(
        version=1 if kind == "swin" else 2,
        embed_dim=_integer(config, "embed_dim", 96),
        depths=depths,
        num_heads=wholes("config.json: num_heads", config.get("num_heads", (3, 6, 12, 24)), 1, 16384),
        window_size=_integer(config, "window_size", 7),
        patch_size=_integer(config, "patch_size", 4),
        img_size=_integer(config, "image_size", 224),
        in_chans=_integer(config, "num_channels", 3),
        num_classes=len(labels),
        pretrained_windows=config.get("pretrained_window_sizes") or (0,) * len(depths),
    )
    side = variant.img_size
    return ModelSpec(
        variant,
        Preprocessing((side, side), "squash") if preparation is None else hf_preprocessing(preparation, side),
        labels,
        name=text("config.json: _name_or_path", config.get("_name_or_path") or ""),
        multi_label=config.get("problem_type") == "multi_label_classification",
    )


def _upernet_spec(config: dict[str, Any], preparation: dict[str, Any] | None) -> ModelSpec:
    """Return the description of transformers' UPerNet; the file says nothing of how its labels were stored."""
    body = config.get("backbone_config")
    if not isinstance(body, dict) or body.get("model_type") not in ("swin", "swinv2"):
        raise CheckpointError("config.json describes a UPerNet on another backbone than Swin; this package reads those on Swin")
    spec = hf_spec({**body, "id2label": config.get("id2label")}, preparation)
    decoder = Decoder(
        channels=_integer(config, "hidden_size", 512),
        pool_scales=config.get("pool_scales") or (1, 2, 3, 6),
        auxiliary_channels=_integer(config, "auxiliary_channels", 256) if config.get("use_auxiliary_head", True) else 0,
    )
    known, palette = ade20k()
    rate = real("config.json: drop_path_rate", body.get("drop_path_rate", 0.1), 0.0, 1.0)
    return spec.changed(
        variant=spec.variant.changed(drop_path=float(rate)),
        task="segment",
        decoder=decoder,
        masks=MaskRules((0,), palette) if len(spec.labels) == len(known) else None,
        preprocessing=Preprocessing((512, 512), "squash", 0, "bilinear") if preparation is None else spec.preprocessing,
    )


def _integer(config: dict[str, Any], name: str, default: int, where: str = "config.json") -> int:
    value = config.get(name, default)
    if isinstance(value, list) and len(value) <= 16 and value and all(item == value[0] for item in value):
        value = value[0]
    return whole(f"{where}: {name}", value, 1, 99_999)


def _hf_labels(config: dict[str, Any]) -> tuple[str, ...]:
    """Return class names in index order; keys must be 0 .. K-1.

    Without names, or with transformers' placeholders for a known list, the known list is taken.
    """
    table = config.get("id2label")
    if table is None or table == {}:
        return ()
    if not isinstance(table, dict) or len(table) > MAX_CLASSES:
        raise CheckpointError(f"config.json: id2label must be a table of class names, got {shown(table)}")
    names: dict[int, str] = {}
    for key, value in table.items():
        if not re.fullmatch(r"[0-9]{1,7}", key.strip()):
            raise CheckpointError(f"config.json: id2label has a key that is no number ({shown(key)!r})")
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


def hf_preprocessing(config: dict[str, Any], img_size: int) -> Preprocessing:
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
    with refusing(CheckpointError, f"{where} cannot be understood", _FIX):
        if config.get("do_resize") is False:
            return Preprocessing((img_size, img_size), "native", **normal)
        if not isinstance(size, dict):
            side = _integer({"size": size}, "size", img_size, where)
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
                height = width = _integer({"crop_size": crop}, "crop_size", edge, where)
            return Preprocessing((height, width), "shorter", edge, **normal)
        height, width = sides("size", size, "height", "width")
        return Preprocessing((height, width), "squash", **normal)


def timm_spec(config: dict[str, Any]) -> ModelSpec:
    """Return the description in a timm hub ``config.json``.

    Raises:
        CheckpointError, InputError: a field of the wrong kind or out of its bounds.
    """
    given = config.get("pretrained_cfg")
    if not isinstance(given, dict):
        raise CheckpointError("config.json has no pretrained_cfg; it is not timm's")
    architecture = text("config.json: architecture", config.get("architecture"))
    tag = text("config.json: tag", given.get("tag") or "")
    name = f"{architecture}.{tag}" if tag else architecture
    try:
        variant = resolve(name)[1]
    except UnknownName:
        variant = resolve(architecture)[1]
    shape = wholes("config.json: input_size", given.get("input_size", (3, variant.img_size, variant.img_size)), 1, 16384)
    if len(shape) != 3:
        raise CheckpointError(f"config.json: input_size must be channels, height and width, got {shape}")
    channels, height, width = shape
    count = config.get("num_classes") or given.get("num_classes") or variant.num_classes
    count = whole("config.json: num_classes", count, 0, MAX_CLASSES)
    crop = real("config.json: crop_pct", given.get("crop_pct", 0.9), 0.1, 1.0)
    squash = given.get("crop_mode") == "squash"
    plain = Preprocessing()
    preparation = Preprocessing(
        (height, width),
        "squash" if squash else "shorter",
        0 if squash else max(min(height, width), int(height / crop)),
        given.get("interpolation", "bicubic"),
        reals("config.json: mean", given.get("mean", plain.mean), -1e4, 1e4),
        reals("config.json: std", given.get("std", plain.std), -1e4, 1e4),
    )
    labels = given.get("label_names") or imagenet_names(count)
    return ModelSpec(variant.changed(img_size=height, in_chans=channels, num_classes=count), preparation, labels, name=name)
