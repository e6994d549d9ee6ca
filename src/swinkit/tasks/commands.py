"""The tasks' own options of each command, for the command line's help: read without torch."""

from __future__ import annotations

from typing import Any

from swinkit.tasks.classify.options import ClassifyEvaluate, ClassifyPredict
from swinkit.tasks.segment.options import SegmentCheck, SegmentEvaluate, SegmentPredict

# By what the task's networks are called.
PREDICT: dict[str, type[Any]] = {"classifiers": ClassifyPredict, "segmenters": SegmentPredict}
EVALUATE: dict[str, type[Any]] = {"classifiers": ClassifyEvaluate, "segmenters": SegmentEvaluate}
CHECK: dict[str, type[Any]] = {"label maps": SegmentCheck}
