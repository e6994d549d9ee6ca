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
