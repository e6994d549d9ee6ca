"""What weights know of heads: an object a kind, its tables read in both directions.

Everything else in ``swinkit.weights`` asks these objects and knows no task. Another kind is a file here and a line below.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from swinkit.specs import ModelSpec
from swinkit.weights.heads.base import Head, Mode, Tensors, put
from swinkit.weights.heads.classify import Classify
from swinkit.weights.heads.segment import Segment
from swinkit.weights.heads.simmim import SimMim
from swinkit.weights.rows import Row

__all__ = [
    "HEADS",
    "Head",
    "Mode",
    "Tensors",
    "beginnings",
    "of_description",
    "of_name",
    "of_network",
    "outer_names",
    "put",
    "read_apart",
    "rows_within",
    "split",
]

# By task. The first that recognises something has it; the last takes what no other does.
HEADS: dict[str, Head] = {head.task: head for head in (Segment(), SimMim(), Classify())}
_LAST = list(HEADS.values())[-1]


def of_description(spec: ModelSpec) -> Head:
    """Return the kind of head that a description tells of."""
    return next(head for head in HEADS.values() if head.describes(spec))


def of_name(name: str) -> Head:
    """Return the kind of head of the network that goes by ``name``."""
    return next(head for head in HEADS.values() if head.names(name))


def of_network(network: nn.Module) -> Head:
    """Return the kind of head that a network has."""
    return next((head for head in HEADS.values() if isinstance(network, head.network)), _LAST)


def of_bare(described: ModelSpec | None) -> Head:
    """Return the kind of head of a file where none stands apart: the described one if it needs none."""
    said = _LAST if described is None else HEADS.get(described.task, _LAST)
    return _LAST if said.apart else said


def read_apart(tensors: Tensors) -> tuple[Head | None, Tensors]:
    """Return the head that stands apart from the backbone in a file and its tensors under our names; (None, {}) for none.

    Raises:
        KeysLeftOver: some keys are explained by no row.
    """
    for head in HEADS.values():
        found = head.read(tensors)
        if found is not None:
            return head, found
    return None, {}


def split(tensors: Tensors) -> tuple[Tensors, dict[str, Tensors]]:
    """Return the backbone's tensors (with what stands within), and by task those that stand apart; all under our names."""
    body, apart = dict(tensors), {}
    for task, head in HEADS.items():
        found = {key: body.pop(key) for key in list(body) if key.startswith(head.apart)}
        if found:
            apart[task] = found
    return body, apart


def rows_within(dialect: str) -> tuple[Row, ...]:
    """Return the rows of every head that stands among the backbone's tensors in a dialect."""
    return tuple(row for head in HEADS.values() for row in head.rows.get(dialect, ()))


def outer_names(dialect: str) -> tuple[str, ...]:
    """Return how keys of those rows begin in a dialect's files ("head.fc.")."""
    return tuple(theirs.removesuffix("*") for row in rows_within(dialect) for theirs in row.theirs)


def beginnings(attribute: str) -> tuple[str, ...]:
    """Return what all heads have under one attribute of beginnings: "within", "fresh" or "unread"."""
    return tuple(word for head in HEADS.values() for word in getattr(head, attribute))


def read_config(config: dict[str, Any], preparation: dict[str, Any] | None) -> ModelSpec | None:
    """Return the description in a configuration of transformers or of the mm family, None when no head knows it.

    Raises:
        CheckpointError, InputError: a field of the wrong kind or out of its bounds.
    """
    for head in HEADS.values():
        if head.reads_mm(config):
            return head.read_mm(config)
        if config.get("model_type") in head.hf_types:
            return head.read_hf(config, preparation)
    return None
