"""The tasks by name. A new one is a folder and a row here (and one in ``commands.py`` if commands get options of its own)."""

from __future__ import annotations

from swinkit.errors import CheckpointError, nearest
from swinkit.specs import ModelSpec
from swinkit.tasks.base import Task
from swinkit.tasks.classify.task import Classify
from swinkit.tasks.pretrain.task import Pretrain
from swinkit.tasks.segment.task import Segment

# The first is that of a recipe which names none.
TASKS: dict[str, Task] = {task.name: task for task in (Classify(), Segment(), Pretrain())}


def task_of(spec: ModelSpec) -> Task:
    """Return the task of a network's description.

    Raises:
        CheckpointError: there is no such task here.
    """
    if spec.task not in TASKS:
        raise CheckpointError(
            f"the weights are for the task {spec.task!r}, which is not here (there are {', '.join(TASKS)})"
            f"{nearest(spec.task, TASKS)}; use the program that made them"
        )
    return TASKS[spec.task]
