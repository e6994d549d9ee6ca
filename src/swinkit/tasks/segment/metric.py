"""How right label maps are: one confusion matrix over all pixels, void left out, at the size of each picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from swinkit.data.masks import IGNORED, MASK_SUFFIXES, read_mask
from swinkit.data.reading import process
from swinkit.errors import DatasetError, ImageError
from swinkit.specs import Preprocessing
from swinkit.tasks.segment.passes import Passes, label_map
from swinkit.training.log import Metric

METRICS = (Metric("mIoU"), Metric("mAcc"), Metric("aAcc"))


class Data(Protocol):
    """Pictures with label maps, as ``swinkit.tasks.segment.data`` gives them."""

    classes: list[str]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def read(self, index: int, grey: bool = False) -> Image.Image: ...

    def mask(self, index: int, size: tuple[int, int] | None = None) -> np.ndarray: ...


class SegmentationEvaluation:
    """Counts pixels by true and predicted class; 64-bit whole numbers, so nothing is rounded.

    Args:
        classes: names in index order.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.matrix = torch.zeros(len(classes), len(classes), dtype=torch.int64)  # [true, predicted]
        self.pictures = 0

    def update(self, targets: np.ndarray, answers: np.ndarray, name: str = "picture") -> None:
        """Count one picture.

        Args:
            targets: (H, W) class ids, 255 void.
            answers: (H, W) class ids; what stands where the truth is void does not matter.
            name: for messages.

        Raises:
            DatasetError: another size, or an id that is no class: such pixels would vanish without a word.
        """
        if targets.shape != answers.shape:
            raise DatasetError(f"{name}: the answer is {answers.shape}, the truth {targets.shape}; answer at the picture's size")
        count, valid = len(self.classes), targets != IGNORED
        true, said = targets[valid].astype(np.int64), answers[valid].astype(np.int64)
        for values, whose in ((true, "truth"), (said, "answer")):
            if values.size and (values.max() >= count or values.min() < 0):
                raise DatasetError(f"{name}: the {whose} holds class {values.max()}, there are {count}; mend it")
        self.matrix += torch.from_numpy(np.bincount(true * count + said, minlength=count**2).reshape(count, count))
        self.pictures += 1

    def compute(self) -> dict[str, Any]:
        """Return the report, of all processes together.

        Returns:
            ``mIoU``, ``mAcc``, ``aAcc`` (0..1); ``per_class`` name -> ``IoU``, ``Acc``, ``Dice`` (None for an absent class) and
            ``pixels``; ``count`` of pictures, ``pixels`` counted, ``classes_averaged`` in mIoU, ``confusion``.

            IoU counts a class that the truth or any answer has; Acc one that the truth has (mmsegmentation's rules).
        """
        matrix, pictures = self._everywhere()
        right, true, said = matrix.diagonal().double(), matrix.sum(1).double(), matrix.sum(0).double()
        union = true + said - right
        iou, accuracy, dice = right / union, right / true, 2 * right / (true + said)  # nan is "absent"
        total = float(true.sum())
        return {
            "mIoU": _mean(iou),
            "mAcc": _mean(accuracy),
            "aAcc": float(right.sum()) / total if total else 0.0,
            "mDice": _mean(dice),
            "count": pictures,
            "pixels": int(total),
            "classes_averaged": int((~iou.isnan()).sum()),
            "per_class": {
                name: {"IoU": _plain(iou[i]), "Acc": _plain(accuracy[i]), "Dice": _plain(dice[i]), "pixels": int(true[i])}
                for i, name in enumerate(self.classes)
            },
            "confusion": matrix.tolist(),
        }

    def _everywhere(self) -> tuple[Tensor, int]:
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return self.matrix, self.pictures
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        both = torch.cat((self.matrix.flatten(), torch.tensor([self.pictures]))).to(device)
        torch.distributed.all_reduce(both)
        return both[:-1].view_as(self.matrix).cpu(), int(both[-1])


