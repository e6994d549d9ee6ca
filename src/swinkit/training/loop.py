"""The training loop, for every task: a function that reads from top to bottom.

Randomness is a function of position: a sample's of (seed, epoch, index), the network's of (seed, step, process).
So a run that is killed and resumed computes, on CPU, the same bits as one that never stopped, and the number of
data workers changes nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from swinkit.errors import RunError
from swinkit.extras import need
from swinkit.training import checkpoint, runs
from swinkit.training.log import Log
from swinkit.training.optimiser import make_optimiser
from swinkit.training.recipe import CHANGEABLE_ON_RESUME, Recipe, parse_recipe
from swinkit.training.schedule import rate_at

MOST_SKIPPED_IN_A_ROW = 20
Batch = dict[str, Any]


class Work(Protocol):
    """What a task brings to the loop (``swinkit.tasks``). It must be picklable for data workers."""

    main_metric: str

    def __len__(self) -> int:
        """Return the number of training samples."""

    def fingerprint(self) -> str:
        """Return what tells this data from other data: a resumed run must find the same."""

    def sample(self, index: int, rng: np.random.Generator) -> Any:
        """Return one augmented sample; all chance comes from ``rng``."""

    def collate(self, samples: list[Any], rng: np.random.Generator) -> Batch:
        """Return a batch: ``images`` (B, C, H, W) and whatever ``losses`` needs."""

    def losses(self, model: Callable[..., Any], batch: Batch) -> dict[str, Tensor]:
        """Return named scalars; the loop goes down their sum."""

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, Any]:
        """Return the report on the validation part, ``main_metric`` (larger is better) among its numbers."""

    def draw(self, folder: Path, batch: Batch | None, report: dict[str, Any] | None) -> None:
        """Draw the first batch or a report into the run's folder."""

    def save(self, path: Path, tensors: dict[str, Tensor], progress: checkpoint.Progress) -> None:
        """Write weights and what belongs to them, whole or not at all."""


