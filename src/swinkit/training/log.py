"""What a person sees of a run while it goes on: a bar in a terminal, elsewhere a line now and then; a line an epoch."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from swinkit.extras import need
from swinkit.training.checkpoint import Progress
from swinkit.training.recipe import Recipe

SUM = "loss"  # of all losses of a step
QUIET_SECONDS = 30.0  # between two lines where there is no terminal


@dataclass(frozen=True)
class Metric:
    """A number of a report.

    Args:
        name: in reports and tables; larger is better.
        title: for people.
        share: it lies in 0..1 and is shown in per cent.
        negative: its opposite is shown, a loss; it is part of no card.
    """

    name: str
    title: str = ""
    share: bool = True
    negative: bool = False

    @property
    def kept(self) -> bool:
        """Whether it belongs into a checkpoint's facts and a card."""
        return not self.negative

    def shown(self, value: float) -> str:
        """Return a value as people read it: "81.3 %", "0.482"."""
        if self.negative:
            return _loss(-value)
        return f"{100 * value:.1f} %" if self.share else f"{value:.4g}"

    def say(self, value: float) -> str:
        """Return a value with its name: "top-1 81.3 %", "loss 0.482"."""
        return f"{self.title or self.name} {self.shown(value)}"


def announce(text: str) -> None:
    """Print one line about the run, from the first process only."""
    if _is_first():
        _print(Console(stderr=True), text)


