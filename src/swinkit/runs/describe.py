"""What a run trains: the network's shape, the pictures' preparation, the names of the classes, and what it starts from."""

from __future__ import annotations

from typing import Any

from swinkit import weights
from swinkit.errors import RecipeError, RunError, SwinkitError
from swinkit.models.build import TIMM
from swinkit.models.variants import VARIANTS, resolve
from swinkit.specs import ModelSpec, Preprocessing
from swinkit.tasks.base import Task
from swinkit.training.recipe import Recipe
from swinkit.training.values import echo


def described(task: Task, plan: Recipe, data: Any, name_of_run: str) -> tuple[ModelSpec, Any]:
    """Return what is trained and the checkpoint it starts from (None: from scratch).

    Args:
        task: what is learnt.
        plan: options.
        data: the training part.
        name_of_run: which the weights carry from now on.

    Raises:
        RecipeError: values that do not fit together.
    """
    try:
        spec, checkpoint = _described(task, plan, data, name_of_run)
        return task.decide(spec, plan, data, None if checkpoint is None else checkpoint.spec), checkpoint
    except ValueError as error:  # of a shape or a preparation; sentences of ours are passed on as they are
        if isinstance(error, SwinkitError):
            raise
        raise RecipeError(f"the recipe does not fit {echo(plan.model)}: {str(error)[:300]}") from error


def _described(task: Task, plan: Recipe, data: Any, name_of_run: str) -> tuple[ModelSpec, Any]:
    checkpoint: weights.Checkpoint | None = None
    backbone = ""
    if plan.model.startswith(TIMM):
        if not task.timm_backbones:
            raise RunError(f"{plan.model}: timm's backbones carry no {task.noun} here; choose a Swin")
        name, variant, preprocessing, backbone = plan.model, VARIANTS["swin_tiny_patch4_window7_224"], None, plan.model
    elif plan.from_scratch:
        name, variant = resolve(plan.model)
        preprocessing = None
    else:
        checkpoint = weights.load_checkpoint(plan.model)
        checkpoint = task.head_for(checkpoint, plan, data)
        name, variant, preprocessing = checkpoint.spec.name, checkpoint.spec.variant, checkpoint.spec.preprocessing
        backbone = checkpoint.spec.backbone
    network = plan.network
    changes: dict[str, Any] = {"num_classes": len(data.classes) if task.has_classes else 0}
    changes["img_size"] = max(network.img_size or variant.img_size, network.min_img_size)
    for field in ("patch_size", "window_size", "drop_path", "pretrained_windows", "shift"):
        if getattr(network, field) is not None:
            changes[field] = getattr(network, field)
    if variant.version == 2 and checkpoint is not None and network.pretrained_windows is None:
        # Coordinates stay in the scale of the window the weights were trained with (arXiv 2111.09883, section 3.3).
        changes["pretrained_windows"] = variant.reference_windows
    variant = variant.changed(**changes)
    spec = ModelSpec(
        variant,
        _preprocessing(plan, variant.img_size, preprocessing),
        labels=tuple(data.classes) if task.has_classes else (),
        task=plan.task,
        name=name_of_run,
        facts={
            "started_from": "scratch" if checkpoint is None else plan.model,
            "network": name,
            **({"licence of weights": plan.licence} if plan.licence else {}),
            **({"licence of data": plan.data.licence} if plan.data.licence else {}),
        },
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
