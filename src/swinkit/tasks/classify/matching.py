"""The classes of a data set as outputs of a network: matched by name, never by position."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from swinkit.data.folders import ClassificationData
from swinkit.errors import DatasetError, nearest
from swinkit.labels import imagenet_names, imagenet_synsets


def match_classes(data: ClassificationData, labels: Sequence[str]) -> ClassificationData:
    """Return the data set with targets that index ``labels``.

    Args:
        data: its classes may be some of the labels, in any order; for ImageNet's labels they may be WordNet ids.
        labels: class names of a network in index order.

    Raises:
        DatasetError: a class that is no label (the first ones named), or a label that stands twice.
    """
    if list(data.classes) == list(labels):
        return data
    synsets = imagenet_synsets(len(labels))
    if synsets and tuple(labels) == imagenet_names(len(labels)) and set(data.classes) <= set(synsets):
        names, labels = labels, synsets  # folders called by WordNet ids, as ImageNet comes
    else:
        names = labels
    places = {label: index for index, label in enumerate(labels)}
    missing = [name for name in data.classes if name not in places]
    if missing:
        shown = ", ".join(repr(name) for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DatasetError(
            f"{len(missing)} of the data's {len(data.classes)} classes are no class of the model: {shown}"
            f"; rename the folders, or train the model on these classes{nearest(missing[0], labels)}"
        )
    doubtful = [name for name in data.classes if list(labels).count(name) > 1]
    if doubtful:
        raise DatasetError(f"the model has two classes called {doubtful[0]!r}; a folder of that name may mean either")
    matched = copy.copy(data)
    matched.classes = list(names)
    matched.items = [
        (source, name, tuple(places[data.classes[i]] for i in target))
        if isinstance(target, tuple)
        else (source, name, places[data.classes[target]])
        for source, name, target in data.items
    ]
    return matched