@contextlib.contextmanager
def counting(verb: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (done, total) that shows how far a count of pictures is, how fast, and how long it will take."""
    console = Console(stderr=True, quiet=not _is_first())
    began = said = time.monotonic()
    with _bar(console) as bar:
        task = bar.add_task(verb, total=total, info="")

        def advance(done: int, total: int) -> None:
            nonlocal said
            now = time.monotonic()
            rate = done / max(now - began, 1e-6)
            info = f"{_rate(rate)} pictures/s  {duration((total - done) / max(rate, 1e-6))} left"
            bar.update(task, completed=done, info=info)
            if bar.disable and now - said > QUIET_SECONDS:
                said = now
                _print(console, f"{verb}: {done:,} of {total:,}  {info}")

        yield advance


def duration(seconds: float) -> str:
    """Return a time in words, to two figures: "45 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _loss(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


class Log:
    """What a person sees of a run.

    Args:
        folder: of the run, for TensorBoard.
        recipe: options.
        progress: where the run stands; ``seconds`` count all its parts.
        steps: of an epoch.
        metric: the main metric.
        main: whether this process speaks.
    """

    def __init__(self, folder: Path, recipe: Recipe, progress: Progress, steps: int, metric: Metric, main: bool) -> None:
        self.console = Console(stderr=True, quiet=not main)
        self.progress, self.metric, self.steps_per_epoch = progress, metric, steps
        self.total = recipe.iterations or steps * recipe.epochs
        self.epochs = -(-self.total // steps)
        self.step_now, self.done_here, self.loss = progress.step, 0, math.nan
        self.began = self.warm = self.said = self.resumed = time.monotonic()
        self.images, self.training_seconds = 0, 0.0
        self.writer: Any = None
        if main:
            writer = need("torch.utils.tensorboard", "train").SummaryWriter
            self.writer = writer(str(folder / "tensorboard"), purge_step=progress.step)
        self.bar = _bar(self.console, main)
        # The first step says how fast it goes; until then the bar says that something is being done.
        self.task = self.bar.add_task(self._epoch_of_all(), total=self.total, completed=progress.step, info="the first step")
        self.checking = self.bar.add_task("validation", total=None, info="", visible=False)

    def __enter__(self) -> Log:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def say(self, text: str) -> None:
        _print(self.console, text)

    def images_per_second(self) -> float:
        """Return the pace of training in this epoch, validation left out."""
        seconds = self.training_seconds + time.monotonic() - self.resumed
        return round(self.images / max(seconds, 1e-9), 1)

    def step(self, step: int, losses: dict[str, float], rate: float, norm: float, images: int) -> None:
        """Show a step that is done; ``losses`` by name, ``loss`` their sum."""
        now = time.monotonic()
        self.images, self.loss, self.step_now, self.done_here = self.images + images, losses[SUM], step + 1, self.done_here + 1
        if self.done_here == 1:
            self.warm = now  # the first step also compiles and fills the workers' queues
        self.bar.update(self.task, description=self._epoch_of_all(step), completed=step + 1, info=self._info())
        if self.bar.disable and now - self.said > QUIET_SECONDS:
            self.said = now
            self.say(f"{self._epoch_of_all(step)}  step {step + 1:,} of {self.total:,}  {self._info()}")
        if self.writer is not None and (step % 10 == 0):
            for name, value in {**losses, "learning_rate": rate, "gradient_norm": norm}.items():
                self.writer.add_scalar(f"train/{name}", value, step)

    def validation(self, done: int, total: int) -> None:
        """Show how far the evaluation is."""
        now = time.monotonic()
        self.bar.update(self.checking, completed=done, total=total, visible=done < total)
        if self.bar.disable and now - self.said > QUIET_SECONDS:
            self.said = now
            self.say(f"validation: {done:,} of {total:,} pictures")

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave what is done inside out of the pace of training."""
        self.training_seconds += time.monotonic() - self.resumed
        try:
            yield
        finally:
            self.resumed = time.monotonic()
            self.bar.update(self.checking, visible=False)

    def epoch(self, row: dict[str, Any]) -> None:
        """Say how an epoch went, and begin to count the next one's pace."""
        self.say(self._line(row))
        if self.writer is not None:
            for name, value in row.items():
                if name not in ("epoch", "step", "learning_rate") and value is not None:
                    self.writer.add_scalar(f"epoch/{name}", value, row["epoch"])
            self.writer.flush()
        if self.progress.finished and self.progress.step < self.total:
            waited = self.progress.since_best
            self.say(f"stopped early: {waited} evaluations in a row were no better than {self.best()} (patience={waited})")
        self.images, self.training_seconds, self.resumed = 0, 0.0, time.monotonic()
        self.said = self.resumed

    def _line(self, row: dict[str, Any]) -> str:
        progress, parts = self.progress, [f"epoch {row['epoch']}/{self.epochs}"]
        losses = [row.get("train_loss"), row.get("validation_loss")]
        words = ["unknown" if value is None else _loss(value) for value in losses]
        parts.append(f"loss {words[0]}" + ("" if losses[1] is None else f" (validation {words[1]})"))
        score = row.get(self.metric.name)
        if score is not None:
            best = "the best so far" if progress.best_epoch == row["epoch"] else f"best {self.best()}"
            parts.append(best if self.metric.negative else f"{self.metric.say(score)} ({best})")
        parts.append(f"{_rate(row['images_per_second'])} images/s")
        if progress.skipped:
            parts.append(f"{progress.skipped} steps skipped")
        left = self._seconds_left()
        parts.append("done" if progress.finished else "" if left is None else f"{duration(left)} left")
        return "  ".join(part for part in parts if part)

    def best(self) -> str:
        """Return the best score and when it was, in words."""
        if self.progress.best is None:
            return "none yet"
        return f"{self.metric.shown(self.progress.best)} at epoch {self.progress.best_epoch}"

    def going_on(self) -> str:
        """Return where a resumed run goes on, in words."""
        where = f"going on from epoch {self.progress.epoch + 1} of {self.epochs}"
        return f"{'finished already' if self.progress.finished else where}, best {self.best()} so far"

    def _epoch_of_all(self, step: int | None = None) -> str:
        step = self.step_now if step is None else step
        return f"epoch {min(step // self.steps_per_epoch + 1, self.epochs)}/{self.epochs}"

    def _info(self) -> str:
        left = self._seconds_left()
        remaining = "" if left is None else f"  {duration(left)} left"
        return f"loss {_loss(self.loss)}  {_rate(self.images_per_second())} images/s{remaining}"

    def _seconds_left(self) -> float | None:
        """Return the time that the steps left will take at the pace since the first one, validation and all."""
        if not self.done_here:
            return None
        since, steps = (self.began, 1) if self.done_here == 1 else (self.warm, self.done_here - 1)
        return (time.monotonic() - since) / steps * (self.total - self.step_now)


def _bar(console: Console, main: bool = True) -> Bar:
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}"),
        console=console,
        transient=True,
        disable=not (main and console.is_terminal),
        # rich would send stdout to its own console, which is stderr here: harmless only when both are the terminal.
        redirect_stdout=sys.stdout.isatty(),
    )


def _is_first() -> bool:
    return bool(need("accelerate", "train").PartialState().is_main_process)


def _print(console: Console, text: str) -> None:
    """Print text as it is: brackets in a folder's name are no markup, and only a terminal breaks lines."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
