"""Label maps beside their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from swinkit.data.masks import paint
from swinkit.extras import need
from swinkit.files import atomic_path


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
