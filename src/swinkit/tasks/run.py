"""A training run from recipe and data to folder and card, and the table of tasks it can be about."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinkit import weights
from swinkit.cards import EnergyMeter, run_card
from swinkit.data import ClassificationData, open_dataset, split_dataset
from swinkit.data.folders import MissingPart
from swinkit.data.names import part_path
from swinkit.errors import DatasetError, RunError
from swinkit.files import atomic_write, free_folder
from swinkit.models.build import build_network
from swinkit.models.simmim import SimMIM
from swinkit.models.swin import Swin
from swinkit.specs import ModelSpec
from swinkit.tasks import segment
from swinkit.tasks.describe import described
from swinkit.tasks.facts import facts_of
from swinkit.tasks.works import ClassifyWork, SimMimWork
from swinkit.training import loop, runs
from swinkit.training.checkpoint import Progress, read_progress
from swinkit.training.log import announce, counting, duration, percent_or_number
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
        train_data = open_dataset(part_path(data, plan.data.train))
        if not plan.data.val:
            return split_dataset(train_data, plan.data.val_fraction, plan.seed)
        val_data = open_dataset(part_path(data, plan.data.val))
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
    """

    open: Callable[[str, Recipe], tuple[Any, Any]]
    describe: Callable[[ModelSpec, Recipe, Any], ModelSpec]
    build: Callable[[Recipe, ModelSpec], nn.Module]
    work: Callable[[Recipe, ModelSpec, Any, Any], loop.Work]
    has_classes: bool


TASKS: dict[str, Task] = {
    "classify": Task(_open, _as_it_is, _described_network, ClassifyWork, True),
    "simmim": Task(_open, _as_it_is, _simmim, SimMimWork, False),
    "segment": Task(segment.open_parts, segment.describe, _described_network, segment.SegmentWork, True),
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
    spec, checkpoint = described(plan, train_data, task.has_classes, folder.resolve().name)
    spec = task.describe(spec, plan, train_data)
    if plan.data.check and not resume:
        _refuse_broken((train_data, val_data))
    torch.manual_seed(plan.seed)  # the first weights too are the seed's, whatever ran before in this process
    network = task.build(plan, spec)
    if checkpoint is not None:
        said = weights.load_into(
            network.encoder if isinstance(network, SimMIM) else network, checkpoint, head="22k" if plan.map_22k else "new"
        )
    else:
        said = f"a new {spec.facts['network']}, {sum(p.numel() for p in network.parameters()):,} parameters"
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
    if plan.compile:
        announce("torch.compile prepares the network during the first step, which takes a minute or two")
    try:
        progress = loop.train(network, work, plan, folder, spec.variant.depths, resume, EnergyMeter)
    except KeyboardInterrupt as stop:
        if (folder / runs.STATE).exists():
            again = shlex.join(["swinkit", "train", recipe, "--data", str(data), "--resume", "--out", str(folder)])
            where = str(stop) if isinstance(stop, loop.Stopped) else "stopped at once, what came after the last save is lost"
            announce(f"{where}; go on with: {again}")
        raise
    atomic_write(folder / "README.md", run_card(facts_of(folder, plan, spec, progress, network, (train_data, val_data))))
    _say_what_came_out(folder, plan, work.main_metric, progress, str(data))
    return folder


def _say_what_came_out(folder: Path, plan: Recipe, metric: str, progress: Progress, data: str) -> None:
    """Name the best score, its file, and what one does with it next."""
    file = folder / (runs.BEST if progress.best_epoch else runs.LAST)
    score = "never a finite score" if progress.best is None else f"best {percent_or_number(metric, progress.best)}"
    length = f"{progress.epoch} epochs in {duration(progress.seconds)}"
    announce(f"trained for {length}; {score} at epoch {progress.best_epoch}; weights: {file}")
    if plan.task == "simmim":
        announce(f"next:  {shlex.join(['swinkit', 'train', 'finetune', '--model', str(file), '--data'])} FOLDER")
        return
    val = str(part_path(data, plan.data.val)) if plan.data.val else data
    announce(f"next:  {shlex.join(['swinkit', 'evaluate', str(folder), '--data', val])}")
    announce(f"       swinkit predict PHOTOS {shlex.join(['--model', str(folder)])}")


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
    broken = []
    with ThreadPoolExecutor() as pool, counting("checking pictures", len(pictures)) as advance:
        for done, reason in enumerate(pool.map(_unreadable, pictures), 1):
            broken += [reason] if reason else []
            advance(done, len(pictures))
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
