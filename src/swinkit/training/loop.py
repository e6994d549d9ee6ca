"""The training loop, for every task: a function that reads from top to bottom.

Randomness is a function of position: a sample's of (seed, epoch, index), the network's of (seed, step, process).
So a run that is killed and resumed computes, on CPU, the same bits as one that never stopped, and the number of
data workers changes nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swinkit.errors import RunError
from swinkit.extras import need
from swinkit.training import checkpoint, runs
from swinkit.training.batches import Batch, Work, loader
from swinkit.training.log import Log
from swinkit.training.optimiser import make_optimiser
from swinkit.training.recipe import Recipe
from swinkit.training.resume import first_progress
from swinkit.training.schedule import rate_at

MOST_SKIPPED_IN_A_ROW = 20
SECONDS_BETWEEN_CURVES = 30.0  # drawing takes as long as an epoch of a small run
Meter = Callable[[], contextlib.AbstractContextManager[Any]]


class Stopped(KeyboardInterrupt):
    """Somebody asked the run to stop (Ctrl-C, SIGTERM), and its state is saved; the text says where it stands."""


def train(
    model: nn.Module,
    work: Work,
    recipe: Recipe,
    folder: Path,
    depths: tuple[int, ...],
    resume: bool,
    meter: Meter,
) -> checkpoint.Progress:
    """Train ``model`` in place and fill the run's folder.

    Args:
        model: on CPU; parameters that shall stay as they are have ``requires_grad=False``.
        work: the task's data, losses and evaluation.
        recipe: all options.
        folder: the run's folder (``runs.py`` says what is in it).
        depths: blocks of each stage, for layer-wise learning rates.
        resume: go on from ``state.safetensors``.
        meter: makes a context manager with ``measure()``, which brings ``kilowatt_hours`` and ``carbon_kg`` up to date.

    Returns:
        The final progress, with a row an epoch.

    Raises:
        RunError: nothing to resume, other data or recipe than before, a damaged state, too many non-finite steps, out of
            memory, or the folder was removed.
        Stopped: somebody asked for it; the state is saved.
    """
    accelerator = _accelerator(recipe)
    runs.sweep_run(folder)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # statistics of the whole batch, not of a card's share
    wrapped, optimiser = accelerator.prepare(model, make_optimiser(model, depths, recipe))
    plain = accelerator.unwrap_model(wrapped)
    stepped = torch.compile(wrapped) if recipe.compile else wrapped
    ema = {n: v.detach().clone() for n, v in plain.state_dict().items()} if recipe.ema_decay else None
    batch_size, steps_per_epoch, total_steps = sizes = _sizes(work, recipe, accelerator)
    progress = first_progress(folder, resume, recipe, work, sizes, (plain, optimiser.optimizer, ema))
    files = runs.Written(folder, {runs.STATE: resume, runs.LAST: progress.epoch > 0, runs.BEST: progress.best_epoch > 0})
    log = Log(folder, recipe, progress, steps_per_epoch, work.main_metric, accelerator.is_main_process)
    run = _Run(work, recipe, accelerator, plain, optimiser.optimizer, ema, progress, files, log, _Spent(progress, meter()))
    if resume:
        log.say(f"{folder}: {log.going_on()}")

    with run.spent, _asked_to_stop(log) as stopping, log:
        batches = loader(work, recipe, accelerator, progress.step)
        for step in range(progress.step, total_steps):
            if progress.finished:
                break
            rate = rate_at(step, total_steps, steps_per_epoch, recipe)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["rate_scale"]
            wrapped.train()
            loss, norm = _step(run, stepped, wrapped, batches, step)
            if math.isfinite(norm) and math.isfinite(loss):
                with _memory_in_words(recipe, "the optimiser's state"):
                    optimiser.step()
                progress.skipped_in_a_row = 0
                progress.epoch_loss += loss
                progress.epoch_steps += 1
                if ema is not None:
                    _follow(ema, plain, recipe.ema_decay)
            else:
                _skip(run, step, loss, norm)
            optimiser.zero_grad(set_to_none=True)
            progress.step, progress.images = step + 1, progress.images + batch_size
            log.step(step, loss, rate, norm, batch_size)
            if (step + 1) % steps_per_epoch == 0 or step + 1 == total_steps:
                _end_epoch(run, rate, last=step + 1 == total_steps)
            elif time.monotonic() - run.saved_at > 60 * recipe.save_minutes:
                run.save()
            if stopping() and not progress.finished:
                run.save()
                if accelerator.is_main_process:
                    runs.write_results(folder, progress.rows)
                raise Stopped(f"stopped after epoch {progress.epoch} of {log.epochs} (step {step + 1:,} of {total_steps:,})")
    progress.finished = True
    run.save()
    return progress


@dataclass
class _Run:
    """What the steps and the epochs of a run share."""

    work: Work
    recipe: Recipe
    accelerator: Any
    model: nn.Module  # without the wrapping of several processes
    optimiser: torch.optim.Optimizer
    ema: dict[str, Tensor] | None
    progress: checkpoint.Progress
    files: runs.Written
    log: Log
    spent: _Spent
    saved_at: float = field(default_factory=time.monotonic)
    drawn_at: float = -math.inf

    def save(self) -> None:
        """Write the state."""
        self.spent.note()
        if self.accelerator.is_main_process:
            self.files.check()
            path = self.files.folder / runs.STATE
            checkpoint.save_state(path, self.model, self.optimiser, self.ema, self.progress)
            self.files.add(runs.STATE)
        self.saved_at = time.monotonic()


class _Spent:
    """Seconds and energy of all parts of a run: what earlier parts used stands in the state they saved."""

    def __init__(self, progress: checkpoint.Progress, meter: contextlib.AbstractContextManager[Any]) -> None:
        self.progress, self.meter, self.began = progress, meter, time.monotonic()
        self.before = {name: getattr(progress, name) or 0.0 for name in ("seconds", "kilowatt_hours", "carbon_kg")}

    def __enter__(self) -> _Spent:
        self.energy = self.meter.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self.meter.__exit__(*reason)

    def note(self) -> None:
        """Bring the counters up to date."""
        self.progress.seconds = self.before["seconds"] + time.monotonic() - self.began
        self.energy.measure()
        for name in ("kilowatt_hours", "carbon_kg"):
            new = getattr(self.energy, name)
            if new is not None:
                setattr(self.progress, name, self.before[name] + new)


def _sizes(work: Work, recipe: Recipe, accelerator: Any) -> tuple[int, int, int]:
    """Return (images of a step, steps of an epoch, steps of the run)."""
    batch_size = min(recipe.batch_size, len(work))
    if batch_size % accelerator.num_processes:
        raise RunError(
            f"a batch of {batch_size} images cannot be cut evenly over {accelerator.num_processes} processes; choose a multiple"
        )
    steps_per_epoch = len(work) // batch_size
    return batch_size, steps_per_epoch, recipe.iterations or steps_per_epoch * recipe.epochs


def _accelerator(recipe: Recipe) -> Any:
    accelerate = need("accelerate", "train")
    return accelerate.Accelerator(mixed_precision="bf16" if recipe.precision == "bf16" else "no")


def _step(run: _Run, stepped: Callable[..., Any], wrapped: nn.Module, batches: Iterator[Batch], step: int) -> tuple[float, float]:
    """Run the micro-batches of one step forward and back; return the mean loss and the gradient's norm."""
    work, recipe, accelerator = run.work, run.recipe, run.accelerator
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
            work.draw(run.files.folder, batch, None)
        seed = np.random.SeedSequence([recipe.seed, step, accelerator.process_index, number, 3])
        torch.manual_seed(int(seed.generate_state(1)[0]))
        shape = batch["images"].shape
        share = shape[0] / per_process
        last = number == count - 1
        with (
            _memory_in_words(recipe, f"{shape[0]} images of {tuple(shape[-2:])} pixels at once", size),
            contextlib.nullcontext() if last else accelerator.no_sync(wrapped),
        ):
            loss = torch.stack(list(work.losses(stepped, batch).values())).sum() * share
            accelerator.backward(loss)
        total += loss.detach()
    limit = recipe.optimiser.clip_norm or math.inf
    norm = accelerator.clip_grad_norm_(wrapped.parameters(), limit)
    total = accelerator.reduce(total, "mean")
    return float(total), float(norm)


