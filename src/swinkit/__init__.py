"""Swin Transformers from photo to answer.

::

    import swinkit
    predictor = swinkit.load("microsoft/swin-small-patch4-window7-224")
    predictor.predict("photo.jpg").top.label

Importing this package loads no torch; each name brings its module on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swinkit.errors import SwinkitError
    from swinkit.models import list_models
    from swinkit.prediction import ClassificationResult, Predictor, SegmentationResult, load
    from swinkit.runs.evaluate import evaluate
    from swinkit.runs.export import export
    from swinkit.runs.train import train
    from swinkit.weights.pretrained import create_backbone, create_model

__version__ = "0.1.0"

__all__ = [
    "ClassificationResult",
    "Predictor",
    "SegmentationResult",
    "SwinkitError",
    "__version__",
    "create_backbone",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "load",
    "train",
]

_HOMES = {
    "ClassificationResult": "swinkit.prediction",
    "Predictor": "swinkit.prediction",
    "SegmentationResult": "swinkit.prediction",
    "SwinkitError": "swinkit.errors",
    "create_backbone": "swinkit.weights.pretrained",
    "create_model": "swinkit.weights.pretrained",
    "evaluate": "swinkit.runs.evaluate",
    "export": "swinkit.runs.export",
    "list_models": "swinkit.models",
    "load": "swinkit.prediction",
    "train": "swinkit.runs.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
