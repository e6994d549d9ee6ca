"""What is wrong with a data set, whichever task it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from swinkit.data.check import Report
from swinkit.errors import InputError
from swinkit.tasks.options import chosen
from swinkit.tasks.table import TASKS


def check(data: str, progress: Callable[[int, int], None] | None = None, **options: Any) -> Report:
    """Read every picture of a data set and report what is wrong.

    Args:
        data: folder, zip, zips or table; the task is the one that recognises it, else the first (pictures by class).
        progress: called with (done, total) now and then.
        options: the task's own; ``void`` of label maps.

    Raises:
        InputError: an option of another task.
        DatasetError: it is no data set at all.
    """
    task = next((task for task in TASKS.values() if task.recognises(data)), next(iter(TASKS.values())))
    others = {other.name: other.check_options for other in TASKS.values()}
    try:
        wanted = chosen(task.check_options, options, others, task.noun)
    except InputError as error:
        raise InputError(f"{data}: {error} (the folder looks like one for the task {task.name})") from None
    return task.check(data, wanted, progress)
