"""From anything a person may name to tensors under our names and everything that belongs to them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swinkit.embedded import EMBEDDED, METADATA_KEY, embedded_names, embedded_path
from swinkit.errors import CheckpointError, KeysLeftOver, UnknownName, nearest
from swinkit.extras import need
from swinkit.files import EXPORT_MANIFEST
from swinkit.labels import ade20k, imagenet_names
from swinkit.models.classifier import SwinClassifier
from swinkit.models.systems import DROP_PATH, SYSTEMS
from swinkit.models.variants import RELEASES, resolve
from swinkit.specs import Decoder, MaskRules, ModelSpec, Preprocessing, Variant
from swinkit.weights.convert import Neutral, to_neutral
from swinkit.weights.heads import infer_decoder
from swinkit.weights.infer import infer_variant
from swinkit.weights.read import SUFFIXES, read_json, read_tensors


@dataclass
class Checkpoint:
    """Weights and what belongs to them.

    Args:
        tensors: under our names (``Neutral``).
        spec: shape, preparation, class names, facts.
        dialect: how the file was written.
        notes: what had to be assumed or was left aside, a sentence each.
        source: the file or folder they came from.
    """

    tensors: dict[str, Tensor]
    spec: ModelSpec
    dialect: str
    notes: list[str]
    source: str


def load_checkpoint(source: str | Path) -> Checkpoint:
    """Return weights from an embedded name, a file, a folder, or a hub id.

    Args:
        source: name in ``EMBEDDED``; a .safetensors or .pth file in any dialect; a Hugging Face, timm or run folder; a
            hub id (``owner/name``) or the name of a released variant, fetched through huggingface_hub.

    Raises:
        CheckpointError: nothing there, damaged, unsafe, or of no known dialect.
        UnknownName: no such file, folder or model.
    """
    text = str(source)
    if text in EMBEDDED:
        return _from_embedded(text)
    path = Path(text)
    if path.is_dir():
        return _from_folder(path)
    if path.exists() or path.suffix in SUFFIXES:
        return _from_file(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and ".." not in text:
        return _from_folder(_download(text), name=text)
    if text in SYSTEMS:
        for alias in SYSTEMS[text].aliases:
            return _from_folder(_download(alias), name=alias)
        raise CheckpointError(f"{text} has no copy on the Hugging Face hub; give the file of its authors")
    try:
        canonical, _ = resolve(text)
    except UnknownName:
        known = [*EMBEDDED, *RELEASES, *SYSTEMS]
        raise UnknownName(
            f"{text!r} is no file, folder, hub id or model (embedded: {_embedded()}){nearest(text, known, cutoff=0.0)}"
        ) from None
    for alias in RELEASES[canonical].aliases:
        if alias in EMBEDDED:
            return _from_embedded(alias)
        if alias.startswith("microsoft/"):
            return _from_folder(_download(alias), name=alias)
    raise CheckpointError(
        f"{canonical} has no copy on the Hugging Face hub; download {canonical}.pth from the authors' release and give the "
        f"file, or use an embedded model: {_embedded()}"
    )


def _from_embedded(name: str) -> Checkpoint:
    path = embedded_path(name)
    if path is None:
        raise CheckpointError(
            f"this version of swinkit has no embedded weights of {name} yet (README.md says why); give a file, a folder or a "
            f"hub id with --model, or train them: swinkit train {EMBEDDED[name].recipe} --data DIR"
        )
    return _from_file(path)


def _embedded() -> str:
    return ", ".join(embedded_names())


def _download(repository: str) -> Path:
    """Return the local folder of a hub repository, fetching only what is read."""
    hub = need("huggingface_hub", "hub")
    folder = None
    for names in (("config.json",), ("preprocessor_config.json",), ("model.safetensors", "pytorch_model.bin")):
        reason = ""
        for name in names:
            try:
                folder = Path(hub.hf_hub_download(repository, name)).parent
                break
            except (OSError, ValueError) as error:  # the library's own errors are of these kinds
                reason = reason or f" ({' '.join(str(error).split()).split('. ')[0][:200]})"
        else:
            if names != ("preprocessor_config.json",):
                raise CheckpointError(
                    f"{repository}: {names[0]} could not be fetched from the Hugging Face hub{reason}; without network give a "
                    f"file, or use an embedded model: {_embedded()}"
                )
    assert folder is not None
    return folder


def _from_file(path: Path, name: str = "") -> Checkpoint:
    tensors, metadata = read_tensors(path)
    described = _described(path, metadata)
    if described is not None and described.backbone:  # another code base's pyramid: its names are its own
        return Checkpoint(tensors, described, described.backbone, [], str(path))
    try:
        neutral = to_neutral(tensors)
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from None
    return _checkpoint(neutral, path, name or (described.name if described else path.stem), described)


def _described(path: Path, metadata: dict[str, str]) -> ModelSpec | None:
    """Return our own description out of a safetensors file's metadata, if it has one."""
    if METADATA_KEY not in metadata:
        return None
    try:
        return ModelSpec.from_dict(json.loads(metadata[METADATA_KEY]))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the description stored with the weights is damaged ({error})") from error


