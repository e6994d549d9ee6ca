"""Descriptions that stand beside weights: our own, transformers' and timm's, every field held against its bounds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from swinkit.bounds import real, reals, text, whole, wholes
from swinkit.embedded import METADATA_KEY
from swinkit.errors import CheckpointError, UnknownName, brief, refusing
from swinkit.files import parse_json
from swinkit.labels import imagenet_names
from swinkit.models.variants import resolve
from swinkit.specs import MAX_CLASSES, ModelSpec, Preprocessing
from swinkit.weights import heads
from swinkit.weights.hf import FIX
from swinkit.weights.read import MAX_HEADER, read_json


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
    """Return the description in a folder of transformers, timm or the mm family, None when there is no ``config.json``.

    Raises:
        CheckpointError: a file cannot be read, or says something that cannot be; with file and field.
    """
    path = folder / "config.json"
    if not os.path.lexists(path):
        return None
    config = read_json(path)
    try:
        with refusing(CheckpointError, "config.json cannot be understood", FIX):
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
    spec = heads.read_config(config, preparation)
    if spec is None:
        raise CheckpointError(f"config.json describes a {brief(config.get('model_type'))!r}, not a swin or swinv2")
    return spec


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
