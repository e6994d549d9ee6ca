"""Class lists that checkpoints refer to without carrying them. Plain data; sources in ``docs/guides/weights.md``."""

from __future__ import annotations

import functools
from importlib import resources


@functools.cache
def _lines(name: str) -> tuple[str, ...]:
    return tuple((resources.files("swinkit") / "assets" / name).read_text(encoding="utf-8").split("\n")[:-1])


def imagenet_names(num_classes: int) -> tuple[str, ...]:
    """Return the names of ImageNet-1K (1000) or of the authors' 22K head (21841), in index order; () otherwise.

    The 22K order is the alphabetical list of WordNet ids with entries 9205 and 15027 replaced, as the authors' own
    22K -> 1K map shows (999 of its 1000 lines agree with it; the odd one is a class the 2011 release lacks).
    """
    lists = {1000: "imagenet1k_names.txt", 21841: "imagenet22k_names.txt"}
    return _lines(lists[num_classes]) if num_classes in lists else ()


def imagenet_synsets(num_classes: int) -> tuple[str, ...]:
    """Return the WordNet ids in the same order, or ()."""
    lists = {1000: "imagenet1k_synsets.txt", 21841: "imagenet22k_synsets.txt"}
    return _lines(lists[num_classes]) if num_classes in lists else ()


def map_22k_to_1k() -> list[int]:
    """Return, for each ImageNet-1K class, its row in the 22K head (the authors' ``map22kto1k.txt``)."""
    return [int(item) for item in (resources.files("swinkit") / "assets" / "imagenet_map22kto1k.txt").read_text().split()]


def ade20k() -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the 150 class names of ADE20K's benchmark and their palette (red, green, blue of each in turn).

    Road and skyscraper share a colour there, so a colour picture cannot be read back.
    """
    rows = [line.split(";") for line in _lines("ade20k.csv")]
    return tuple(row[0] for row in rows), tuple(int(value) for row in rows for value in row[1:])


# name, value in ``*_labelIds.png``, colour. Source: mcordts/cityscapesScripts ``helpers/labels.py``.
CITYSCAPES: tuple[tuple[str, int, tuple[int, int, int]], ...] = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
