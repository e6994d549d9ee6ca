"""What a person sees of a run while it goes on."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from swinkit.extras import need
from swinkit.training import checkpoint
from swinkit.training.recipe import Recipe


def announce(text: str) -> None:
    """Print one line about the run, from the first process only."""
    if need("accelerate", "train").PartialState().is_main_process:
        _print(Console(stderr=True), text)


def _print(console: Console, text: str) -> None:
    """Print text as it is: brackets in a folder's name are no markup, and only a terminal breaks lines."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class Log:
    """What a person sees of a run: a bar in a terminal, a line an epoch, TensorBoard."""

    def __init__(self, folder: Path, recipe: Recipe, progress: checkpoint.Progress, steps: int, main: bool) -> None:
        self.console = Console(stderr=True, quiet=not main)
        self.main, self.steps_per_epoch = main, steps
        self.epochs = -(-recipe.iterations // steps) if recipe.iterations else recipe.epochs
        self.began, self.images, self.loss = time.monotonic(), 0, math.nan
        self.writer: Any = None
        if main:
            writer = need("torch.utils.tensorboard", "train").SummaryWriter
            self.writer = writer(str(folder / "tensorboard"), purge_step=progress.step)
        self.bar = Bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.0f} images/s"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (main and self.console.is_terminal),
        )
        self.task = self.bar.add_task(
            "train",
            total=recipe.iterations or steps * recipe.epochs,
            completed=progress.step,
            epoch=progress.epoch + 1,
            loss=math.nan,
            rate=0.0,
        )

    def __enter__(self) -> Log:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def say(self, text: str) -> None:
        _print(self.console, text)

    def seconds(self) -> float:
        return round(time.monotonic() - self.began, 1)

    def images_per_second(self) -> float:
        return round(self.images / max(time.monotonic() - self.began, 1e-9), 1)

    def step(self, step: int, loss: float, rate: float, norm: float, images: int) -> None:
        self.images += images
        self.bar.update(
            self.task,
            completed=step + 1,
            epoch=step // self.steps_per_epoch + 1,
            loss=loss,
            rate=self.images_per_second(),
        )
        if self.writer is not None and (step % 10 == 0):
            for name, value in (("loss", loss), ("learning_rate", rate), ("gradient_norm", norm)):
                self.writer.add_scalar(f"train/{name}", value, step)

    def epoch(self, row: dict[str, Any]) -> None:
        shown = {k: v for k, v in row.items() if k not in ("epoch", "step", "learning_rate") and v is not None}
        parts = (f"{name} {value:.4g}" for name, value in shown.items())
        self.say(f"epoch {row['epoch']}/{self.epochs}: {', '.join(parts)}")
        if self.writer is not None:
            for name, value in shown.items():
                self.writer.add_scalar(f"epoch/{name}", value, row["epoch"])
            self.writer.flush()
