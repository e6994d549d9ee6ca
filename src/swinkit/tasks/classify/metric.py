"""Accuracy, calibration and confusion of a classifier, over one process or many."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from swinkit.data.names import checked_labels
from swinkit.data.reading import process, read_batches
from swinkit.data.tables import read_rows
from swinkit.data.transforms import normalise, resized
from swinkit.errors import DatasetError, InputError
from swinkit.extras import need
from swinkit.files import parse_json, read_file
from swinkit.specs import ModelSpec, Preprocessing
from swinkit.training.log import Metric

BINS = 15
MAX_REAL_BYTES = 64 * 2**20  # ImageNet ReaL has one


ONE = (Metric("top1", "top-1"), Metric("top5", "top-5"), Metric("ece", share=False))
SEVERAL = (Metric("mAP"), Metric("f1_micro", share=False), Metric("f1_macro", share=False))


def metrics_of(spec: ModelSpec) -> tuple[Metric, ...]:
    """Return the numbers of a report that people look at, by whether a picture has one label or several."""
    return SEVERAL if spec.multi_label else ONE


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
        names: gives a picture's name for its id; the mistakes are listed only with it.
    """

    def __init__(
        self,
        labels: list[str],
        multi_label: bool = False,
        real: dict[int, list[int]] | None = None,
        groups: dict[int, str] | None = None,
        names: Callable[[int], str] | None = None,
    ) -> None:
        self.labels, self.multi_label = labels, multi_label
        self.real, self.groups, self.names = real, groups, names
        self._rows: dict[int, tuple[Tensor, Any]] = {}

    def update(self, logits: Tensor, targets: list[Any], ids: list[int]) -> None:
        """Add rows: logits (B, K), a class index (or a tuple of them) and an id for each; an id counts once."""
        for row, target, key in zip(logits.float().cpu(), targets, ids, strict=True):
            self._rows.setdefault(key, (row, target))

    def compute(self) -> dict[str, Any]:
        """Return the report over all processes.

        Returns:
            "top1", "top5" (5 or as many classes as there are), "ece" (15 bins), all 0..1; "loss"; "count"; "per_class": {label:
            {"accuracy", "count", "precision", "recall", "f1"}}; "macro": the mean of the last three (``_rates``); "confusion":
            rows truth, columns answers; "mistakes", a list of {"file", "truth", "answer", "probability"}, the surest first,
            where there are names; "real_top1", "real_count", "groups" where asked for. Multi-label: "mAP", "f1_micro",
            "f1_macro", "macro", and per class "average_precision", "count", "precision", "recall", "f1", above a half.
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
        rates, macro = _rates(right, counts, confusion.sum(0))
        probabilities = logits.softmax(1)
        top = {k: metrics.multiclass_accuracy(logits, targets, average="micro", top_k=k, **common) for k in (1, min(5, classes))}
        report: dict[str, Any] = {
            "top1": float(top[1]),
            "top5": float(top[min(5, classes)]),
            "ece": float(metrics.multiclass_calibration_error(probabilities, targets, n_bins=BINS, norm="l1", **common)),
            "loss": float(functional.cross_entropy(logits, targets)),
            "count": count,
            "per_class": {
                label: {"accuracy": rate["recall"], "count": int(counts[i]), **rate}
                for i, (label, rate) in enumerate(zip(self.labels, rates, strict=True))
            },
            "macro": macro,
            "confusion": confusion.tolist(),
        }
        if self.names is not None:
            report["mistakes"] = self._mistakes(probabilities, targets, ids)
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

    def _mistakes(self, probabilities: Tensor, targets: Tensor, ids: list[int]) -> list[dict[str, Any]]:
        """Return the pictures that were answered wrongly, the surest answer first."""
        assert self.names is not None
        sure, answers = probabilities.max(1)
        wrong = (answers != targets).nonzero().flatten().tolist()
        return [
            {
                "file": self.names(ids[i]),
                "truth": self.labels[int(targets[i])],
                "answer": self.labels[int(answers[i])],
                "probability": round(float(sure[i]), 6),
            }
            for i in sorted(wrong, key=lambda i: (-float(sure[i]), ids[i]))
        ]

    def _several(self, logits: Tensor, truth: list[tuple[int, ...]]) -> dict[str, Any]:
        metrics = need("torchmetrics.functional.classification", "train")
        targets = torch.zeros(logits.shape, dtype=torch.long)
        for row, classes_there in zip(targets, truth, strict=True):
            row[list(classes_there)] = 1
        probabilities, classes = logits.sigmoid(), logits.shape[1]
        answered = (probabilities > 0.5).long()
        rates, macro = _rates((answered * targets).sum(0), targets.sum(0), answered.sum(0))
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
                    **rates[i],
                }
                for i, label in enumerate(self.labels)
            },
            "macro": macro,
        }


def _rates(right: Tensor, truth: Tensor, answers: Tensor) -> tuple[list[dict[str, float | None]], dict[str, float]]:
    """Return precision, recall and F1 (0..1) of every class, and their means.

    Precision of a class that was never answered, recall of one that no picture has, and F1 of one that is neither, are None. In
    the means the former two count as 0; classes that are neither do not count, as in scikit-learn and torchmetrics.

    Args:
        right, truth, answers: how many pictures of each class were answered so, are so, and were called so, (K,).
    """

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    rows = list(zip(right.tolist(), truth.tolist(), answers.tolist(), strict=True))
    rates = [{"precision": share(r, a), "recall": share(r, t), "f1": share(2 * r, t + a)} for r, t, a in rows]
    met = [rate for rate, (_, t, a) in zip(rates, rows, strict=True) if t or a]
    return rates, {name: sum(rate[name] or 0.0 for rate in met) / max(1, len(met)) for name in ("precision", "recall", "f1")}


def evaluate_classifier(
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
    rank, world = process()
    evaluation = ClassificationEvaluation(
        data.classes,
        multi_label,
        read_real(real, data) if real else None,
        read_groups(groups, data) if groups else None,
        data.name,
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


def read_groups(path: Path, data: Data) -> dict[int, str]:
    """Return the group of every picture.

    Args:
        path: CSV with columns ``file`` (a picture's path or the end of it) and ``group``.
        data: the pictures.

    Raises:
        DatasetError: no such columns, a file named twice, a picture without a group, or one line for two pictures.
    """
    rows = read_rows(path)
    if not {"file", "group"} <= set(rows[0][1]):
        raise DatasetError(f"{path}: needs the columns file and group")
    table: dict[str, str] = {}
    for number, row in rows:
        name, group = (str("" if row[field] is None else row[field]).strip() for field in ("file", "group"))
        if not name or not group or name in table:
            raise DatasetError(f"{path}, line {number}: the file or its group is empty, or the file stands twice")
        table[name] = group
    checked_labels(sorted(set(table.values())), str(path), "group")
    found: dict[int, str] = {}
    used: dict[str, str] = {}
    for index in range(len(data)):
        parts = PurePosixPath(data.name(index).replace(os.sep, "/")).parts
        endings = ["/".join(parts[start:]).replace("//", "/") for start in range(len(parts))]
        match = next((ending for ending in endings if ending in table), None)
        if match is None:
            raise DatasetError(f"{path}: {data.name(index)} has no group; give every picture one")
        if match in used:
            raise DatasetError(f"{path}: {match!r} may be {used[match]} or {data.name(index)}; write more of the path")
        used[match], found[index] = data.name(index), table[match]
    return found


def read_real(path: Path, data: Data) -> dict[int, list[int]]:
    """Return the acceptable classes of every picture, from ImageNet ReaL's list in the order of file names.

    Raises:
        DatasetError: no list of lists of classes, another number of entries than pictures, or two pictures of one name.
    """
    entries = parse_json(read_file(path, MAX_REAL_BYTES, DatasetError), str(path), DatasetError)
    if not isinstance(entries, list) or not all(isinstance(e, list) and all(type(i) is int for i in e) for e in entries):
        raise DatasetError(f"{path}: expected a list of lists of class indices; give ImageNet ReaL's file")
    if len(entries) != len(data):
        raise DatasetError(f"{path}: has {len(entries)} entries for {len(data)} pictures; they must be the same pictures")
    outside = next((i for entry in entries for i in entry if not 0 <= i < len(data.classes)), None)
    if outside is not None:
        raise DatasetError(f"{path}: names class {outside}, there are {len(data.classes)}; give the file of this data set")
    names = [PurePosixPath(data.name(i)).name for i in range(len(data))]
    order = sorted(range(len(data)), key=names.__getitem__)
    for one, other in itertools.pairwise(order):
        if names[one] == names[other]:
            raise DatasetError(f"{path}: {data.name(one)} and {data.name(other)} have one name, so nobody knows their order")
    return {index: entries[place] for place, index in enumerate(order)}
