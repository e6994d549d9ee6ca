"""Accuracy, calibration and confusion of a classifier, over one process or many."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from swinkit.data.reading import read_batches
from swinkit.data.transforms import normalise, resized
from swinkit.errors import DatasetError, InputError
from swinkit.extras import need
from swinkit.specs import Preprocessing

BINS = 15


class Data(Protocol):
    """What is evaluated: ``swinkit.data.ClassificationData`` or anything like it."""

    classes: list[str]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def target(self, index: int) -> Any: ...

    def read(self, index: int, grey: bool = False) -> Any: ...


class ClassificationEvaluation:
    """Collects logits and targets, one row a picture, and computes the report.

    Args:
        labels: class names in index order.
        multi_label: classes do not exclude one another: mean average precision and F1 instead of top-k.
        real: acceptable classes of a picture (ImageNet ReaL), by its id; pictures with none are not counted.
        groups: name of the group a picture belongs to, by its id.
    """

    def __init__(
        self,
        labels: list[str],
        multi_label: bool = False,
        real: dict[int, list[int]] | None = None,
        groups: dict[int, str] | None = None,
    ) -> None:
        self.labels, self.multi_label = labels, multi_label
        self.real, self.groups = real, groups
        self._rows: dict[int, tuple[Tensor, Any]] = {}

    def update(self, logits: Tensor, targets: list[Any], ids: list[int]) -> None:
        """Add rows: logits (B, K), a class index (or a tuple of them) and an id for each; an id counts once."""
        for row, target, key in zip(logits.float().cpu(), targets, ids, strict=True):
            self._rows.setdefault(key, (row, target))

    def compute(self) -> dict[str, Any]:
        """Return the report over all processes.

        Returns:
            "top1", "top5" (5 or as many classes as there are), "ece" (15 bins), all 0..1; "loss" (cross entropy);
            "count"; "per_class": {label: {"accuracy", "count"}};
            "confusion": rows truth, columns answers; "real_top1", "real_count", "groups" where
            asked for. Multi-label: "mAP", "f1_micro", "f1_macro" and per class "average_precision".
        """
        rows = self._gathered()
        if not rows:
            raise DatasetError("no picture was evaluated; the data set is empty")
        ids = sorted(rows)
        logits = torch.stack([rows[key][0] for key in ids])
        truth = [rows[key][1] for key in ids]
        return self._several(logits, truth) if self.multi_label else self._one(logits, truth, ids)

    def _gathered(self) -> dict[int, tuple[Tensor, Any]]:
        """Return the rows of all processes; a picture that several of them saw stays one."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return self._rows
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, self._rows)
        return {key: row for part in parts for key, row in part.items()}

    def _one(self, logits: Tensor, truth: list[int], ids: list[int]) -> dict[str, Any]:
        metrics = need("torchmetrics.functional.classification", "train")
        count, classes = logits.shape
        targets = torch.tensor(truth)
        answers = logits.argmax(1)
        common = {"num_classes": classes, "validate_args": False}
        confusion = metrics.multiclass_confusion_matrix(logits, targets, **common)
        counts = confusion.sum(1)
        right = confusion.diagonal()
        probabilities = logits.softmax(1)
        top = {k: metrics.multiclass_accuracy(logits, targets, average="micro", top_k=k, **common) for k in (1, min(5, classes))}
        report: dict[str, Any] = {
            "top1": float(top[1]),
            "top5": float(top[min(5, classes)]),
            "ece": float(metrics.multiclass_calibration_error(probabilities, targets, n_bins=BINS, norm="l1", **common)),
            "loss": float(functional.cross_entropy(logits, targets)),
            "count": count,
            "per_class": {
                label: {"accuracy": float(right[i] / counts[i]) if counts[i] else None, "count": int(counts[i])}
                for i, label in enumerate(self.labels)
            },
            "confusion": confusion.tolist(),
        }
        if self.real is not None:
            judged = [(int(answers[i]) in self.real[key]) for i, key in enumerate(ids) if self.real.get(key)]
            report["real_top1"] = sum(judged) / len(judged) if judged else None
            report["real_count"] = len(judged)
        if self.groups is not None:
            members: dict[str, list[bool]] = {}
            for i, key in enumerate(ids):
                members.setdefault(self.groups[key], []).append(bool(answers[i] == targets[i]))
            report["groups"] = {
                name: {"accuracy": sum(hits) / len(hits), "count": len(hits)} for name, hits in sorted(members.items())
            }
        return report

    def _several(self, logits: Tensor, truth: list[tuple[int, ...]]) -> dict[str, Any]:
        metrics = need("torchmetrics.functional.classification", "train")
        targets = torch.zeros(logits.shape, dtype=torch.long)
        for row, classes_there in zip(targets, truth, strict=True):
            row[list(classes_there)] = 1
        probabilities, classes = logits.sigmoid(), logits.shape[1]
        present = targets.sum(0) > 0  # precision of a class that no picture has is undefined
        precision = torch.full((classes,), torch.nan)
        if present.any():
            precision[present] = metrics.multilabel_average_precision(
                probabilities[:, present], targets[:, present], int(present.sum()), average="none", validate_args=False
            ).reshape(-1)
        return {
            "mAP": float(precision[present].mean()) if present.any() else 0.0,
            "f1_micro": float(metrics.multilabel_f1_score(probabilities, targets, classes, average="micro")),
            "f1_macro": float(metrics.multilabel_f1_score(probabilities, targets, classes, average="macro")),
            "loss": float(functional.binary_cross_entropy_with_logits(logits, targets.float())),
            "count": len(truth),
            "per_class": {
                label: {
                    "average_precision": float(precision[i]) if present[i] else None,
                    "count": int(targets[:, i].sum()),
                }
                for i, label in enumerate(self.labels)
            },
        }


