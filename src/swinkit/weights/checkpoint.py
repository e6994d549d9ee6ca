"""From anything a person may name to tensors under our names and everything that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from swinkit.embedded import EMBEDDED, embedded_path
from swinkit.errors import CheckpointError, KeysLeftOver, UnknownName, refusing
from swinkit.files import EXPORT_MANIFEST
from swinkit.models.classifier import SwinClassifier
from swinkit.models.variants import resolve
from swinkit.specs import ModelSpec, Variant
from swinkit.weights import heads
from swinkit.weights.convert import Neutral, to_neutral
from swinkit.weights.described import folder_description, own_description
from swinkit.weights.find import download, local_path, looked_up
from swinkit.weights.infer import infer_variant
from swinkit.weights.read import read_tensors


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
        source: name in ``EMBEDDED``; a .safetensors or .pth file in any dialect; a Hugging Face, timm or run folder ("~" is the
            user's own); a hub id (``owner/name``) or the name of a released variant, fetched through huggingface_hub.

    Raises:
        CheckpointError: nothing there, damaged, unsafe, or of no known dialect.
        UnknownName: no such file, folder or model.
    """
    text = str(source)
    if text in EMBEDDED:
        return _from_embedded(text)
    path = local_path(text)
    if path is not None:
        return _from_folder(path) if path.is_dir() else _from_file(path)
    embedded, repository = looked_up(text)
    return _from_embedded(embedded) if embedded else _from_folder(download(repository), name=repository)


def _from_embedded(name: str) -> Checkpoint:
    path = embedded_path(name)
    if path is None:
        raise CheckpointError(
            f"this version of swinkit has no embedded weights of {name} yet (README.md says why); give a file, a folder or a "
            f"hub id with --model, or train them: swinkit train {EMBEDDED[name].recipe} --data DIR"
        )
    return _from_file(path)


def _from_file(path: Path) -> Checkpoint:
    tensors, metadata = read_tensors(path)
    described = own_description(path, metadata)
    if described is not None and described.backbone:  # another code base's pyramid: its names are its own
        return Checkpoint(tensors, described, described.backbone, [], str(path))
    return _described_by(tensors, path, described.name if described else path.stem, described)


def _from_folder(path: Path, name: str = "") -> Checkpoint:
    if (path / EXPORT_MANIFEST).is_file():
        raise CheckpointError(f"{path}: is an export, whose weights are in another library's form; give what it was made from")
    tensors, metadata = read_tensors(path)
    described = own_description(path, metadata) or folder_description(path)
    if described is not None and described.backbone:
        return Checkpoint(tensors, described, described.backbone, [], str(path))
    checkpoint = _described_by(tensors, path, name or (described.name if described else "") or path.name, described)
    if described is None:
        checkpoint.notes.append("no config.json stands beside the weights")
    return checkpoint


def _described_by(tensors: dict[str, Tensor], path: Path, name: str, described: ModelSpec | None) -> Checkpoint:
    """Return a checkpoint of tensors in any dialect; every error names the file."""
    try:
        with refusing(CheckpointError, "its tensors are no Swin's", "give the file of another network's library to that library"):
            return _checkpoint(to_neutral(tensors), path, name, described)
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from error


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
    head = neutral.head or heads.of_bare(described)
    variant, fields = head.shape(neutral.apart, variant, described)
    if described is not None and heads.HEADS.get(described.task, head) is head:
        fields["task"] = described.task  # a task may do with another's head
    if described is not None and neutral.version == 1 and described.variant.window_size != variant.window_size:
        notes.append(f"the description says window {described.variant.window_size}, the bias tables {variant.window_size}")
    _refuse_incomplete(neutral, variant)
    notes += [f"left aside: {count} tensors under {word!r}" for word, count in sorted(neutral.aside.items())]
    if described is None:
        spec = head.undescribed(variant, fields, neutral.dialect, name)
        if variant.num_classes and not spec.labels:
            notes.append(f"no class names are known for {variant.num_classes} classes")
    else:
        if described.labels and variant.num_classes and len(described.labels) != variant.num_classes:
            raise CheckpointError(f"{len(described.labels)} class names for {variant.num_classes} classes; mend the description")
        spec = described.changed(variant=variant, name=name, **fields)
    return Checkpoint(neutral.tensors | neutral.apart, spec, neutral.dialect, notes, str(path))


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
