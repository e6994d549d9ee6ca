"""Results that people look at: the confusion matrix, label maps beside their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from swinkit.data.masks import paint
from swinkit.extras import need
from swinkit.files import atomic_path


def draw_confusion(matrix: list[list[int]], labels: list[str], path: Path) -> None:
    """Save a confusion matrix: rows truth, columns answers, shares of each row; names up to 60 classes.

    Args:
        matrix: (K, K) counts.
        labels: K names.
        path: of the PNG.
    """
    need("matplotlib", "train").use("Agg")
    pyplot = need("matplotlib.pyplot", "train")
    counts = np.array(matrix, dtype=float)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    classes = len(labels)
    side = min(16.0, max(4.0, 1.8 + 0.42 * classes))
    figure, axis = pyplot.subplots(figsize=(side + 1, side))
    image = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axis.set_xlabel("answer")
    axis.set_ylabel("truth")
    if classes <= 60:
        names = [label[:18] for label in labels]
        axis.set_xticks(range(classes), names, rotation=90, fontsize=7, parse_math=False)
        axis.set_yticks(range(classes), names, fontsize=7, parse_math=False)
    if classes <= 20:
        for row in range(classes):
            for column in range(classes):
                colour = "white" if shares[row, column] > 0.5 else "black"
                text = f"{int(counts[row, column])}"
                axis.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    figure.colorbar(image, shrink=0.8, label="share of the truth")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)


def draw_label_maps(
    path: Path, rows: Sequence[tuple[np.ndarray, ...]], palette: np.ndarray, labels: Sequence[str], titles: Sequence[str] = ()
) -> None:
    """Save pictures with their label maps and a legend of the classes that occur.

    Args:
        path: of the JPEG or PNG.
        rows: (picture, label map, further label maps ...): (H, W, 3) uint8 and (H, W) uint8 class ids each.
        palette: (K, 3) uint8.
        labels: K names.
        titles: of the label maps, for example "truth" and "answer".
    """
    need("matplotlib", "train").use("Agg")
    pyplot = need("matplotlib.pyplot", "train")
    across = len(rows[0])
    sets = 2 if across == 2 and len(rows) > 3 else 1  # two pairs side by side
    lines = -(-len(rows) // sets)
    height, width = rows[0][0].shape[:2]
    figure, axes = pyplot.subplots(lines, across * sets, figsize=(3.2 * across * sets, 3.2 * lines * height / width + 0.6))
    axes = np.asarray(axes).reshape(lines, across * sets)
    for axis in axes.flat:
        axis.axis("off")
    for place, (picture, *maps) in enumerate(rows):
        line, first = divmod(place, sets)
        axes[line, first * across].imshow(picture)
        image = Image.fromarray(picture)
        for step, ids in enumerate(maps, 1):
            axis = axes[line, first * across + step]
            axis.imshow(np.asarray(paint(image, ids, palette, 0.7)))
            if titles and line == 0:
                axis.set_title(titles[step - 1], fontsize=9)
    present = np.unique(np.concatenate([ids.ravel() for _, *maps in rows for ids in maps]))
    patches = [pyplot.Rectangle((0, 0), 1, 1, color=palette[i] / 255) for i in present if i < len(labels)]
    names = [labels[i] for i in present if i < len(labels)]
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    legend = figure.legend(patches, names, loc="lower center", ncols=min(11, max(1, len(names))), fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a class may be called $x
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90, format="jpeg" if path.suffix in (".jpg", ".jpeg") else "png")
    pyplot.close(figure)
