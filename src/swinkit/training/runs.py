"""The folder of a run: what was asked, how it went, what came out.

::

    recipe.yaml  results.csv  curves.png  train_batch.jpg  confusion_matrix.png  validation.jpg (label maps)  README.md (card)
    state.safetensors (resume)  weights/best.safetensors  weights/last.safetensors  tensorboard/
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from swinkit.errors import RunError
from swinkit.extras import need
from swinkit.files import atomic_path, atomic_write, sweep
from swinkit.specs import Preprocessing

STATE = "state.safetensors"
BEST = "weights/best.safetensors"
LAST = "weights/last.safetensors"


def sweep_run(folder: Path) -> None:
    """Remove what a killed part of this run has left half-written; another process of it may do the same."""
    for place in (folder, (folder / BEST).parent):
        sweep(place)


class Written:
    """The files that a run has written so far. They stay there while it goes on, or it ends.

    Args:
        folder: of the run.
        names: of files, and whether an earlier part of the run has written them.

    Raises:
        RunError: one of them is gone already.
    """

    def __init__(self, folder: Path, names: dict[str, bool]) -> None:
        self.folder, self.names = folder, {name for name, there in names.items() if there}
        if self.names:
            self.check()

    def add(self, name: str) -> Path:
        """Return the path of a file about to be written."""
        self.names.add(name)
        return self.folder / name

    def check(self) -> None:
        """Notice that the folder was moved or removed: written again it would lack what it has lost, the best weights first.

        Raises:
            RunError: a file is gone.
        """
        gone = sorted(name for name in self.names if not (self.folder / name).is_file())
        if gone or not self.folder.is_dir():
            what = self.folder / gone[0] if gone else self.folder
            raise RunError(
                f"{what} is gone: the run's folder was moved, removed or emptied since; put it back and go on with --resume "
                "from the last save, or start anew in another folder"
            )


def write_results(folder: Path, rows: list[dict[str, Any]], draw: bool = True) -> None:
    """Write ``results.csv``, and ``curves.png`` if ``draw``, anew from all epochs so far."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)  # numbers under names of our own: no cell that a spreadsheet would run
    atomic_write(folder / "results.csv", text.getvalue())
    if rows and draw:
        _draw_curves(folder / "curves.png", rows)


# Columns that count what was measured, and the clock: they say nothing as a curve.
_NO_CURVES = {"epoch", "step", "seconds", "skipped", "count", "pixels", "classes_averaged", "real_count", "validation_loss"}


def _draw_curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draw a panel for each quantity that changes, the losses of both parts in one."""
    pyplot = _pyplot()
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in _NO_CURVES]
    panels = {name: [name] for name in names if _changes(rows, name)}
    if any(_is_number(row.get("validation_loss")) for row in rows):
        panels["train_loss"] = ["train_loss", "validation_loss"]
    panels.pop("negative_loss" if "train_loss" in panels else "", None)  # the validation loss again, upside down
    columns = min(3, len(panels)) or 1
    lines = -(-len(panels) // columns) or 1
    figure, axes = pyplot.subplots(lines, columns, figsize=(4 * columns, 2.8 * lines), squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        axis.set_visible(True)
        for name in curves:
            points = [(row["epoch"], row[name]) for row in rows if _is_number(row.get(name))]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=2, label=_TITLES.get(name, name).split()[0])
        if len(curves) > 1:
            axis.legend(fontsize=7)
        axis.set_title("loss" if len(curves) > 1 else _TITLES.get(title, title), fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.set_xlim(0.5, rows[-1]["epoch"] + 0.5)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)


_TITLES = {
    "train_loss": "training loss",
    "validation_loss": "validation loss",
    "learning_rate": "learning rate",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "ece": "calibration error",
    "images_per_second": "images a second",
    "f1_micro": "F1 over all",
    "f1_macro": "F1, mean of the classes",
}


def _changes(rows: list[dict[str, Any]], name: str) -> bool:
    """Say whether a column is worth a panel: numbers that differ, or as yet one number."""
    values = [row[name] for row in rows if _is_number(row.get(name))]
    return bool(values) and (len(values) == 1 or max(values) > min(values))


def draw_batch(path: Path, images: Tensor, captions: list[str], preprocessing: Preprocessing) -> None:
    """Save up to 32 training pictures as the network meets them, with their targets.

    Args:
        images: (B, C, h, w) normalised.
        captions: a line for each.
    """
    pyplot = _pyplot()
    count = min(32, images.shape[0])
    columns = 8
    figure, axes = pyplot.subplots(-(-count // columns), columns, figsize=(12, 1.8 * -(-count // columns)), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, caption in zip(axes.flat, as_pictures(images[:count], preprocessing), captions, strict=False):
        axis.imshow(picture, cmap="gray")
        axis.set_title(caption, fontsize=7, parse_math=False)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    pyplot.close(figure)
    with atomic_path(path) as temporary:
        Image.open(buffer).convert("RGB").save(temporary, format="JPEG", quality=90)


def as_pictures(images: Tensor, preprocessing: Preprocessing) -> list[np.ndarray]:
    """Return the network's inputs (B, C, h, w) as pictures again: (h, w, 3) or (h, w) uint8 each."""
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
    found = []
    for image in images:
        pixels = image.permute(1, 2, 0).float().cpu().numpy() * std + mean
        pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
        found.append((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
    return found


def _pyplot() -> Any:
    need("matplotlib", "train").use("Agg")
    return need("matplotlib.pyplot", "train")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
