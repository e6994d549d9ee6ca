"""Networks: tensors in, tensors out. Nothing here reads a file, prints or downloads (timm fetches its own weights when asked).

Importing this package loads no torch: the networks come with their names, the table of variants is plain data.
A place is kept for ``detection/``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from swinkit.errors import UnknownName, nearest
from swinkit.models.systems import SYSTEMS
from swinkit.models.variants import RELEASES

if TYPE_CHECKING:
    from swinkit.models.build import create_backbone, create_model
    from swinkit.models.classifier import SwinClassifier
    from swinkit.models.segmentation import Segmenter
    from swinkit.models.swin import SwinBackbone

__all__ = ["Segmenter", "SwinBackbone", "SwinClassifier", "create_backbone", "create_model", "list_models", "task_of"]

_HOMES = {
    "Segmenter": "swinkit.models.segmentation",
    "SwinBackbone": "swinkit.models.swin",
    "SwinClassifier": "swinkit.models.classifier",
    "create_backbone": "swinkit.models.build",
    "create_model": "swinkit.models.build",
}


def list_models(task: str | None = None) -> list[str]:
    """Return the canonical names of all networks, or of those made for ``task`` ("classify", "simmim" or "segment").

    Raises:
        UnknownName: a task that no variant was made for.
    """
    tasks = {name: task_of(name) for name in (*RELEASES, *SYSTEMS)}
    if task is not None and task not in tasks.values():
        known = sorted(set(tasks.values()))
        raise UnknownName(f"no model was made for the task {task!r}, only {', '.join(known)}{nearest(task, known)}")
    return [name for name, made_for in tasks.items() if task in (None, made_for)]


def task_of(name: str) -> str:
    """Return what the network with this canonical name was made for."""
    if name in SYSTEMS:
        return "segment"
    return "simmim" if RELEASES[name].training == "simmim" else "classify"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
