"""Semantic segmentation: decoders on a pyramid backbone, one file each."""

from swinkit.models.segmentation.segmenter import Segmenter

__all__ = ["Segmenter"]
