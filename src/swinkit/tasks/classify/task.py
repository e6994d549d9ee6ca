# ruff: noqa: ARG002 - a task may not need all that it is told
"""Image classification as a task: pictures by class in, the most probable classes of a photo out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from swinkit import weights
from swinkit.data import ClassificationData, open_dataset
from swinkit.data.check import Report, check_data
from swinkit.errors import InputError
from swinkit.models.build import build_network
from swinkit.models.classifier import ClassificationLoss, SwinClassifier
from swinkit.printing import table
from swinkit.specs import ModelSpec
from swinkit.tasks.base import Photo, Task
from swinkit.tasks.classify.matching import match_classes
from swinkit.tasks.classify.metric import evaluate_classifier, metrics_of
from swinkit.tasks.classify.options import ClassifyEvaluate, ClassifyPredict
from swinkit.tasks.classify.recipe import ClassifyRecipe
from swinkit.tasks.classify.result import ClassificationResult, Prediction
from swinkit.tasks.classify.work import ClassifyWork, balanced
from swinkit.tasks.folders import open_class_folders
from swinkit.tasks.options import NoOptions
from swinkit.training.batches import Counting
from swinkit.training.log import Metric

MOST_CLASSES = 30  # more than these are only in the JSON
MOST_MISTAKES = 10  # more than these are only in the files


class Classify(Task):
    """Image classification, one label a picture or several (arXiv 2103.14030, section 4.1)."""

    name = "classify"
    noun = "classifier"
    verb = "classified"
    pipeline = "image-classification"
    result = ClassificationResult
    recipe = ClassifyRecipe
    predict_options = ClassifyPredict
    evaluate_options = ClassifyEvaluate
    use = ('predictor = swinkit.load("weights/best.safetensors")', 'print(predictor.predict("photo.jpg").top)')

    def metrics(self, spec: ModelSpec) -> tuple[Metric, ...]:
        return metrics_of(spec)

    def open_parts(self, data: str, plan: ClassifyRecipe) -> tuple[ClassificationData, ClassificationData]:
        return open_class_folders(data, plan)

    def open_part(self, data: str, split: str | None, spec: ModelSpec) -> ClassificationData:
        labels = list(spec.labels) or [str(index) for index in range(spec.variant.num_classes)]
        return match_classes(open_dataset(data, split=split), labels)

    def check(self, data: str, options: NoOptions, progress: Counting | None) -> Report:
        return check_data(data, progress)

    def decide(
        self,
        spec: ModelSpec,
        plan: ClassifyRecipe,
        data: ClassificationData,
        start: ModelSpec | None,
    ) -> ModelSpec:
        return spec.changed(multi_label=data.multi_label)

    def head_for(self, checkpoint: weights.Checkpoint, plan: ClassifyRecipe, data: ClassificationData) -> weights.Checkpoint:
        return checkpoint if plan.map_22k else super().head_for(checkpoint, plan, data)

    def trainable(self, plan: ClassifyRecipe, spec: ModelSpec, data: ClassificationData) -> nn.Module:
        network = cast("SwinClassifier", build_network(spec))
        scale = balanced(data, spec) if plan.class_weights == "balanced" else None
        network.losses = ClassificationLoss(spec.multi_label, scale)
        return network

    def fill(self, network: nn.Module, checkpoint: weights.Checkpoint, plan: ClassifyRecipe) -> str:
        return weights.load_into(network, checkpoint, head="22k" if plan.map_22k else "new")

    def work(self, plan: ClassifyRecipe, spec: ModelSpec, train: Any, val: Any) -> ClassifyWork:
        return ClassifyWork(plan, spec, train, val)

    def decode(self, outputs: Tensor, photo: Photo, spec: ModelSpec, options: ClassifyPredict) -> ClassificationResult:
        probabilities = outputs.sigmoid() if spec.multi_label else outputs.softmax(dim=-1)
        values, indices = probabilities.topk(min(options.top, len(probabilities)))
        found = zip(indices.tolist(), values.tolist(), strict=True)
        predictions = tuple(Prediction(spec.labels[i] if spec.labels else str(i), i, value) for i, value in found)
        return ClassificationResult(photo.name, predictions, picture=photo.kept)

    def evaluate(
        self,
        model: nn.Module,
        data: ClassificationData,
        spec: ModelSpec,
        options: ClassifyEvaluate,
        *,
        device: str | torch.device = "cpu",
        precision: torch.dtype | None = None,
        progress: Counting | None = None,
    ) -> dict[str, Any]:
        if options.mistakes and spec.multi_label:
            raise InputError("--mistakes is for models that give one label a picture; leave it out")
        return evaluate_classifier(
            model,
            data,
            spec.preprocessing,
            batch=options.batch,
            device=device,
            multi_label=spec.multi_label,
            groups=None if options.groups is None else Path(options.groups),
            real=None if options.real is None else Path(options.real),
            precision=precision,
            progress=progress,
        )

    def report(self, report: dict[str, Any]) -> list[str]:
        figures = [
            [name, f"{100 * report[name]:.2f} %" if "top" in name else f"{report[name]:.4f}"]
            for name in ("top1", "top5", "real_top1", "mAP", "f1_micro", "f1_macro", "ece")
            if isinstance(report.get(name), float)
        ]
        macro = [[f"macro {name}", f"{100 * share:.2f} %"] for name, share in report["macro"].items()]
        lines = [*table([*figures, *macro, ["count", f"{report['count']:,}"]]), f"photos were {report['preprocessing']}"]
        if report.get("groups"):
            lines += table([[name, _per_cent(row["accuracy"]), f"{row['count']:,}"] for name, row in report["groups"].items()])
        rows = {name: row for name, row in report["per_class"].items() if row["count"]}
        if rows and len(rows) <= MOST_CLASSES:
            columns = (["average_precision"] if "mAP" in report else []) + ["precision", "recall", "f1"]
            lines += table(
                [["class", *(name.replace("_", " ") for name in columns), "count"]]
                + [[name, *(_per_cent(row[key]) for key in columns), f"{row['count']:,}"] for name, row in rows.items()]
            )
        wrong = report.get("mistakes", [])
        if wrong:
            first = f", the {MOST_MISTAKES} surest" if len(wrong) > MOST_MISTAKES else ""
            lines.append(f"{len(wrong):,} wrong answers{first}:")
            lines += table(
                [
                    [row["file"], row["truth"], f"-> {row['answer']}", _per_cent(row["probability"])]
                    for row in wrong[:MOST_MISTAKES]
                ]
            )
        return lines

    def chance(self, spec: ModelSpec) -> str:
        return "" if spec.multi_label else f"chance is {1 / len(spec.labels):.1%}"


def _per_cent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.2f} %"
