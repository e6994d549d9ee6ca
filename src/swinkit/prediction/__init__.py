"""Photo to answer: the predictor, its typed results, their drawing."""

from swinkit.prediction.draw import draw_bars
from swinkit.prediction.predictor import Predictor, load
from swinkit.prediction.results import Area, ClassificationResult, Prediction, SegmentationResult
from swinkit.prediction.sources import Found, find_images

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