def evaluate(
    model: nn.Module,
    data: Data,
    preprocessing: Preprocessing,
    *,
    batch: int = 32,
    device: str | torch.device = "cpu",
    workers: int = 2,
    multi_label: bool = False,
    real: Path | None = None,
    groups: Path | None = None,
    precision: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Return the report of a network on a data set (``ClassificationEvaluation.compute``), with the preparation named.

    Args:
        model: (B, C, h, w) -> (B, K); left in the mode it was in.
        data: with the model's classes in the model's order.
        preprocessing: of the photos.
        batch: pictures that go through the network together.
        device: where the network runs.
        workers: threads that read (``data/reading.py`` says when); 0 reads between the batches.
        multi_label: see ``ClassificationEvaluation``.
        real: ImageNet ReaL file, a JSON list of acceptable classes for each picture in the order of file names.
        groups: CSV with columns file and group.
        precision: autocast type, None for full precision.
        progress: called with (done, total) after each batch.

    Raises:
        DatasetError: an unreadable table, an empty data set, several labels a picture for a model that gives one.
        ImageError: a picture cannot be read.
        InputError: a network of other channels than pictures have; groups or ReaL labels for several labels a picture.
    """
    channels = len(preprocessing.mean)
    if channels not in (1, 3):
        raise InputError(f"this network takes {channels} channels, pictures have 3; call it with tensors of your own")
    if multi_label and (real or groups):
        raise InputError("groups and ReaL labels count right answers; this model gives several labels a picture: leave them out")
    if not multi_label and len(data) and isinstance(data.target(0), tuple):
        raise DatasetError(
            "these pictures have several labels each, this model gives one; train a model on several, or give a table with "
            "a column 'label'"
        )
    rank, world = _process()
    evaluation = ClassificationEvaluation(
        data.classes,
        multi_label,
        read_real(real, data) if real else None,
        read_groups(groups, data) if groups else None,
    )
    was_training = model.training
    model.eval()
    place = torch.device(device)
    done = 0

    def read(i: int) -> tuple[int, Tensor]:
        return i, resized(data.read(i, channels == 1), preprocessing)

    try:
        with torch.inference_mode(), torch.autocast(place.type, precision, enabled=precision is not None):
            for pictures in read_batches(range(rank, len(data), world), read, batch, workers, place):
                ids = [i for i, _ in pictures]
                images = normalise(torch.stack([pixels for _, pixels in pictures]).to(place), preprocessing)
                targets = [data.target(i) for i in ids]
                if multi_label:  # one label is a list of one
                    targets = [target if isinstance(target, tuple) else (target,) for target in targets]
                evaluation.update(model(images), targets, ids)
                done += len(ids)
                if progress is not None:
                    progress(done * world, len(data))
    finally:
        model.train(was_training)
    report = evaluation.compute()
    report["preprocessing"] = preprocessing.describe()
    return report


def _process() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def read_groups(path: Path, data: Data) -> dict[int, str]:
    """Return the group of every picture.

    Args:
        path: CSV with columns ``file`` (a picture's path or the end of it) and ``group``.
        data: the pictures.

    Raises:
        DatasetError: no such columns, a file named twice, a picture without a group.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read as a table ({error})") from error
    if not rows or not {"file", "group"} <= set(rows[0]):
        raise DatasetError(f"{path}: needs the columns file and group")
    table: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        name, group = (row["file"] or "").strip(), (row["group"] or "").strip()
        if not name or not group or name in table:
            raise DatasetError(f"{path}, line {number}: the file or its group is empty, or the file stands twice")
        table[name] = group
    found = {}
    for index in range(len(data)):
        parts = PurePosixPath(data.name(index).replace(os.sep, "/")).parts
        endings = ["/".join(parts[start:]).replace("//", "/") for start in range(len(parts))]
        match = next((ending for ending in endings if ending in table), None)
        if match is None:
            raise DatasetError(f"{path}: {data.name(index)} has no group; give every picture one")
        found[index] = table[match]
    return found


def read_real(path: Path, data: Data) -> dict[int, list[int]]:
    """Return the acceptable classes of every picture, from ImageNet ReaL's list in the order of file names.

    Raises:
        DatasetError: no list of lists, or another number of entries than pictures.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(entries, list) or not all(isinstance(e, list) and all(isinstance(i, int) for i in e) for e in entries):
        raise DatasetError(f"{path}: expected a list of lists of class indices")
    if len(entries) != len(data):
        raise DatasetError(f"{path}: has {len(entries)} entries for {len(data)} pictures; they must be the same pictures")
    order = sorted(range(len(data)), key=lambda i: PurePosixPath(data.name(i)).name)
    return {index: entries[place] for place, index in enumerate(order)}
