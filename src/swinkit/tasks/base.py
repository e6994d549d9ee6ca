# ruff: noqa: ARG002 - defaults ignore what tasks of their own use
"""What a task brings: the object that the predictor, the training loop, the commands and the cards ask.

``Task`` holds what most tasks have in common: pictures that are prepared alike, answered in batches, one network, one
``Work``. A task overrides what differs; ``Result`` is what its answers can do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from swinkit import weights
from swinkit.data.check import Report
from swinkit.data.geometry import Geometry
from swinkit.data.images import read_image
from swinkit.data.transforms import placed, resized
from swinkit.errors import CheckpointError, InputError, RunError
from swinkit.export.write import default_size
from swinkit.models.build import build_network
from swinkit.models.variants import count_macs
from swinkit.specs import ModelSpec, Preprocessing
from swinkit.tasks.classes import with_head_of
from swinkit.tasks.options import NoOptions, Together
from swinkit.training.batches import Batch, Counting, Work
from swinkit.training.checkpoint import Progress
from swinkit.training.log import Metric
from swinkit.training.recipe import Recipe

Outputs = Any  # a tensor, or tensors by name
Run = Callable[[Tensor], Outputs]  # a prepared batch, uint8 (B, C, h, w) or normalised float, to the network's raw outputs


class Result(Protocol):
    """An answer for one picture. Made as ``result(source, error=...)`` where the picture could not be read.

    Attributes:
        columns: of ``rows``.
        suffix: of the file that ``save`` writes.
        source: path of the picture, or what to call one that came in memory.
        error: why there is no answer, one sentence; None when there is one.
    """

    columns: ClassVar[tuple[str, ...]]
    suffix: ClassVar[str]

    @property
    def source(self) -> str: ...

    @property
    def error(self) -> str | None: ...

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, ``source`` and ``error`` among them."""

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the answer as rows of a table, in the order of ``columns``."""

    def line(self) -> str:
        """Return the answer in one line, the source first."""

    def text(self) -> list[str]:
        """Return the answer in a few lines, for a terminal."""

    def draw(self) -> Image.Image:
        """Return the picture with its answer drawn on it."""

    def save(self, path: str | Path) -> None:
        """Write the answer as a file of its own kind, whole or not at all."""


@dataclass(frozen=True)
class Photo:
    """A photo on its way to an answer.

    Args:
        name: its path, or what to call it.
        image: the upright picture, with as many channels as the network takes; None where ``pixels`` are all that is needed
            and the file can be read again.
        pixels: (C, h, w) uint8, prepared; None where the task prepares it itself.
        geometry: where ``pixels`` lie in the photo.
        on_disk: ``name`` is a path to read it from again.
    """

    name: str
    image: Image.Image | None
    pixels: Tensor | None
    geometry: Geometry
    on_disk: bool

    @property
    def kept(self) -> Image.Image | None:
        """What a result has to keep for drawing: a picture that came in memory is in no file, or no longer the same."""
        return None if self.on_disk else self.image


def drawn_on(source: str, picture: Image.Image | None) -> Image.Image:
    """Return the picture that a result speaks of: the one it kept, or the file read again."""
    return picture if picture is not None else read_image(Path(source))


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one image.

    Args:
        macs: None when unknown.
        of: which image ("one image of 224 px"), or why it is unknown.
    """

    macs: int | None
    of: str


