"""How right a network is, counted so that every picture and pixel counts once. A place is kept for detection."""

from __future__ import annotations

from swinkit.evaluation.classification import ClassificationEvaluation, evaluate
from swinkit.evaluation.segmentation import SegmentationEvaluation, evaluate_predictions, evaluate_segmentation

__all__ = ["ClassificationEvaluation", "SegmentationEvaluation", "evaluate", "evaluate_predictions", "evaluate_segmentation"]
