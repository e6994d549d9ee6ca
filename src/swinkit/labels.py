"""Class names of ImageNet, as plain data: which index of a released head means what.

Sources: WordNet ids and lemmas from timm's ``data/_info``, short names as torchvision lists them, the map from the
22K head to the 1K head from ``data/map22kto1k.txt`` of microsoft/Swin-Transformer. Imports no torch.
"""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

_ASSETS = Path(__file__).with_name("assets")


def imagenet_1k() -> tuple[str, ...]:
    """Return the 1,000 short names of ImageNet-1K in class-index order; two names occur twice (crane, maillot)."""
    return _columns("imagenet1k.txt")[1]


def imagenet_1k_ids() -> tuple[str, ...]:
    """Return the 1,000 WordNet ids of ImageNet-1K in class-index order, which is their alphabetical order."""
    return _columns("imagenet1k.txt")[0]


def imagenet_22k() -> tuple[str, ...]:
    """Return the 21,841 names of the authors' ImageNet-22K head, in its order.

    The order is no plain sorting: two ids without images are replaced at their places (9205 and 15027) by the last
    two of the list (``data/imagenet22k_dataset.py`` of the original repository). Names of the sorted list are wrong
    for this head from index 9205 on.
    """
    return _columns("imagenet22k.txt.gz")[1]


def imagenet_22k_ids() -> tuple[str, ...]:
    """Return the 21,841 WordNet ids of the authors' ImageNet-22K head, in its order."""
    return _columns("imagenet22k.txt.gz")[0]


@functools.cache
def map_22k_to_1k() -> tuple[int, ...]:
    """Return, for each ImageNet-1K class, its index in the 22K head (class 850, teddy bear, borrows a near one)."""
    return tuple(int(line) for line in (_ASSETS / "map22kto1k.txt").read_text(encoding="ascii").split())


def known_names(num_classes: int) -> tuple[str, ...]:
    """Return the names of a released head with ``num_classes`` outputs, or () when the number tells nothing."""
    if num_classes == 1000:
        return imagenet_1k()
    return imagenet_22k() if num_classes == 21841 else ()


@functools.cache
def _columns(file: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids and the names of a packaged list, one ``id<TAB>names`` a line."""
    content = (_ASSETS / file).read_bytes()
    text = (gzip.decompress(content) if file.endswith(".gz") else content).decode("utf-8")
    ids, names = zip(*(line.split("\t", 1) for line in text.splitlines()), strict=True)
    return ids, names