def _from_folder(path: Path, name: str = "") -> Checkpoint:
    if (path / EXPORT_MANIFEST).is_file():
        raise CheckpointError(f"{path}: is an export, whose weights are in another library's form; give what it was made from")
    config_path = path / "config.json"
    config = read_json(config_path) if config_path.is_file() else None
    tensors, metadata = read_tensors(path)
    described = _described(path, metadata)
    try:
        neutral = to_neutral(tensors)
        if described is None and config is not None:
            described = _timm_spec(config) if "architecture" in config else _hf_spec(config, path)
        checkpoint = _checkpoint(neutral, path, name or (described.name if described else "") or path.name, described)
    except (CheckpointError, ValueError, TypeError, KeyError) as error:
        kind = type(error) if isinstance(error, CheckpointError) else CheckpointError
        raise kind(f"{path}: {error}") from None
    if described is None:
        checkpoint.notes.append("no config.json stands beside the weights")
    return checkpoint


def _checkpoint(neutral: Neutral, path: Path, name: str, described: ModelSpec | None) -> Checkpoint:
    hints = described.variant if described else None
    if hints is None:
        try:
            hints = resolve(name)[1]
        except UnknownName:
            hints = None
        if hints is not None and (hints.version, hints.depths) != (neutral.version, _count(neutral)):
            hints = None
    variant, notes = infer_variant(neutral, name, hints)
    decoder = None
    if neutral.head:
        decoder, classes = infer_decoder(neutral.head, variant.channels, described.decoder if described else None)
        variant = variant.changed(num_classes=classes, drop_path=described.variant.drop_path if described else DROP_PATH)
    if described is not None and neutral.version == 1 and described.variant.window_size != variant.window_size:
        notes.append(f"the description says window {described.variant.window_size}, the bias tables {variant.window_size}")
    _refuse_incomplete(neutral, variant)
    notes += [f"left aside: {count} tensors under {word!r}" for word, count in sorted(neutral.aside.items())]
    if described is None and decoder is not None:
        labels, palette = ade20k() if variant.num_classes == 150 else ((), ())
        preparation = Preprocessing((512, 2048), "box", 0, "bilinear", antialias=False)
        spec = ModelSpec(
            variant, preparation, labels, "segment", name, decoder=decoder, masks=MaskRules((0,), palette) if labels else None
        )
        if not labels:
            notes.append(f"no class names are known for {variant.num_classes} classes")
    elif described is None:
        spec = ModelSpec(
            variant, _published_preparation(neutral.dialect, variant), imagenet_names(variant.num_classes), name=name
        )
        if variant.num_classes and not spec.labels:
            notes.append(f"no class names are known for {variant.num_classes} classes")
    else:
        if described.labels and variant.num_classes and len(described.labels) != variant.num_classes:
            raise CheckpointError(f"{len(described.labels)} class names for {variant.num_classes} classes; mend the description")
        task = "segment" if decoder else "classify" if described.task == "segment" else described.task
        spec = described.changed(variant=variant, name=name, decoder=decoder, task=task)
    return Checkpoint(neutral.tensors | neutral.head, spec, neutral.dialect, notes, str(path))


def _refuse_incomplete(neutral: Neutral, variant: Variant) -> None:
    """Compare the tensors with those a network of this shape has; only norms and head may be absent."""
    with torch.device("meta"):
        wanted = {name for name in SwinClassifier(variant).state_dict() if name.startswith(("patch_embed.", "layers."))}
    missing = sorted(wanted - set(neutral.tensors))
    if missing:
        raise KeysLeftOver(f"{len(missing)} tensors of the network are missing (first: {missing[0]}); download it again")


