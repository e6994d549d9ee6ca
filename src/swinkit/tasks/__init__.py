"""The one wiring table: what each task brings to the loop, the evaluation and the run's folder.

A new task is a network, a label reader, a metric, a drawing (``works.py``) and a row in ``TASKS``; the loop stays as it is.
A place is kept for "detect".
"""

from __future__ import annotations

from swinkit.tasks.run import TASKS, Task, freeze, train

__all__ = ["TASKS", "Task", "freeze", "train"]
