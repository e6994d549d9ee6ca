"""How right a checkpoint is on a data set, for every task."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from swinkit.data.parts import UndividedData
from swinkit.errors import InputError
from swinkit.prediction.predictor import Predictor, load
from swinkit.tasks.options import chosen
from swinkit.tasks.table import TASKS


def evaluate(
    model: str | os.PathLike[str] | Predictor | None,
    data: str | os.PathLike[str],
    split: str = "val",
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the report of a network on a data set, each picture (of label maps each pixel) counted once.

    Args:
        model: a predictor, or what ``swinkit.load`` takes; None where ``options`` name answers that lie in files.
        data: folder, zip, zips or table of pictures with the labels of the model's task.
        split: part "train", "val" or "test"; "val" of a set without parts is all of it.
        progress: called with (done, total) pictures now and then.
        options: the task's own (``tasks/<name>/options.py``). A classifier's: ``batch``, ``groups``, ``real``. A segmenter's:
            ``predictions``, ``scales``, ``scales_of``, ``flip``, ``window``, ``stride``, ``tile``.

    Returns:
        JSON-ready. Of a classifier ``top1``, ``top5``, ``ece`` (0..1), ``per_class``, ``confusion``, ``mistakes`` ...; of a
        segmenter ``mIoU``, ``mAcc``, ``aAcc``, ``per_class`` ...; ``count`` and ``preprocessing`` of both.

    Raises:
        InputError: an option of another task, or nothing to measure.
        DatasetError, ImageError: the data cannot be read, or has other classes than the model.
    """
    where = os.fspath(data)
    if model is None:
        return _of_files(where, split, options)
    predictor = model if isinstance(model, Predictor) else load(model)
    task, spec = predictor.task, predictor.spec
    wanted = chosen(task.evaluate_options, options, _all_options(), task.noun)
    try:
        part = task.open_part(where, split, spec)
    except UndividedData:
        if split != "val":  # the default also means: all there is
            raise
        part = task.open_part(where, None, spec)
    return task.evaluate(predictor.model, part, spec, wanted, device=predictor.device, progress=progress)


def _of_files(data: str, split: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure answers that lie in files; the options say whose."""
    task = next((task for task in TASKS.values() if task.reads(options)), None)
    if task is None:
        raise InputError("nothing to measure; name a checkpoint, or give --predictions with a folder of answers")
    return task.evaluate_answers(data, split, chosen(task.evaluate_options, options, _all_options(), task.noun))


def _all_options() -> dict[str, type[Any]]:
    return {task.name: task.evaluate_options for task in TASKS.values()}