def _count(neutral: Neutral) -> tuple[int, ...]:
    blocks = {(k.split(".")[1], k.split(".")[3]) for k in neutral.tensors if ".blocks." in k}
    stages = sorted({int(stage) for stage, _ in blocks})
    return tuple(sum(int(stage) == s for stage, _ in blocks) for s in stages)


def _published_preparation(dialect: str, variant: Variant) -> Preprocessing:
    """Return how the publisher of a dialect's files measured them.

    Source: MS ``data/build.py``; timm ``pretrained_cfg``; torchvision's weights' transforms.
    """
    side = variant.img_size
    if dialect == "timm":
        return Preprocessing((side, side), "shorter", side if side >= 384 else int(side / 0.9))
    if dialect == "torchvision":
        shorter = {(1, 96, 6): 232, (1, 96, 18): 246, (1, 128, 18): 238, (2, 128, 18): 272}
        default, made_for = (232, 224) if variant.version == 1 else (260, 256)
        depth = variant.depths[min(2, len(variant.depths) - 1)]
        published = shorter.get((variant.version, variant.embed_dim, depth), default)
        return Preprocessing((side, side), "shorter", round(side * published / made_for))
    if side >= 384 or dialect == "hf":
        return Preprocessing((side, side), "squash")
    return Preprocessing((side, side), "shorter", int(256 / 224 * side))


def _hf_spec(config: dict[str, Any], path: Path) -> ModelSpec:
    """Return the description in a transformers ``config.json`` and ``preprocessor_config.json``."""
    kind = config.get("model_type")
    if kind == "upernet":
        return _upernet_spec(config, path)
    if kind not in ("swin", "swinv2"):
        raise CheckpointError(f"config.json describes a {kind!r}, not a swin or swinv2")
    labels = _hf_labels(config)
    variant = Variant(
        version=1 if kind == "swin" else 2,
        embed_dim=_integer(config, "embed_dim", 96),
        depths=tuple(config.get("depths", (2, 2, 6, 2))),
        num_heads=tuple(config.get("num_heads", (3, 6, 12, 24))),
        window_size=_integer(config, "window_size", 7),
        patch_size=_integer(config, "patch_size", 4),
        img_size=_integer(config, "image_size", 224),
        in_chans=_integer(config, "num_channels", 3),
        num_classes=len(labels),
        pretrained_windows=tuple(config.get("pretrained_window_sizes") or (0,) * len(config.get("depths", (0,) * 4))),
    )
    described = path / "preprocessor_config.json"
    preprocessing = (
        hf_preprocessing(read_json(described), variant.img_size)
        if described.is_file()
        else Preprocessing((variant.img_size, variant.img_size), "squash")
    )
    return ModelSpec(
        variant,
        preprocessing,
        labels,
        name=str(config.get("_name_or_path") or ""),
        multi_label=config.get("problem_type") == "multi_label_classification",
    )


def _upernet_spec(config: dict[str, Any], path: Path) -> ModelSpec:
    """Return the description of transformers' UPerNet; the file says nothing of how its labels were stored."""
    body = config.get("backbone_config")
    if not isinstance(body, dict) or body.get("model_type") not in ("swin", "swinv2"):
        raise CheckpointError("config.json describes a UPerNet on another backbone than Swin; this package reads those on Swin")
    spec = _hf_spec({**body, "id2label": config.get("id2label")}, path)
    scales = config.get("pool_scales", (1, 2, 3, 6))
    decoder = Decoder(
        channels=_integer(config, "hidden_size", 512),
        pool_scales=tuple(scales) if isinstance(scales, list | tuple) else (1, 2, 3, 6),
        auxiliary_channels=_integer(config, "auxiliary_channels", 256) if config.get("use_auxiliary_head", True) else 0,
    )
    labels = _hf_labels(config)
    known, palette = ade20k()
    masks = MaskRules((0,), palette) if len(labels) == len(known) else None
    variant = spec.variant.changed(drop_path=float(body.get("drop_path_rate", 0.1)))
    preparation = spec.preprocessing
    if not (path / "preprocessor_config.json").is_file():
        preparation = Preprocessing((512, 512), "squash", 0, "bilinear")
    return spec.changed(variant=variant, labels=labels, task="segment", decoder=decoder, masks=masks, preprocessing=preparation)


