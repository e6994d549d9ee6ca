"""The confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