@contextlib.contextmanager
def _memory_in_words(recipe: Recipe, what: str, size: int | None = None) -> Iterator[None]:
    """Turn memory that cannot be had, on an accelerator or a CPU, into what to do about it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        half = max(1, (size or recipe.micro_batch or recipe.batch_size) // 2)
        raise RunError(
            f"out of memory with {what}; set micro_batch={half} (same result, slower) or "
            "network.activation_checkpointing=true (about 30 % slower)"
        ) from error


def _skip(run: _Run, step: int, loss: float, norm: float) -> None:
    """Count and name a step whose loss or gradient is not finite; stop when they do not end."""
    progress = run.progress
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    broken = [n for n, p in run.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    where = f"gradient of {broken[0]} and {len(broken) - 1} more" if broken else "loss"
    run.log.say(f"step {step}: not finite (loss {loss:g}, gradient norm {norm:g}; {where}); step skipped")
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


def _end_epoch(run: _Run, rate: float, last: bool) -> None:
    """Evaluate, keep the best weights, write the state, the tables and the pictures of the run."""
    work, recipe, progress, log = run.work, run.recipe, run.progress, run.log
    progress.epoch += 1
    row: dict[str, Any] = {
        "epoch": progress.epoch,
        "step": progress.step,
        "learning_rate": rate,
        "train_loss": progress.epoch_loss / progress.epoch_steps if progress.epoch_steps else None,
    }
    pace = log.images_per_second()
    progress.epoch_loss, progress.epoch_steps = 0.0, 0
    report = None
    best = False
    with _weights(run.model, run.ema), log.pause(), _memory_in_words(recipe, "the validation pictures"):
        if last or progress.epoch % recipe.evaluate_every == 0:
            report = work.evaluate(run.model, run.accelerator.device, log.validation)
            row |= _numbers(report)
            score = report[work.main_metric]
            best = math.isfinite(score) and (progress.best is None or score > progress.best)
            progress.since_best = 0 if best else progress.since_best + 1
            if best:
                progress.best, progress.best_epoch = score, progress.epoch
        tensors = {name: value.detach().cpu().clone() for name, value in run.model.state_dict().items()}
    progress.finished = last or bool(recipe.patience and progress.since_best >= recipe.patience)
    run.spent.note()
    row |= {"images_per_second": pace, "seconds": round(progress.seconds, 1), "skipped": progress.skipped}
    progress.rows.append(row)
    if run.accelerator.is_main_process:
        run.files.check()
        work.save(run.files.add(runs.LAST), tensors, progress)
        if best:
            work.save(run.files.add(runs.BEST), tensors, progress)
            work.draw(run.files.folder, None, report)  # card, pictures and weights are of one epoch
        draw = progress.finished or time.monotonic() - run.drawn_at > SECONDS_BETWEEN_CURVES
        runs.write_results(run.files.folder, progress.rows, draw)
        run.drawn_at = time.monotonic() if draw else run.drawn_at
    run.save()
    log.epoch(row)


def _numbers(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a report has of plain numbers, for a row; the loss as that of the validation part."""
    found = {name: value for name, value in report.items() if isinstance(value, int | float)}
    if "loss" in found:
        found = {"validation_loss": found.pop("loss"), **found}
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in found.items()}


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
def _asked_to_stop(log: Log) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a wish, granted after the step; a second one ends at once."""
    asked: list[int] = []
    before = {}

    def note(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        if not log.console.quiet:  # written past Python's buffers, which a signal may have interrupted
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping after this step or validation, the state is saved; once more ends at once\n")

    with contextlib.suppress(ValueError):  # not the main thread: signals stay as they are
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
