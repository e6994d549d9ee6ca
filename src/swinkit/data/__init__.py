"""Pictures and labels: from files to tensors. A place is kept for ``boxes`` beside ``folders`` and ``segmentation``."""

from __future__ import annotations

from swinkit.data.check import Report, check_data
from swinkit.data.folders import ClassificationData, open_dataset, split_dataset
from swinkit.data.images import read_image

__all__ = ["ClassificationData", "Report", "check_data", "open_dataset", "read_image", "split_dataset"]
