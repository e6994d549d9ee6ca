"""A training run from recipe and data to folder and card, and the table of tasks it can be about."""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinkit import weights
from swinkit.cards import EnergyMeter, RunFacts, machine, run_card
from swinkit.data import ClassificationData, open_dataset, split_dataset
from swinkit.data.folders import MissingPart
from swinkit.errors import DatasetError, RunError
from swinkit.files import atomic_write, free_folder
from swinkit.labels import imagenet_names, imagenet_synsets
from swinkit.models.build import TIMM, build_network
from swinkit.models.simmim import SimMIM
from swinkit.models.swin import Swin
from swinkit.models.systems import segmenter_macs
from swinkit.models.variants import VARIANTS, count_macs, resolve
from swinkit.specs import ModelSpec, Preprocessing
from swinkit.tasks import segment
from swinkit.tasks.works import ClassifyWork, SimMimWork
from swinkit.training import loop, runs
from swinkit.training.checkpoint import Progress, read_progress
from swinkit.training.log import announce
from swinkit.training.recipe import Recipe, load_recipe, parse_recipe, recipe_yaml


def _simmim(recipe: Recipe, spec: ModelSpec) -> nn.Module:
    return SimMIM(spec.variant, recipe.masking.normalise_targets)


def _described_network(_recipe: Recipe, spec: ModelSpec) -> nn.Module:
    return build_network(spec)


def _as_it_is(spec: ModelSpec, _recipe: Recipe, _data: ClassificationData) -> ModelSpec:
    return spec


def _open(data: str, plan: Recipe) -> tuple[ClassificationData, ClassificationData]:
    """Return the training and the validation part, with the same classes."""
    if plan.data.train:
        train_data = open_dataset(str(Path(data) / plan.data.train))
        if not plan.data.val:
            return split_dataset(train_data, plan.data.val_fraction, plan.seed)
        val_data = open_dataset(str(Path(data) / plan.data.val))
    else:
        train_data = open_dataset(data, split="train")
        try:
            val_data = open_dataset(data, split="val")
        except MissingPart:
            return split_dataset(train_data, plan.data.val_fraction, plan.seed)
    if val_data.classes != train_data.classes:
        differing = sorted(set(train_data.classes) ^ set(val_data.classes))
        raise DatasetError(f"{data}: train and val have other classes (first: {differing[0]!r}); give both the same folders")
    return train_data, val_data


@dataclass(frozen=True)
class Task:
    """A row of the table.

    Args:
        open: (data, recipe) -> (training part, validation part), with the same classes.
        describe: (description so far, recipe, training part) -> the whole description.
        build: (recipe, description) -> the network.
        work: (recipe, description, training part, validation part) -> what the loop asks (``loop.Work``).
        has_classes: whether labels are used.
        metrics: of the report, for cards.
    """

    open: Callable[[str, Recipe], tuple[Any, Any]]
    describe: Callable[[ModelSpec, Recipe, Any], ModelSpec]
    build: Callable[[Recipe, ModelSpec], nn.Module]
    work: Callable[[Recipe, ModelSpec, Any, Any], loop.Work]
    has_classes: bool
    metrics: tuple[str, ...] = ()


_CLASSIFICATION = ("top1", "top5", "ece", "mAP", "f1_micro", "f1_macro")
TASKS: dict[str, Task] = {
    "classify": Task(_open, _as_it_is, _described_network, ClassifyWork, True, _CLASSIFICATION),
    "simmim": Task(_open, _as_it_is, _simmim, SimMimWork, False),
    "segment": Task(
        segment.open_parts, segment.describe, _described_network, segment.SegmentWork, True, ("mIoU", "mAcc", "aAcc")
    ),
}


