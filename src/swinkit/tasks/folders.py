"""Folders of pictures by class, opened for a run or for a measurement. For the tasks that read them."""

from __future__ import annotations

from typing import Any

from swinkit.data import ClassificationData, open_dataset, split_dataset
from swinkit.data.folders import MissingPart
from swinkit.data.names import part_path
from swinkit.errors import DatasetError


def open_class_folders(data: str, plan: Any) -> tuple[ClassificationData, ClassificationData]:
    """Return the training and the validation part, with the same classes; ``plan`` is a recipe."""
    if plan.data.train:
        train_data = open_dataset(part_path(data, plan.data.train))
        if not plan.data.val:
            return split_dataset(train_data, plan.data.val_fraction, plan.seed)
        val_data = open_dataset(part_path(data, plan.data.val))
    else:
        train_data = open_dataset(data, split="train")
        try:
            val_data = open_dataset(data, split="val")
        except MissingPart:
            return split_dataset(train_data, plan.data.val_fraction, plan.seed)
    if val_data.classes != train_data.classes:
        differing = sorted(set(train_data.classes) ^ set(val_data.classes))
        raise DatasetError(f"{data}: train and val have other classes (first: {differing[0]!r}); give both the same folders")
    return train_data, val_data
