"""How right a network is, counted so that every picture counts once. Places kept: segmentation, detection."""

from __future__ import annotations

from swinkit.evaluation.classification import ClassificationEvaluation, evaluate

__all__ = ["ClassificationEvaluation", "evaluate"]