class Task:
    """One thing that a network can be trained to do.

    Attributes:
        name: value of ``ModelSpec.task`` and of a recipe's ``task``.
        noun: what such a network is called.
        verb: what it has done to a photo.
        pipeline: tag of the Hugging Face Hub.
        has_classes: whether labels are used in training.
        timm_backbones: whether its networks stand on timm's pyramids too.
        result: type of its answers.
        recipe: type of its recipes.
        predict_options, evaluate_options, check_options: its own options of these commands; dataclasses of ``options.py``.
        use: lines of Python that a model card shows.
    """

    name: str
    noun: str
    verb: str
    pipeline: str
    has_classes: bool = True
    timm_backbones: bool = False
    result: type[Any]
    recipe: type[Recipe]
    predict_options: type[Any] = Together
    evaluate_options: type[Any] = NoOptions
    check_options: type[Any] = NoOptions
    use: tuple[str, ...] = ()

    def smaller(self, photos: int) -> str:
        """Return what to do when so many photos at once do not fit into the memory."""
        return f"use a batch of {max(1, photos // 2)} or the cpu"

    def metrics(self, spec: ModelSpec) -> tuple[Metric, ...]:
        """Return the numbers of a report that people look at; the first picks the best weights and judges eight bits."""
        raise NotImplementedError

    # Data

    def open_parts(self, data: str, plan: Any) -> tuple[Any, Any]:
        """Return the training and the validation part, with the same classes."""
        raise NotImplementedError

    def open_part(self, data: str, split: str | None, spec: ModelSpec) -> Any:
        """Return a part of a data set (None: all of it) with the network's classes, to measure it by.

        Raises:
            MissingPart: there is no such part.
        """
        raise NotImplementedError

    def recognises(self, data: str) -> bool:
        """Return whether a folder or file is plainly of this task, for ``check-data``."""
        return False

    def check(self, data: str, options: Any, progress: Counting | None) -> Report:
        """Return what is wrong with a data set."""
        raise InputError(f"{data}: data for the task {self.name} cannot be checked; train on it, every picture is read first")

    # Networks

    def decide(self, spec: ModelSpec, plan: Any, data: Any, start: ModelSpec | None) -> ModelSpec:
        """Return a new run's description with what this task adds; ``start`` describes the checkpoint it begins with."""
        return spec

    def head_for(self, checkpoint: weights.Checkpoint, plan: Any, data: Any) -> weights.Checkpoint:
        """Return the checkpoint with what can be kept of its head for this data: rows of classes of the same name."""
        return with_head_of(checkpoint, data.classes) if self.has_classes else checkpoint

    def network(self, spec: ModelSpec) -> nn.Module:
        """Return the network a description tells of, with new weights: images -> outputs, images and targets -> losses."""
        return build_network(spec)

    def trainable(self, plan: Any, spec: ModelSpec, data: Any) -> nn.Module:
        """Return the network that a run trains, its losses set as the recipe says; ``data`` is the training part."""
        return self.network(spec)

    def fill(self, network: nn.Module, checkpoint: weights.Checkpoint, plan: Any) -> str:
        """Fill a network to be trained from a checkpoint; return what was taken, in words."""
        return weights.load_into(network, checkpoint, head="new")

    def work(self, plan: Any, spec: ModelSpec, train: Any, val: Any) -> Work:
        """Return what the training loop asks."""
        raise NotImplementedError

    # From photo to answer

    def prepare(self, image: Image.Image, spec: ModelSpec) -> tuple[Tensor | None, Geometry]:
        """Return the network's input, (C, h, w) uint8, and where it lies in the photo."""
        return placed(image, spec.preprocessing)

    def answer(self, run: Run, photos: Sequence[Photo], spec: ModelSpec, options: Any) -> list[Any]:
        """Return one result a photo, from what ``run`` computes."""
        outputs = run(torch.stack([photo.pixels for photo in photos if photo.pixels is not None]))
        outputs = {name: value.cpu() for name, value in outputs.items()} if isinstance(outputs, dict) else outputs.cpu()
        return [self.decode(row(outputs, place), photo, spec, options) for place, photo in enumerate(photos)]

    def decode(self, outputs: Outputs, photo: Photo, spec: ModelSpec, options: Any) -> Any:
        """Return the result that one photo's raw outputs mean, in pixels of the photo."""
        raise NotImplementedError

    # Data sets

    def evaluate(
        self,
        model: nn.Module,
        data: Any,
        spec: ModelSpec,
        options: Any,
        *,
        device: str | torch.device = "cpu",
        precision: torch.dtype | None = None,
        progress: Counting | None = None,
    ) -> dict[str, Any]:
        """Return the report on a data set of ``open_part``: the numbers of ``metrics`` (0..1), JSON-ready."""
        raise CheckpointError(f"a {self.noun} has no answers to measure; train it on labels first")

    def reads(self, options: Mapping[str, Any]) -> bool:
        """Return whether these options of ``evaluate`` name answers in files that this task can measure."""
        return "predictions" in options and set(options) <= {field.name for field in dataclasses.fields(self.evaluate_options)}

    def evaluate_answers(self, data: str, split: str, options: Any) -> dict[str, Any]:
        """Return the report on answers that somebody else has written, named by the options."""
        raise InputError("nothing to measure; name a checkpoint")

    def report(self, report: dict[str, Any]) -> list[str]:
        """Return a report as lines for a terminal."""
        return [f"{name}  {value:.4f}" for name, value in report.items() if isinstance(value, float)]

    # Exports in eight bits

    def export_sizes(
        self,
        data: Any,
        spec: ModelSpec,
        sizes: Sequence[tuple[int, int]],
        where: str,
    ) -> tuple[list[tuple[int, int]], Any]:
        """Return the sizes (height, width) of an export in eight bits, and the pictures of ``data`` that can judge it."""
        return list(dict.fromkeys(sizes or [default_size(spec)])), data

    def at_size(self, spec: ModelSpec, size: tuple[int, int]) -> ModelSpec:
        """Return the description with pictures prepared to a size that is declared for an export."""
        if size == default_size(spec):
            return spec
        return spec.changed(preprocessing=squashed(spec.preprocessing, size))

    def scores(self, model: nn.Module, data: Any, spec: ModelSpec, sizes: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Return the first metric at each size, by name."""
        found = {}
        for size in sizes:
            at = self.at_size(spec, size)
            metric = self.metrics(spec)[0].name
            report = self.evaluate(model, data, at, self.evaluate_options())
            found[metric if len(sizes) == 1 else f"{metric} at {size[0]}x{size[1]}"] = float(report[metric])
        return found

    def calibration(self, data: Any, spec: ModelSpec, size: tuple[int, int], index: int) -> np.ndarray:
        """Return a picture of a data set as an export of this size takes it: (1, C, H, W) uint8."""
        image = data.read(index, len(spec.preprocessing.mean) == 1)
        return resized(image, self.at_size(spec, size).preprocessing)[None].numpy()

    # Words

    def cost(self, spec: ModelSpec) -> Cost:
        """Return the multiply-adds of one image."""
        return Cost(count_macs(spec.variant), f"one image of {spec.variant.img_size} px")

    def facts(self, spec: ModelSpec) -> dict[str, str]:
        """Return what ``swinkit info`` says besides what it says of every network."""
        return {}

    def chance(self, spec: ModelSpec) -> str:
        """Return what guessing would reach, in words, or nothing."""
        return ""

    def next_steps(self, folder: str, file: str, data: str) -> list[list[str]]:
        """Return the commands that one runs after training, as words."""
        return [["swinkit", "evaluate", folder, "--data", data], ["swinkit", "predict", "PHOTOS", "--model", folder]]


class PictureWork:
    """What the training loop asks of most tasks. A task adds ``sample``, ``collate``, ``evaluate`` and ``draw``.

    Args:
        metrics: of the task.
        spec: the network's description.
        train, val: data with the same classes.
    """

    def __init__(self, metrics: Sequence[Metric], spec: ModelSpec, train: Any, val: Any) -> None:
        self.metrics, self.metric = tuple(metrics), metrics[0]
        self.spec, self.train, self.val = spec, train, val
        channels = len(spec.preprocessing.mean)
        if channels not in (1, 3):
            raise RunError(f"this network takes {channels} channels, pictures have 3 or are read as grey; start from another")
        self.grey = channels == 1

    def __len__(self) -> int:
        return len(self.train)

    def fingerprint(self) -> str:
        return f"{self.train.fingerprint()}-{self.val.fingerprint()}"

    def sample(self, index: int, rng: np.random.Generator) -> Any:
        raise NotImplementedError

    def evaluate(self, model: nn.Module, device: torch.device, progress: Counting | None = None) -> dict[str, Any]:
        raise NotImplementedError

    def collate(self, samples: list[tuple[Tensor, Any]], rng: np.random.Generator) -> Batch:
        return {"images": torch.stack([i for i, _ in samples]), "targets": torch.stack([t for _, t in samples])}

    def draw(self, folder: Path, batch: Batch | None, report: dict[str, Any] | None) -> None:
        """Draw nothing."""

    def save(self, path: Path, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Write weights and description, with the last epoch's metrics among its facts."""
        facts = dict(self.spec.facts)
        if progress.rows:
            names = {metric.name for metric in self.metrics if metric.kept}
            facts["metrics"] = {name: value for name, value in progress.rows[-1].items() if name in names}
        weights.save_native(path, tensors, self.spec.changed(facts=facts))


def row(outputs: Outputs, place: int) -> Outputs:
    """Return what a batch's raw outputs say of one picture."""
    if isinstance(outputs, dict):
        return {name: value[place] for name, value in outputs.items()}
    return outputs[place]


def precision_of(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """Return the autocast type of validation: the recipe's on an accelerator, none on a CPU, which it makes no faster."""
    return torch.bfloat16 if recipe.precision == "bf16" and device.type == "cuda" else None


def squashed(preprocessing: Preprocessing, size: tuple[int, int]) -> Preprocessing:
    """Return the preparation with pictures squashed to a size (height, width)."""
    return dataclasses.replace(preprocessing, size=size, resize="squash", resize_to=0)
