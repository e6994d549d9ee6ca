"""Photo to answer: the predictor, and the photos it finds."""

from __future__ import annotations

from swinkit.prediction.predictor import Predictor, load
from swinkit.prediction.sources import Found, find_images
from swinkit.tasks.classify.result import ClassificationResult, Prediction, draw_bars
from swinkit.tasks.segment.result import Area, SegmentationResult

__all__ = [
    "Area",
    "ClassificationResult",
    "Found",
    "Prediction",
    "Predictor",
    "SegmentationResult",
    "draw_bars",
    "find_images",
    "load",
]
