"""What a run trains: the network's shape, the pictures' preparation, the names of the classes, and what it starts from."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from swinkit import weights
from swinkit.errors import RecipeError, RunError, SwinkitError
from swinkit.labels import imagenet_names, imagenet_synsets
from swinkit.models.build import TIMM
from swinkit.models.variants import VARIANTS, resolve
from swinkit.specs import ModelSpec, Preprocessing
from swinkit.training.recipe import Recipe
from swinkit.training.values import echo


def described(plan: Recipe, data: Any, has_classes: bool, name_of_run: str) -> tuple[ModelSpec, Any]:
    """Return what is trained and the checkpoint it starts from (None: from scratch).

    Args:
        plan: options.
        data: the training part.
        has_classes: whether the task uses its labels.
        name_of_run: which the weights carry from now on.

    Raises:
        RecipeError: values that do not fit together.
    """
    try:
        return _described(plan, data, has_classes, name_of_run)
    except ValueError as error:  # of a shape or a preparation; sentences of ours are passed on as they are
        if isinstance(error, SwinkitError):
            raise
        raise RecipeError(f"the recipe does not fit {echo(plan.model)}: {str(error)[:300]}") from error


def _described(plan: Recipe, data: Any, has_classes: bool, name_of_run: str) -> tuple[ModelSpec, Any]:
    checkpoint: weights.Checkpoint | None = None
    backbone, decoder = "", None
    if plan.model.startswith(TIMM):
        if plan.task != "segment":
            raise RunError(f"{plan.model}: timm's backbones carry segmenters only; choose a Swin")
        name, variant, preprocessing, backbone = plan.model, VARIANTS["swin_tiny_patch4_window7_224"], None, plan.model
    elif plan.from_scratch:
        name, variant = resolve(plan.model)
        preprocessing = None
    else:
        checkpoint = weights.load_checkpoint(plan.model)
        if has_classes and not plan.map_22k:
            checkpoint = with_head_of(checkpoint, data.classes)
        name, variant, preprocessing = checkpoint.spec.name, checkpoint.spec.variant, checkpoint.spec.preprocessing
        backbone, decoder = checkpoint.spec.backbone, checkpoint.spec.decoder
    network = plan.network
    changes: dict[str, Any] = {"num_classes": len(data.classes) if has_classes else 0}
    changes["img_size"] = max(network.img_size or variant.img_size, network.min_img_size)
    for field in ("patch_size", "window_size", "drop_path", "pretrained_windows", "shift"):
        if getattr(network, field) is not None:
            changes[field] = getattr(network, field)
    if variant.version == 2 and checkpoint is not None and network.pretrained_windows is None:
        # Coordinates stay in the scale of the window the weights were trained with (arXiv 2111.09883, section 3.3).
        windows = zip(variant.pretrained_windows, variant.stage_windows, strict=True)
        changes["pretrained_windows"] = tuple(old or window for old, window in windows)
    variant = variant.changed(**changes)
    spec = ModelSpec(
        variant,
        _preprocessing(plan, variant.img_size, preprocessing),
        labels=tuple(data.classes) if has_classes else (),
        task=plan.task,
        name=name_of_run,
        multi_label=getattr(data, "multi_label", False) and has_classes,
        facts={
            "started_from": "scratch" if checkpoint is None else plan.model,
            "network": name,
            **({"licence of weights": plan.licence} if plan.licence else {}),
            **({"licence of data": plan.data.licence} if plan.data.licence else {}),
        },
        decoder=decoder,
        backbone=backbone,
    )
    return spec, checkpoint


def _preprocessing(plan: Recipe, side: int, base: Preprocessing | None) -> Preprocessing:
    """Return the checkpoint's preparation at the run's size, or the authors' for a new network."""
    test = plan.test
    resize = test.resize or (base.resize if base else "shorter")
    common: dict[str, Any] = {"interpolation": test.interpolation or (base.interpolation if base else "bicubic")}
    common |= {"mean": base.mean, "std": base.std} if base else {}
    if test.antialias is not None or base is not None:
        common["antialias"] = test.antialias if test.antialias is not None else base.antialias  # type: ignore[union-attr]
    if resize in ("box", "native"):
        size = test.box or (base.size if base and base.resize == resize else (side, 4 * side))
        return Preprocessing(size, resize, **common)
    if resize == "squash":
        shorter = 0
    elif plan.test.resize_to:
        shorter = plan.test.resize_to
    elif base is not None and base.resize == "shorter":
        shorter = max(side, round(side * base.resize_to / min(base.size)))
    else:
        shorter = int(256 / 224 * side)
    return Preprocessing(
        (side, side),
        resize,
        shorter,
        **common,
    )


def with_head_of(checkpoint: weights.Checkpoint, classes: Sequence[str]) -> weights.Checkpoint:
    """Return the checkpoint with a head for these classes: its own rows by name, or none where a name is new.

    As many classes are not the same classes; a head whose names nobody knows is taken as it is.
    """
    known: Sequence[str] = checkpoint.spec.labels
    parts = [name for name in checkpoint.tensors if name.startswith("head.") or ".classifier." in name]
    if not known or not parts or list(known) == list(classes):
        return checkpoint
    synsets = imagenet_synsets(len(known))
    if known == imagenet_names(len(known)) and set(classes) <= set(synsets):
        known = synsets  # folders called by WordNet ids, as ImageNet comes
    count = Counter(known)  # two classes of ImageNet are called "crane": a folder of that name may mean either
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in parts}
    if all(count[name] == 1 for name in classes):
        places = {name: place for place, name in enumerate(known)}
        rows = [places[name] for name in classes]
        tensors |= {part: checkpoint.tensors[part][rows] for part in parts}
    return dataclasses.replace(checkpoint, tensors=tensors)
