# ruff: noqa: ARG002 - a task may not need all that it is told
"""Semantic segmentation as a task: label maps in, a class for every pixel of a photo out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from swinkit.data.check import Report
from swinkit.data.geometry import Geometry
from swinkit.data.masks import palette_of
from swinkit.data.names import part_path
from swinkit.data.parts import MissingPart, UndividedData
from swinkit.data.transforms import resized
from swinkit.errors import DatasetError, InputError
from swinkit.models.build import build_network
from swinkit.models.segmentation import Segmenter
from swinkit.models.segmentation.losses import SegmentationLoss
from swinkit.models.systems import DEFAULT_DECODERS, segmenter_macs
from swinkit.printing import table
from swinkit.specs import Decoder, MaskRules, ModelSpec
from swinkit.tasks.base import Cost, Photo, Run, Task, squashed
from swinkit.tasks.segment.check import check_masks, has_masks
from swinkit.tasks.segment.data import SegmentationData, open_segmentation
from swinkit.tasks.segment.metric import METRICS, evaluate_predictions, evaluate_segmentation
from swinkit.tasks.segment.options import SegmentCheck, SegmentEvaluate, SegmentPredict
from swinkit.tasks.segment.passes import Passes, label_map
from swinkit.tasks.segment.recipe import SegmentRecipe
from swinkit.tasks.segment.result import SegmentationResult
from swinkit.tasks.segment.work import SegmentWork, median_frequency
from swinkit.training.batches import Counting
from swinkit.training.log import Metric

MOST_SIZES = 4  # of a data set that are exported unasked


class Segment(Task):
    """Semantic segmentation (arXiv 2103.14030, section 4.3)."""

    name = "segment"
    noun = "segmenter"
    verb = "segmented"
    pipeline = "image-segmentation"
    timm_backbones = True
    result = SegmentationResult
    recipe = SegmentRecipe
    predict_options = SegmentPredict
    evaluate_options = SegmentEvaluate
    check_options = SegmentCheck
    use = ('predictor = swinkit.load("weights/best.safetensors")', 'print(predictor.predict("photo.jpg").areas)')

    def smaller(self, photos: int) -> str:
        return "use tiles, or the cpu"

    def metrics(self, spec: ModelSpec) -> tuple[Metric, ...]:
        return METRICS

    def open_parts(self, data: str, plan: SegmentRecipe) -> tuple[SegmentationData, SegmentationData]:
        """Return the training and the validation part, with the same classes and colours."""
        rules = MaskRules(plan.data.void) if plan.data.void else None
        whole = str(part_path(data, plan.data.train)) if plan.data.train else data
        train = open_segmentation(whole, "train", plan.data.classes, rules)
        try:
            where = str(part_path(data, plan.data.val)) if plan.data.val else data
            return train, open_segmentation(where, "val", train.classes, train.rules)
        except MissingPart:
            pass
        count = max(1, round(plan.data.val_fraction * len(train)))
        if len(train) < 2:
            raise DatasetError(f"{data}: {len(train)} pair is too few; at least 2 are needed to keep one for validation")
        held = set(np.random.default_rng(plan.seed).permutation(len(train))[:count].tolist())
        return train.subset([i for i in range(len(train)) if i not in held]), train.subset(sorted(held))

    def open_part(self, data: str, split: str | None, spec: ModelSpec) -> SegmentationData:
        # What the model knows, a folder without classes.txt need not say.
        classes = list(spec.labels) or [str(index) for index in range(spec.variant.num_classes)]
        try:
            found = open_segmentation(data, split, classes, spec.masks)
        except MissingPart as error:
            if split != "val":
                raise
            raise UndividedData(str(error)) from error  # "val" also means: all there is
        if found.classes != classes:
            raise InputError(f"{data}: has other classes than the model (first: {found.classes[0]!r}); evaluate on its own kind")
        return found

    def recognises(self, data: str) -> bool:
        return has_masks(data)

    def check(self, data: str, options: SegmentCheck, progress: Counting | None) -> Report:
        return check_masks(data, progress, options.void)

    def decide(self, spec: ModelSpec, plan: SegmentRecipe, data: SegmentationData, start: ModelSpec | None) -> ModelSpec:
        """Return the description with decoder, classes and colours: the checkpoint's decoder, or the recipe's."""
        wishes = {name: value for name, value in plan.decoder.model_dump().items() if value is not None}
        kind = wishes.pop("kind", None)
        if start is not None and start.decoder is not None and kind in (None, start.decoder.kind):
            decoder = start.decoder
        else:
            decoder = DEFAULT_DECODERS[kind or "upernet"]
        decoder = Decoder(**{**decoder.to_dict(), "pool_scales": decoder.pool_scales, **wishes})
        return spec.changed(decoder=decoder, masks=data.rules, labels=tuple(data.classes))

    def trainable(self, plan: SegmentRecipe, spec: ModelSpec, data: SegmentationData) -> nn.Module:
        network = cast("Segmenter", build_network(spec))
        scale = median_frequency(data) if plan.class_weights == "balanced" else None
        network.losses = SegmentationLoss(plan.loss.divide, plan.loss.auxiliary, plan.loss.dice, scale)
        return network

    def work(self, plan: SegmentRecipe, spec: ModelSpec, train: SegmentationData, val: SegmentationData) -> SegmentWork:
        return SegmentWork(plan, spec, train, val)

    def prepare(self, image: Image.Image, spec: ModelSpec) -> tuple[Tensor | None, Geometry]:
        size = (image.height, image.width)
        return None, Geometry(size, size)  # ``label_map`` prepares the photo, as often as the passes need it

    def answer(self, run: Run, photos: Sequence[Photo], spec: ModelSpec, options: SegmentPredict) -> list[SegmentationResult]:
        labels = spec.labels or tuple(str(index) for index in range(spec.variant.num_classes))
        palette, passes = palette_of(spec.masks, len(labels)), Passes(tile=options.tile)
        found = []
        for photo in photos:
            assert photo.image is not None
            mask = label_map(run, photo.image, spec.preprocessing, passes)
            found.append(SegmentationResult(photo.name, mask, tuple(labels), palette, picture=photo.kept))
        return found

    def evaluate(
        self,
        model: nn.Module,
        data: SegmentationData,
        spec: ModelSpec,
        options: SegmentEvaluate,
        *,
        device: str | torch.device = "cpu",
        precision: torch.dtype | None = None,
        progress: Counting | None = None,
    ) -> dict[str, Any]:
        if options.predictions is not None:
            if options != SegmentEvaluate(predictions=options.predictions):
                raise InputError(
                    "label maps of a folder are measured as they are; leave out --scales, --flip, --window and --tile"
                )
            return evaluate_predictions(options.predictions, data)
        return evaluate_segmentation(
            model,
            data,
            spec.preprocessing,
            options=passes_of(options),
            device=device,
            precision=precision,
            progress=progress,
        )

    def evaluate_answers(self, data: str, split: str, options: SegmentEvaluate) -> dict[str, Any]:
        if options.predictions is None:
            raise InputError("nothing to measure; name a checkpoint, or give --predictions with a folder of label maps")
        if options != SegmentEvaluate(predictions=options.predictions):
            raise InputError("label maps of a folder are measured as they are; leave out --scales, --flip, --window and --tile")
        try:
            truth = open_segmentation(data, split)
        except MissingPart:
            if split != "val":  # the default also means: all there is
                raise
            truth = open_segmentation(data, None)
        return evaluate_predictions(options.predictions, truth)

    def report(self, report: dict[str, Any]) -> list[str]:
        figures = [[metric.name, f"{100 * report[metric.name]:.2f} %"] for metric in METRICS]
        figures += [["pictures", f"{report['count']:,}"], ["pixels", f"{report['pixels']:,}"]]
        rows = [["class", "IoU", "Acc", "pixels"]]
        for name, row in report["per_class"].items():
            parts = ["absent" if row[key] is None else f"{100 * row[key]:.2f} %" for key in ("IoU", "Acc")]
            rows.append([name, *parts, f"{row['pixels']:,}"])
        return [*table(figures), *table(rows), report["passes"], *filter(None, [report.get("preprocessing")])]

    def export_sizes(
        self, data: SegmentationData, spec: ModelSpec, sizes: Sequence[tuple[int, int]], where: str
    ) -> tuple[list[tuple[int, int]], SegmentationData]:
        """Return the sizes that the pictures have once they are prepared, and the pictures that have one of them."""
        grey = len(spec.preprocessing.mean) == 1
        shapes = [resized(data.read(index, grey), spec.preprocessing).shape for index in range(len(data))]
        each = [(height, width) for _, height, width in shapes]
        counts = Counter(each).most_common()
        most = ", ".join(f"--size {height}x{width} for {count}" for (height, width), count in counts[:MOST_SIZES])
        if not sizes and len(counts) > MOST_SIZES:
            raise InputError(
                f"{where}: the pictures have {len(counts)} sizes once they are prepared, too many for one export; "
                f"name some, whose pictures then judge: {most}"
            )
        taken = list(dict.fromkeys(sizes or [size for size, _ in counts]))
        kept = [index for index, size in enumerate(each) if size in taken]
        if not kept:
            raise InputError(f"{where}: no picture has one of the sizes once it is prepared; there are {most}")
        return taken, data.subset(kept)

    def scores(
        self,
        model: nn.Module,
        data: SegmentationData,
        spec: ModelSpec,
        sizes: Sequence[tuple[int, int]],
    ) -> dict[str, float]:
        """Return the mIoU over the pictures of all sizes."""
        return {"mIoU": float(evaluate_segmentation(model, data, spec.preprocessing)["mIoU"])}

    def at_size(self, spec: ModelSpec, size: tuple[int, int]) -> ModelSpec:
        return spec.changed(preprocessing=squashed(spec.preprocessing, size))

    def cost(self, spec: ModelSpec) -> Cost:
        assert spec.decoder is not None
        if spec.backbone:
            return Cost(None, f"{spec.backbone} is not counted here")
        size = spec.preprocessing.size if spec.preprocessing.resize != "native" else (spec.variant.img_size,) * 2
        macs = sum(segmenter_macs(spec.variant, spec.decoder, size, reordered=True).values())
        return Cost(macs, f"one image of {size[0]} x {size[1]} px")

    def facts(self, spec: ModelSpec) -> dict[str, str]:
        decoder = spec.decoder
        assert decoder is not None
        auxiliary = f", auxiliary head {decoder.auxiliary_channels}" if decoder.auxiliary_channels else ""
        return {"decoder": f"{decoder.kind}, {decoder.channels} channels{auxiliary}"}


def passes_of(options: SegmentEvaluate) -> Passes:
    """Return how a photo goes through the network, from the options of ``evaluate``."""
    scales = options.scales
    try:
        ratios = tuple(float(value) for value in (scales.split(",") if isinstance(scales, str) else scales))
        return Passes(ratios, options.flip, options.window, options.stride, options.scales_of == "picture", options.tile)
    except ValueError as error:
        raise InputError(
            f"--scales {scales}, --window {options.window}, --stride {options.stride}, --tile {options.tile}: {error}"
        ) from None
