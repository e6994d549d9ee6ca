# ruff: noqa: ARG002 - a task may not need all that it is told
"""Pre-training as a task: pictures without labels in, an encoder for fine-tuning out."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from swinkit import weights
from swinkit.data import ClassificationData
from swinkit.data.check import Report, check_data
from swinkit.models.simmim import SimMIM
from swinkit.specs import ModelSpec
from swinkit.tasks.base import Task
from swinkit.tasks.folders import open_class_folders
from swinkit.tasks.options import NoOptions
from swinkit.tasks.pretrain.recipe import PretrainRecipe
from swinkit.tasks.pretrain.work import METRICS, PretrainWork
from swinkit.training.batches import Counting
from swinkit.training.log import Metric


class Pretrain(Task):
    """SimMIM (arXiv 2111.09886). What it saves is an encoder without classes, which answers no photos."""

    name = "simmim"
    noun = "pre-trained encoder"
    verb = "encoded"
    pipeline = "image-feature-extraction"
    has_classes = False
    recipe = PretrainRecipe
    use = ('# an encoder without classes: a start for "swinkit train finetune --model weights/best.safetensors"',)

    def metrics(self, spec: ModelSpec) -> tuple[Metric, ...]:
        return METRICS

    def open_parts(self, data: str, plan: PretrainRecipe) -> tuple[ClassificationData, ClassificationData]:
        return open_class_folders(data, plan)

    def check(self, data: str, options: NoOptions, progress: Counting | None) -> Report:
        return check_data(data, progress)

    def trainable(self, plan: PretrainRecipe, spec: ModelSpec, data: Any) -> nn.Module:
        return SimMIM(spec.variant, plan.masking.normalise_targets)

    def fill(self, network: nn.Module, checkpoint: weights.Checkpoint, plan: Any) -> str:
        return weights.load_into(cast("SimMIM", network).encoder, checkpoint, head="new")

    def work(self, plan: PretrainRecipe, spec: ModelSpec, train: Any, val: Any) -> PretrainWork:
        return PretrainWork(plan, spec, train, val)

    def next_steps(self, folder: str, file: str, data: str) -> list[list[str]]:
        return [["swinkit", "train", "finetune", "--model", file, "--data", "FOLDER"]]
