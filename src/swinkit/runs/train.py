"""A training run from recipe and data to folder and card."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinkit.data.names import part_path
from swinkit.errors import DatasetError, RunError
from swinkit.files import atomic_write, free_folder
from swinkit.models.swin import Swin
from swinkit.runs.card import EnergyMeter, run_card
from swinkit.runs.describe import described
from swinkit.runs.facts import facts_of
from swinkit.tasks.base import Task
from swinkit.tasks.recipes import load_recipe, parse_recipe
from swinkit.tasks.table import TASKS
from swinkit.training import loop, runs
from swinkit.training.checkpoint import Progress, read_progress
from swinkit.training.log import Metric, announce, counting, duration
from swinkit.training.recipe import Recipe, recipe_yaml, without_former


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
    train_data, val_data = task.open_parts(str(data), plan)
    spec, checkpoint = described(task, plan, train_data, folder.resolve().name)
    if plan.data.check and not resume:
        _refuse_broken((train_data, val_data))
    torch.manual_seed(plan.seed)  # the first weights too are the seed's, whatever ran before in this process
    network = task.trainable(plan, spec, train_data)
    if checkpoint is not None:
        said = task.fill(network, checkpoint, plan)
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
    chance = task.chance(spec)
    announce(
        f"{folder}: {said}; {frozen} tensors frozen; {len(train_data)} training and {len(val_data)} validation pictures, "
        f"{len(train_data.classes)} classes{', ' * bool(chance)}{chance}; {spec.preprocessing.describe()}"
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
    _say_what_came_out(folder, task, plan, work.metric, progress, str(data))
    return folder


def _say_what_came_out(folder: Path, task: Task, plan: Recipe, metric: Metric, progress: Progress, data: str) -> None:
    """Name the best score, its file, and what one does with it next."""
    file = folder / (runs.BEST if progress.best_epoch else runs.LAST)
    score = "never a finite score" if progress.best is None else f"best {metric.say(progress.best)}"
    length = f"{progress.epoch} epochs in {duration(progress.seconds)}"
    announce(f"trained for {length}; {score} at epoch {progress.best_epoch}; weights: {file}")
    val = str(part_path(data, plan.data.val)) if plan.data.val else data
    for place, words in enumerate(task.next_steps(str(folder), str(file), val)):
        announce(f"{'next:  ' if place == 0 else '       '}{shown_command(words)}")


def shown_command(words: Sequence[str]) -> str:
    """Return a command as one types it; words in capitals are to be replaced, and are not quoted."""
    return " ".join(word if word.isupper() else shlex.quote(word) for word in words)


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
        asked_recipe = load_recipe(recipe, list(overrides))
        stored = without_former(type(asked_recipe), read_progress(Path(out) / runs.STATE).recipe)
        asked = asked_recipe.model_dump(mode="json")
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