def evaluate_segmentation(
    model: nn.Module,
    data: Data,
    preprocessing: Preprocessing,
    *,
    options: Passes | None = None,
    device: str | torch.device = "cpu",
    precision: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
    seen: Callable[[int, np.ndarray], None] | None = None,
) -> dict[str, Any]:
    """Return the report of a segmenter (``SegmentationEvaluation.compute``), with preparation and passes named.

    Args:
        model: (B, C, h, w) -> (B, K, h, w) logits; left in the mode it was in.
        data: with the model's classes in the model's order.
        preprocessing: of the pictures.
        options: scales, mirror images, sliding windows, tiles; None is the whole picture once.
        device: where the network runs.
        precision: autocast type, None for full precision.
        progress: called with (done, total) after each picture of this process.
        seen: called with the index and the answer, (H, W) uint8, of each picture of this process.

    Raises:
        DatasetError, ImageError: the data cannot be read or used.
    """
    options = options or Passes()
    evaluation = SegmentationEvaluation(data.classes)
    rank, world = process()
    was_training, place = model.training, torch.device(device)
    model.eval()
    grey = len(preprocessing.mean) == 1
    mine = range(rank, len(data), world)
    try:
        with torch.inference_mode(), torch.autocast(place.type, precision, enabled=precision is not None):
            for done, index in enumerate(mine, 1):
                image = data.read(index, grey)
                answers = label_map(model, image, preprocessing, options, place)
                evaluation.update(data.mask(index, (image.height, image.width)), answers, data.name(index))
                if seen is not None:
                    seen(index, answers)
                if progress is not None:
                    progress(done, len(mine))
    finally:
        model.train(was_training)
    return {**evaluation.compute(), "preprocessing": preprocessing.describe(), "passes": options.describe()}


def evaluate_predictions(folder: str | Path, data: Data) -> dict[str, Any]:
    """Return the report of label maps that somebody wrote: PNGs of class ids, named like the pictures.

    Args:
        folder: with ``<stem>.png`` for every picture, at its size; further files are named.
        data: the truth.

    Raises:
        DatasetError: no folder, an answer missing, two pictures or answers of one name, another size, an id that is no class.
        ImageError: an answer that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is no folder; give one with a PNG for each picture")
    stems = [Path(data.name(index)).stem for index in range(len(data))]
    doubled = [stem for stem, count in Counter(stems).items() if count > 1]
    if doubled:
        raise DatasetError(f"{len(doubled)} pictures share their name (first: {min(doubled)!r}), so answers cannot be told apart")
    wanted = set(stems)
    there: dict[str, Path] = {}
    for path in _answers(folder):
        first = there.setdefault(path.stem, path)
        if first != path and path.stem in wanted:
            raise DatasetError(f"{folder}: holds two answers for a picture, {first.name!r} and {path.name!r}; keep one")
    missing = [stem for stem in stems if stem not in there]
    if missing:
        raise DatasetError(
            f"{folder}: {len(missing)} of {len(stems)} answers are missing (first: {missing[0]}.png); write one for each picture"
        )
    evaluation = SegmentationEvaluation(data.classes)
    for index, stem in enumerate(stems):
        answers, _ = read_mask(there[stem], str(there[stem]))
        targets = data.mask(index)
        try:
            evaluation.update(targets, answers, str(there[stem]))
        except DatasetError as error:
            raise ImageError(str(error)) from None
    report = evaluation.compute()
    report["passes"] = f"label maps of {folder.name}"
    spare = len(there) - len(stems)
    return {**report, "not_used": spare} if spare else report


def _answers(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in MASK_SUFFIXES]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror}); give yourself the right to read it") from error


def _mean(values: Tensor) -> float:
    present = values[~values.isnan()]
    return float(present.mean()) if len(present) else 0.0


def _plain(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)