class _Batches(Dataset):
    """Micro-batches by position: item (epoch, step, number, indices) -> collated batch."""

    def __init__(self, work: Work, seed: int, rank: int) -> None:
        self.work, self.seed, self.rank = work, seed, rank

    def __getitem__(self, item: tuple[int, int, int, list[int]]) -> Batch:
        epoch, step, number, indices = item
        samples = [self.work.sample(i, np.random.default_rng([self.seed, epoch, i])) for i in indices]
        return self.work.collate(samples, np.random.default_rng([self.seed, step, self.rank, number, 1]))


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the samples in an epoch: a permutation that depends on seed and epoch only."""
    return np.random.default_rng([seed, epoch, 2]).permutation(count)


def plan(count: int, recipe: Recipe, rank: int, world: int, first_step: int) -> Iterator[tuple[int, int, int, list[int]]]:
    """Yield the micro-batches of one process from ``first_step`` on: (epoch, step, number, indices).

    A step's images are cut evenly over the processes; an epoch's last incomplete batch is left out (a data set
    smaller than the batch is one batch).
    """
    batch = min(recipe.batch_size, count)
    steps_per_epoch = count // batch
    for step in range(first_step, recipe.iterations or steps_per_epoch * recipe.epochs):
        epoch, place = divmod(step, steps_per_epoch)
        if place == 0 or step == first_step:
            order = epoch_order(count, recipe.seed, epoch)
        mine = order[place * batch : (place + 1) * batch][rank::world]
        size = recipe.micro_batch or len(mine)
        for number, start in enumerate(range(0, len(mine), size)):
            yield epoch, step, number, mine[start : start + size].tolist()


def train(
    model: nn.Module,
    work: Work,
    recipe: Recipe,
    folder: Path,
    depths: tuple[int, ...],
    resume: bool,
    meter: Callable[[], Any],
) -> checkpoint.Progress:
    """Train ``model`` in place and fill the run's folder.

    Args:
        model: on CPU; parameters that shall stay as they are have ``requires_grad=False``.
        work: the task's data, losses and evaluation.
        recipe: all options.
        folder: the run's folder (``runs.py`` says what is in it).
        depths: blocks of each stage, for layer-wise learning rates.
        resume: go on from ``state.safetensors``.
        meter: makes a context manager with ``kilowatt_hours``, ``carbon_kg`` and ``reason`` after its end.

    Returns:
        The final progress, with a row an epoch.

    Raises:
        RunError: nothing to resume, other data or recipe than before, too many non-finite steps, out of memory.
    """
    accelerator = _accelerator(recipe)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # statistics of the whole batch, not of a card's share
    wrapped, optimiser = accelerator.prepare(model, make_optimiser(model, depths, recipe))
    plain = accelerator.unwrap_model(wrapped)
    stepped = torch.compile(wrapped) if recipe.compile else wrapped
    ema = {n: v.detach().clone() for n, v in plain.state_dict().items()} if recipe.ema_decay else None
    progress = _start(folder, resume, recipe, work, (plain, optimiser.optimizer, ema))
    batch_size, steps_per_epoch = _sizes(work, recipe, accelerator)
    total_steps = recipe.iterations or steps_per_epoch * recipe.epochs
    log = Log(folder, recipe, progress, steps_per_epoch, accelerator.is_main_process)
    saved_at, began, seconds_before = time.monotonic(), time.monotonic(), progress.seconds

    def save() -> None:
        progress.seconds = seconds_before + time.monotonic() - began
        if accelerator.is_main_process:
            checkpoint.save_state(folder / runs.STATE, plain, optimiser.optimizer, ema, progress)

    with meter() as energy, _asked_to_stop() as stopping, log:
        batches = _loader(work, recipe, accelerator, progress.step)
        for step in range(progress.step, total_steps):
            if progress.finished:
                break
            rate = rate_at(step, total_steps, steps_per_epoch, recipe)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["rate_scale"]
            wrapped.train()
            loss, norm = _step(stepped, wrapped, work, batches, recipe, accelerator, step, folder)
            if math.isfinite(norm) and math.isfinite(loss):
                optimiser.step()
                progress.skipped_in_a_row = 0
                progress.epoch_loss += loss
                progress.epoch_steps += 1
                if ema is not None:
                    _follow(ema, plain, recipe.ema_decay)
            else:
                _skip(progress, plain, step, loss, norm, log)
            optimiser.zero_grad(set_to_none=True)
            progress.step, progress.images = step + 1, progress.images + batch_size
            log.step(step, loss, rate, norm, batch_size)
            if (step + 1) % steps_per_epoch == 0 or step + 1 == total_steps:
                _end_epoch(plain, ema, work, recipe, progress, folder, rate, accelerator, log, step + 1 == total_steps)
                save()
                saved_at = time.monotonic()
            elif time.monotonic() - saved_at > 60 * recipe.save_minutes:
                save()
                saved_at = time.monotonic()
            if stopping():
                save()
                raise KeyboardInterrupt
    _finish(progress, energy)
    save()
    return progress


def _sizes(work: Work, recipe: Recipe, accelerator: Any) -> tuple[int, int]:
    """Return (images of a step, steps of an epoch)."""
    batch_size = min(recipe.batch_size, len(work))
    if batch_size % accelerator.num_processes:
        raise RunError(
            f"a batch of {batch_size} images cannot be cut evenly over {accelerator.num_processes} processes; choose a multiple"
        )
    return batch_size, len(work) // batch_size


def _finish(progress: checkpoint.Progress, energy: Any) -> None:
    """Mark the run as done and add what this part of it has used."""
    progress.finished = True
    for name in ("kilowatt_hours", "carbon_kg"):
        new, old = getattr(energy, name), getattr(progress, name)
        setattr(progress, name, old if new is None else new + (old or 0.0))


def _accelerator(recipe: Recipe) -> Any:
    accelerate = need("accelerate", "train")
    return accelerate.Accelerator(mixed_precision="bf16" if recipe.precision == "bf16" else "no")


def _start(folder: Path, resume: bool, recipe: Recipe, work: Work, state: tuple) -> checkpoint.Progress:
    """Return fresh progress, or the saved one after checking that it belongs to this recipe and this data."""
    values = recipe.model_dump(mode="json")
    if not resume:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return checkpoint.Progress(recipe=values, data=work.fingerprint(), started=now)
    progress = checkpoint.read_progress(folder / runs.STATE)
    if progress.data != work.fingerprint():
        raise RunError(f"{folder} was trained on other data; resume with the same files or start anew")
    # Read as a recipe: a run started before a key existed had its default.
    started = parse_recipe(progress.recipe, str(folder / runs.STATE)).model_dump(mode="json")
    for name, value in values.items():
        if name not in CHANGEABLE_ON_RESUME and started[name] != value:
            raise RunError(
                f"{folder} was started with {name}={started[name]!r}, not {value!r}; only "
                f"{' and '.join(sorted(CHANGEABLE_ON_RESUME))} may change when a run is resumed"
            )
    checkpoint.load_state(folder / runs.STATE, *state)
    return progress


def _loader(work: Work, recipe: Recipe, accelerator: Any, first_step: int) -> Iterator[Batch]:
    rank, world = accelerator.process_index, accelerator.num_processes
    items = list(plan(len(work), recipe, rank, world, first_step))
    loader = DataLoader(
        _Batches(work, recipe.seed, rank),
        sampler=items,
        batch_size=None,
        num_workers=recipe.workers,
        pin_memory=accelerator.device.type == "cuda",
        multiprocessing_context="spawn" if recipe.workers and accelerator.device.type == "cuda" else None,
    )
    return iter(loader)


def _step(
    stepped: Callable[..., Any],
    wrapped: nn.Module,
    work: Work,
    batches: Iterator[Batch],
    recipe: Recipe,
    accelerator: Any,
    step: int,
    folder: Path,
) -> tuple[float, float]:
    """Run the micro-batches of one step forward and back; return the mean loss and the gradient's norm."""
    per_process = min(recipe.batch_size, len(work)) // accelerator.num_processes
    size = recipe.micro_batch or per_process
    count = -(-per_process // size)
    total = torch.zeros((), device=accelerator.device)
    for number in range(count):
        batch = {
            name: value.to(accelerator.device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in next(batches).items()
        }
        if step == 0 and number == 0 and accelerator.is_main_process:
            work.draw(folder, batch, None)
        seed = np.random.SeedSequence([recipe.seed, step, accelerator.process_index, number, 3])
        torch.manual_seed(int(seed.generate_state(1)[0]))
        share = batch["images"].shape[0] / per_process
        last = number == count - 1
        try:
            with contextlib.nullcontext() if last else accelerator.no_sync(wrapped):
                loss = torch.stack(list(work.losses(stepped, batch).values())).sum() * share
                accelerator.backward(loss)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"out of memory with {batch['images'].shape[0]} images of {tuple(batch['images'].shape[-2:])} pixels at "
                f"once; set micro_batch={max(1, size // 2)} (same result, slower) or "
                "network.activation_checkpointing=true (about 30 % slower)"
            ) from error
        total += loss.detach()
    limit = recipe.optimiser.clip_norm or math.inf
    norm = accelerator.clip_grad_norm_(wrapped.parameters(), limit)
    total = accelerator.reduce(total, "mean")
    return float(total), float(norm)


def _skip(progress: checkpoint.Progress, model: nn.Module, step: int, loss: float, norm: float, log: Log) -> None:
    """Count and name a step whose loss or gradient is not finite; stop when they do not end."""
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    broken = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    where = f"gradient of {broken[0]} and {len(broken) - 1} more" if broken else "loss"
    log.say(f"step {step}: not finite (loss {loss:g}, gradient norm {norm:g}; {where}); step skipped")
    if progress.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
        raise RunError(
            f"{progress.skipped_in_a_row} steps in a row were not finite (the last: step {step}, {where}); the weights "
            "before them are kept: lower optimiser.learning_rate, set precision=fp32 or check the data"
        )


def _follow(ema: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            ema[name].lerp_(value, 1.0 - decay)
        else:  # a BatchNorm's number of batches
            ema[name].copy_(value)


def _end_epoch(
    model: nn.Module,
    ema: dict[str, Tensor] | None,
    work: Work,
    recipe: Recipe,
    progress: checkpoint.Progress,
    folder: Path,
    rate: float,
    accelerator: Any,
    log: Log,
    last: bool,
) -> None:
    """Evaluate, keep the best weights, write the tables and pictures of the run."""
    progress.epoch += 1
    mean_loss = progress.epoch_loss / progress.epoch_steps if progress.epoch_steps else math.nan
    row: dict[str, Any] = {
        "epoch": progress.epoch,
        "step": progress.step,
        "learning_rate": rate,
        "train_loss": mean_loss,
    }
    progress.epoch_loss, progress.epoch_steps = 0.0, 0
    report = None
    best = False
    with _weights(model, ema):
        if last or progress.epoch % recipe.evaluate_every == 0:
            report = work.evaluate(model, accelerator.device)
            row |= {name: round(value, 6) for name, value in report.items() if isinstance(value, int | float)}
            score = report[work.main_metric]
            best = progress.best is None or score > progress.best
            progress.since_best = 0 if best else progress.since_best + 1
            if best:
                progress.best, progress.best_epoch = score, progress.epoch
        tensors = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    progress.finished = last or bool(recipe.patience and progress.since_best >= recipe.patience)
    row |= {"images_per_second": log.images_per_second(), "seconds": log.seconds(), "skipped": progress.skipped}
    progress.rows.append(row)
    if not accelerator.is_main_process:
        return
    work.save(folder / runs.LAST, tensors, progress)
    if best:
        work.save(folder / runs.BEST, tensors, progress)
    if report is not None:
        work.draw(folder, None, report)
    runs.write_results(folder, progress.rows)
    log.epoch(row)


@contextlib.contextmanager
def _weights(model: nn.Module, ema: dict[str, Tensor] | None) -> Iterator[None]:
    """Put the running mean of the weights in for a while."""
    if ema is None:
        yield
        return
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(ema)
    try:
        yield
    finally:
        model.load_state_dict(own)


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a wish, granted after the step; a second one ends at once."""
    asked: list[int] = []
    before = {}

    def note(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    with contextlib.suppress(ValueError):  # not the main thread: signals stay as they are
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