def _integer(config: dict[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 100_000:
        raise CheckpointError(f"config.json: {name} cannot be {value!r}")
    return value


def _hf_labels(config: dict[str, Any]) -> tuple[str, ...]:
    """Return class names in index order; keys must be 0 .. K-1, whatever their spelling.

    Without names, or with transformers' placeholders for a known list, the known list is taken.
    """
    table = config.get("id2label")
    if not isinstance(table, dict) or not table:
        return ()
    try:
        names = {int(key): str(value) for key, value in table.items()}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config.json: id2label has a key that is no number ({error})") from error
    gaps = sorted(set(range(len(names))) - set(names))
    if gaps:
        if len(names) == 21841:  # V1 22K copies on the hub number their names with the two replaced entries left out
            return imagenet_names(21841)
        raise CheckpointError(f"config.json: id2label has {len(names)} names but none for index {gaps[0]}; mend it")
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names.values()):
        return imagenet_names(len(names)) or tuple(names[i] for i in range(len(names)))
    return tuple(names[i] for i in range(len(names)))


def hf_preprocessing(config: dict[str, Any], img_size: int) -> Preprocessing:
    """Return the preparation a transformers ``preprocessor_config.json`` describes, old or new form."""
    size, crop = config.get("size", img_size), config.get("crop_size")
    kinds = {2: "bilinear", 3: "bicubic"}
    interpolation = kinds.get(config.get("resample", 3))
    if interpolation is None:
        raise CheckpointError(f"preprocessor_config.json: resample {config.get('resample')!r} is not bilinear (2) or bicubic (3)")
    normal: dict[str, Any] = {"interpolation": interpolation}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if isinstance(config.get(theirs), list):
            normal[ours] = tuple(float(value) for value in config[theirs])
    if config.get("do_resize") is False:
        return Preprocessing((img_size, img_size), "native", **normal)
    if isinstance(size, dict) and "longest_edge" in size:
        box = (int(size["shortest_edge"]), int(size["longest_edge"]))
        return Preprocessing(box, "box", antialias=interpolation != "bilinear", **normal)
    if isinstance(size, dict) and "shortest_edge" in size:
        edge = int(size["shortest_edge"])
        if config.get("do_center_crop") and crop is not None:
            height, width = (int(crop["height"]), int(crop["width"])) if isinstance(crop, dict) else (int(crop), int(crop))
        else:
            height = width = edge
        return Preprocessing((height, width), "shorter", edge, **normal)
    if isinstance(size, dict):
        return Preprocessing((int(size["height"]), int(size["width"])), "squash", **normal)
    return Preprocessing((int(size), int(size)), "squash", **normal)


def _timm_spec(config: dict[str, Any]) -> ModelSpec:
    """Return the description in a timm hub ``config.json``."""
    given = config.get("pretrained_cfg")
    if not isinstance(given, dict):
        raise CheckpointError("config.json has no pretrained_cfg; it is not timm's")
    tag = given.get("tag")
    name = f"{config['architecture']}.{tag}" if tag else str(config["architecture"])
    try:
        variant = resolve(name)[1]
    except UnknownName:
        variant = resolve(str(config["architecture"]))[1]
    channels, height, width = (int(value) for value in given.get("input_size", (3, variant.img_size, variant.img_size)))
    count = int(config.get("num_classes") or given.get("num_classes") or variant.num_classes)
    crop = float(given.get("crop_pct", 0.9))
    labels = given.get("label_names") or imagenet_names(count)
    squash = given.get("crop_mode") == "squash"
    return ModelSpec(
        variant.changed(img_size=height, in_chans=channels, num_classes=count),
        Preprocessing(
            (height, width),
            "squash" if squash else "shorter",
            0 if squash else max(min(height, width), int(height / crop)),
            given.get("interpolation", "bicubic"),
            tuple(float(value) for value in given.get("mean", Preprocessing().mean)),
            tuple(float(value) for value in given.get("std", Preprocessing().std)),
        ),
        tuple(str(label) for label in labels),
        name=name,
    )
