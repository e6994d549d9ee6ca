"""The classes of a checkpoint's head and those of a data set, matched by name."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from swinkit import weights
from swinkit.labels import imagenet_names, imagenet_synsets


def with_head_of(checkpoint: weights.Checkpoint, classes: Sequence[str]) -> weights.Checkpoint:
    """Return the checkpoint with a head for these classes: its own rows by name, or none where a name is new.

    As many classes are not the same classes; a head whose names nobody knows is taken as it is.
    """
    known: Sequence[str] = checkpoint.spec.labels
    parts = [name for name in checkpoint.tensors if name.startswith("head.") or ".classifier." in name]
    if not known or not parts or list(known) == list(classes):
        return checkpoint
    synsets = imagenet_synsets(len(known))
    if known == imagenet_names(len(known)) and set(classes) <= set(synsets):
        known = synsets  # folders called by WordNet ids, as ImageNet comes
    count = Counter(known)  # two classes of ImageNet are called "crane": a folder of that name may mean either
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in parts}
    if all(count[name] == 1 for name in classes):
        places = {name: place for place, name in enumerate(known)}
        rows = [places[name] for name in classes]
        tensors |= {part: checkpoint.tensors[part][rows] for part in parts}
    return dataclasses.replace(checkpoint, tensors=tensors)