def train(
    recipe: str,
    data: str | Path,
    model: str | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
) -> Path:
    """Train by a recipe and return the run's folder.

    Args:
        recipe: name of a packaged recipe or path of a YAML file.
        data: anything ``swinkit.data.open_dataset`` takes.
        model: variant or checkpoint to start from; None takes the recipe's.
        out: the run's folder; None gives ``runs/<recipe>``, ``runs/<recipe>2`` ...; with ``resume`` the folder to go on in.
        overrides: ``key=value`` changes to the recipe.
        resume: go on where the run in ``out`` stopped.

    Raises:
        RecipeError, DatasetError, CheckpointError, RunError: with what to do.
    """
    folder, plan = _folder_and_plan(recipe, model, out, overrides, resume)
    task = TASKS[plan.task]
    train_data, val_data = task.open(str(data), plan)
    spec, checkpoint = _description(plan, task, train_data)
    if plan.data.check and not resume:
        _refuse_broken((train_data, val_data))
    torch.manual_seed(plan.seed)  # the first weights too are the seed's, whatever ran before in this process
    network = task.build(plan, spec)
    if checkpoint is not None:
        said = weights.load_into(
            network.encoder if isinstance(network, SimMIM) else network, checkpoint, head="22k" if plan.map_22k else "new"
        )
    else:
        said = f"a new {spec.name}, {sum(p.numel() for p in network.parameters()):,} parameters"
    frozen = freeze(network, plan.network.freeze_stages)
    if plan.network.activation_checkpointing:
        for module in network.modules():
            if hasattr(module, "activation_checkpointing"):
                setattr(module, "activation_checkpointing", True)  # noqa: B010 - a Module's attributes are untyped
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        atomic_write(folder / "recipe.yaml", recipe_yaml(plan))
    work = task.work(plan, spec, train_data, val_data)
    chance = f", chance is {1 / len(spec.labels):.1%}" if task.has_classes and not spec.multi_label else ""
    announce(
        f"{folder}: {said}; {frozen} tensors frozen; {len(train_data)} training and {len(val_data)} validation pictures, "
        f"{len(train_data.classes)} classes{chance}; {spec.preprocessing.describe()}"
    )
    progress = loop.train(network, work, plan, folder, spec.variant.depths, resume, EnergyMeter)
    atomic_write(folder / "README.md", _card(folder, plan, spec, progress, network, train_data, val_data))
    return folder


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


def freeze(network: nn.Module, stages: int) -> int:
    """Fix the patch embedding and the first ``stages`` stages; return how many tensors that are. 0 fixes nothing."""
    if not stages:
        return 0
    body = getattr(network, "encoder", getattr(network, "backbone", network))
    if not isinstance(body, Swin):
        raise RunError("freeze_stages works on a Swin; this backbone is another's")
    fixed = [*body.patch_embed.parameters()]
    for stage in list(body.layers)[:stages]:
        fixed += stage.parameters()
    for parameter in fixed:
        parameter.requires_grad_(False)
    return len(fixed)


def _folder_and_plan(
    recipe: str, model: str | None, out: str | Path | None, overrides: Sequence[str], resume: bool
) -> tuple[Path, Recipe]:
    if resume:
        if out is None:
            raise RunError("--resume needs --out with the run's folder")
        stored = read_progress(Path(out) / runs.STATE).recipe
        asked = load_recipe(recipe, list(overrides)).model_dump(mode="json")
        if overrides:
            stored |= {key: asked[key] for key in {item.partition("=")[0].split(".")[0] for item in overrides}}
        return Path(out), parse_recipe(stored, f"{out}/{runs.STATE}")
    changes = [*overrides, *([f"model={model}"] if model else [])]
    plan = load_recipe(recipe, changes)
    if not plan.model:
        raise RunError(f"recipe {recipe} names no model; give one with --model")
    folder = Path(out) if out else free_folder(Path("runs") / Path(recipe).stem)
    if (folder / runs.STATE).exists():
        raise RunError(f"{folder} holds a run already; give another --out, or --resume to go on with it")
    return folder, plan


def _refuse_broken(parts: Sequence[Any]) -> None:
    """Decode every picture once; the first broken one and their number end the run before it starts."""
    pictures = [(part, index) for part in parts for index in range(len(part))]
    with ThreadPoolExecutor() as pool:
        broken = [reason for reason in pool.map(_unreadable, pictures) if reason]
    if broken:
        raise DatasetError(
            f"{len(broken)} pictures cannot be read (first: {broken[0]}); 'swinkit check-data' lists them all: remove them"
        )


def _unreadable(picture: tuple[Any, int]) -> str:
    """Return why a picture cannot be read, or nothing."""
    part, index = picture
    try:
        part.check(index)
    except ValueError as error:
        return str(error)
    return ""


