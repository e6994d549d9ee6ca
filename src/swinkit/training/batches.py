"""Batches by position: what a task brings to the loop, in which order its samples come, and who reads them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from swinkit.training import checkpoint
from swinkit.training.log import Metric
from swinkit.training.recipe import Recipe

Batch = dict[str, Any]
Counting = Callable[[int, int], None]  # (done, total)
Item = tuple[int, int, int, list[int]]  # epoch, step, number of the micro-batch, indices


class Work(Protocol):
    """What a task brings to the loop besides a network (``swinkit.tasks``). It must be picklable for data workers."""

    metric: Metric  # of the report; picks the best weights

    def __len__(self) -> int:
        """Return the number of training samples."""

    def fingerprint(self) -> str:
        """Return what tells this data from other data: a resumed run must find the same."""

    def sample(self, index: int, rng: np.random.Generator) -> Any:
        """Return one augmented sample; all chance comes from ``rng``."""

    def collate(self, samples: list[Any], rng: np.random.Generator) -> Batch:
        """Return a batch: ``images`` (B, C, H, W) and ``targets``, in the form that the network's losses take.

        Tensors may stand in lists and dictionaries; all of them move to the device.
        """

    def evaluate(self, model: nn.Module, device: torch.device, progress: Counting | None = None) -> dict[str, Any]:
        """Return the report on the validation part: ``metric`` (larger is better) among its numbers, and ``loss``.

        ``progress`` is called with (done, total) pictures now and then.
        """

    def draw(self, folder: Path, batch: Batch | None, report: dict[str, Any] | None) -> None:
        """Draw the first batch, or the report of the best weights so far, into the run's folder."""

    def save(self, path: Path, tensors: dict[str, Tensor], progress: checkpoint.Progress) -> None:
        """Write weights and what belongs to them, whole or not at all."""


class _Batches(Dataset):
    """Micro-batches by position: item (epoch, step, number, indices) -> collated batch."""

    def __init__(self, work: Work, seed: int, rank: int) -> None:
        self.work, self.seed, self.rank = work, seed, rank

    def __getitem__(self, item: Item) -> Batch:
        epoch, step, number, indices = item
        samples = [self.work.sample(i, np.random.default_rng([self.seed, epoch, i])) for i in indices]
        return self.work.collate(samples, np.random.default_rng([self.seed, step, self.rank, number, 1]))


class _Order:
    """The micro-batches of a process, made as they are asked for: a long run's plan would fill the memory."""

    def __init__(self, *plan_of: Any) -> None:
        self.plan_of = plan_of

    def __iter__(self) -> Iterator[Item]:
        return plan(*self.plan_of)


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the samples in an epoch: a permutation that depends on seed and epoch only."""
    return np.random.default_rng([seed, epoch, 2]).permutation(count)


def plan(count: int, recipe: Recipe, rank: int, world: int, first_step: int) -> Iterator[Item]:
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


def loader(work: Work, recipe: Recipe, accelerator: Any, first_step: int) -> Iterator[Batch]:
    """Yield the batches of this process from ``first_step`` on, read by the recipe's workers."""
    rank, world, on_cuda = accelerator.process_index, accelerator.num_processes, accelerator.device.type == "cuda"
    return iter(
        DataLoader(
            _Batches(work, recipe.seed, rank),
            sampler=_Order(len(work), recipe, rank, world, first_step),
            batch_size=None,
            num_workers=recipe.workers,
            pin_memory=on_cuda,
            multiprocessing_context="spawn" if recipe.workers and on_cuda else None,
            worker_init_fn=_leave_stopping_to_the_loop,
        )
    )


def _leave_stopping_to_the_loop(_number: int) -> None:
    """A terminal sends Ctrl-C to the workers too: the step that is to be finished needs their batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked worker has inherited the loop's handler


def on_device(value: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device, however deep they stand in lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: on_device(item, device) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_device(item, device) for item in value)
    return value
