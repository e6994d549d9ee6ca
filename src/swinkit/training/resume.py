"""Where a run begins: anew, or where its state says, once the state is known to be this run's."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from swinkit.errors import RunError
from swinkit.training import checkpoint, runs
from swinkit.training.batches import Work
from swinkit.training.log import announce
from swinkit.training.recipe import CHANGEABLE_ON_RESUME, Recipe, without_former
from swinkit.training.values import echo


def first_progress(
    folder: Path, resume: bool, recipe: Recipe, work: Work, sizes: tuple[int, int, int], targets: tuple[Any, ...]
) -> checkpoint.Progress:
    """Return fresh progress, or the saved one after checking that it belongs to this recipe, this data and this network."""
    values = recipe.model_dump(mode="json")
    if not resume:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return checkpoint.Progress(recipe=values, data=work.fingerprint(), started=now)
    path = folder / runs.STATE
    state = checkpoint.read_state(path)
    progress = state.progress
    if progress.data != work.fingerprint():
        raise RunError(f"{folder} was trained on other data; resume with the same files or start anew")
    # Read as a recipe: a run started before a key existed had its default.
    try:
        started = type(recipe).model_validate(without_former(type(recipe), progress.recipe)).model_dump(mode="json")
    except ValueError as error:
        raise RunError(f"{path}: its recipe cannot be read ({' '.join(str(error).split())[:200]}); {checkpoint.ANEW}") from None
    for name, value in values.items():
        if name not in CHANGEABLE_ON_RESUME and started[name] != value:
            raise RunError(
                f"{folder} was started with {name}={echo(started[name])}, not {echo(value)}; only "
                f"{' and '.join(sorted(CHANGEABLE_ON_RESUME))} may change when a run is resumed"
            )
    _refuse_impossible(progress, sizes, work.metric.name, recipe.patience, path)
    checkpoint.load_state(state, path, *targets)
    if not state.verified:
        announce(f"{path}: a version without checksums saved it, so it could not be verified that it is as it was saved")
    return progress


def _refuse_impossible(
    progress: checkpoint.Progress, sizes: tuple[int, int, int], metric: str, patience: int, path: Path
) -> None:
    """Compare the counters with one another: an edited ``step`` would end the run at once, and call it trained."""
    batch_size, steps_per_epoch, total_steps = sizes
    step, ended = progress.step, progress.step == total_steps and progress.step % steps_per_epoch > 0
    in_epoch = 0 if ended else step - progress.epoch * steps_per_epoch
    scores = {row.get("epoch"): row.get(metric) for row in progress.rows}
    score = scores.get(progress.best_epoch)
    stopped_early = bool(patience) and progress.since_best >= patience and step % steps_per_epoch == 0
    rules = {
        f"step {step} of {total_steps}": step <= total_steps,
        f"epoch {progress.epoch} at step {step}": progress.epoch == step // steps_per_epoch + ended,
        f"{len(progress.rows)} rows of epochs": list(scores) == list(range(1, progress.epoch + 1)),
        f"{progress.images} images": progress.images == step * batch_size,
        f"{progress.skipped} skipped steps": progress.skipped_in_a_row <= progress.skipped <= step,
        f"{progress.epoch_steps} steps of an epoch": progress.epoch_steps <= in_epoch,
        f"the best at epoch {progress.best_epoch}": (progress.best is None) == (progress.best_epoch == 0)
        and (progress.best is None or (score is not None and abs(score - progress.best) <= 1e-5 * max(1, abs(score)))),
        "finished": not progress.finished or step == total_steps or stopped_early,
        "negative seconds": progress.seconds >= 0,
    }
    for rule, holds in rules.items():
        if not holds:
            raise RunError(f"{path}: the counters do not fit together ({rule}); {checkpoint.ANEW}")