def _description(plan: Recipe, task: Task, data: Any) -> tuple[ModelSpec, Any]:
    """Return what is trained and the checkpoint it starts from (None: from scratch)."""
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
        if task.has_classes and not plan.map_22k:
            checkpoint = with_head_of(checkpoint, data.classes)
        name, variant, preprocessing = checkpoint.spec.name, checkpoint.spec.variant, checkpoint.spec.preprocessing
        backbone, decoder = checkpoint.spec.backbone, checkpoint.spec.decoder
    network = plan.network
    changes: dict[str, Any] = {"num_classes": len(data.classes) if task.has_classes else 0}
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
        labels=tuple(data.classes) if task.has_classes else (),
        task=plan.task,
        name=name,
        multi_label=getattr(data, "multi_label", False) and task.has_classes,
        facts={
            "started_from": "scratch" if checkpoint is None else plan.model,
            **({"licence of weights": plan.licence} if plan.licence else {}),
            **({"licence of data": plan.data.licence} if plan.data.licence else {}),
        },
        decoder=decoder,
        backbone=backbone,
    )
    return task.describe(spec, plan, data), checkpoint


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


def _macs(spec: ModelSpec) -> int:
    if spec.decoder is None:
        return count_macs(spec.variant)
    if spec.backbone:
        return 0
    height, width = spec.preprocessing.size if spec.preprocessing.resize != "native" else (spec.variant.img_size,) * 2
    return sum(segmenter_macs(spec.variant, spec.decoder, (height, width), reordered=True).values())


def _card(
    folder: Path,
    plan: Recipe,
    spec: ModelSpec,
    progress: Progress,
    network: nn.Module,
    train_data: Any,
    val_data: Any,
) -> str:
    """Return the model card of a finished run."""
    hardware, software = machine()
    best = next((row for row in progress.rows if row["epoch"] == progress.best_epoch), progress.rows[-1])
    metrics: dict[str, float] = {name: best[name] for name in TASKS[plan.task].metrics if name in best}
    weights_file = folder / runs.BEST
    kind = "classes: " + ", ".join(spec.labels[:20]) + (" ..." if len(spec.labels) > 20 else "")
    return run_card(
        RunFacts(
            name=folder.name,
            description=f"A Swin Transformer ({spec.name}) trained by swinkit's recipe for the task {plan.task!r}.",
            preprocessing=spec.preprocessing.describe(),
            dataset="the user's data",
            recipe=recipe_yaml(plan),
            data=[
                f"training: {len(train_data)} pictures, validation: {len(val_data)}, fingerprint {progress.data}",
                kind if spec.labels else "labels were not used",
            ],
            metrics=metrics,
            intended=["photos like those it was trained on, with the preparation named below"],
            out_of_scope=[
                "pictures of other kinds: the answer is always one of the classes, however little it fits",
                "decisions about people, and any use in which a wrong answer does harm",
            ],
            limits=[
                f"measured on {len(val_data)} pictures: one picture is {1 / len(val_data):.2%}",
                "accuracy on other cameras, places or groups was not measured; 'swinkit evaluate --groups' does it",
                f"{progress.skipped} training steps were skipped because they were not finite",
            ],
            licences={"code": "apache-2.0", "weights": plan.licence or None, "data": plan.data.licence or None},
            task=spec.task,
            hardware=hardware,
            software=software,
            started=progress.started,
            ended=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=progress.seconds,
            images_per_second=progress.images / progress.seconds if progress.seconds else None,
            checkpoint_bytes=weights_file.stat().st_size if weights_file.is_file() else None,
            kilowatt_hours=progress.kilowatt_hours,
            carbon_kg=progress.carbon_kg,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            gflops=_macs(spec) / 1e9,
            base_model=spec.facts.get("started_from"),
            unknown={
                "kilowatt_hours": "no meter could be read",
                "carbon_kg": "the environment variable SWINKIT_COUNTRY did not say where the power came from",
                "licence weights": "nobody said it with --set licence=...; data and first checkpoint bind them",
                "licence data": "nobody said it with --set data.licence=...",
            },
        )
    )
