"""A classifier: one linear layer, which every code base keeps among the backbone's tensors under a name of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from swinkit.errors import CheckpointError, ShapesDiffer
from swinkit.labels import imagenet_names, map_22k_to_1k
from swinkit.models.classifier import SwinClassifier
from swinkit.specs import ModelSpec, Preprocessing, Variant
from swinkit.weights import hf
from swinkit.weights.heads.base import Fields, Head, Mode, Tensors
from swinkit.weights.rows import Row


class Classify(Head):
    """Classes of a whole picture; also what every backbone without another head is taken for."""

    task = "classify"
    network: ClassVar[type[nn.Module]] = SwinClassifier
    within = ("head.",)
    rows: ClassVar[dict[str, tuple[Row, ...]]] = {
        "official": (Row(("head.*",), ("head.*",)),),
        "timm": (Row(("head.*",), ("head.fc.*",)),),
        "hf": (Row(("head.*",), ("classifier.*",)),),
        "torchvision": (Row(("head.*",), ("head.*",)),),
        "mm": (Row(("head.*",), ("head.fc.*",)),),
    }
    hf_types = hf.BODIES

    def names(self, name: str) -> bool:
        """Return True: a name that is no other kind's is a variant's, or unknown."""
        return True

    def describes(self, spec: ModelSpec) -> bool:
        """Return True: a description with no other head is one of a backbone."""
        return True

    def classes(self, tensors: Tensors) -> int:
        """Return the rows of the layer, 0 when there is none (pooled features)."""
        weight = tensors.get("head.weight")
        return 0 if weight is None else int(weight.shape[0])

    def undescribed(self, variant: Variant, fields: Fields, dialect: str, name: str) -> ModelSpec:
        """Return the description of a published classifier."""
        return ModelSpec(variant, _published_preparation(dialect, variant), imagenet_names(variant.num_classes), name=name)

    def read_hf(self, config: dict[str, Any], preparation: dict[str, Any] | None) -> ModelSpec:
        """Return the description of transformers' Swin, with or without its classifier."""
        spec = hf.read_config(config, preparation)
        return spec.changed(multi_label=config.get("problem_type") == "multi_label_classification")

    def fit(self, given: Tensors, wanted: Tensors, mode: Mode, notes: list[str]) -> None:
        """Take 1,000 rows of a 22K layer, or start at zero, as the original loader does."""
        if "head.weight" not in wanted:
            return
        classes = wanted["head.weight"].shape[0]
        old = given["head.weight"].shape[0] if "head.weight" in given else 0
        if old == classes and "head.bias" in given:
            return
        if mode == "exact":
            if old:
                raise ShapesDiffer(f"the weights have {old} classes, the network {classes}; build it with num_classes={old}")
            return
        if mode == "22k" and (old, classes) == (21841, 1000):
            rows = map_22k_to_1k()
            given["head.weight"], given["head.bias"] = given["head.weight"][rows], given["head.bias"][rows]
            notes.append("head: 1000 rows of the 22K head by the authors' map")
            return
        given["head.weight"], given["head.bias"] = (torch.zeros_like(wanted[f"head.{part}"]) for part in ("weight", "bias"))
        notes.append(f"head replaced ({old} -> {classes} classes)" if old else f"a new head for {classes} classes")

    def prefix(self, spec: ModelSpec, dialect: str) -> str:
        """Return transformers' name of the backbone, which a network of pooled features does without."""
        if dialect != "hf" or not spec.variant.num_classes:
            return ""
        return "swin." if spec.variant.version == 1 else "swinv2."

    def write_hf(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the configuration of transformers' ``SwinForImageClassification``, or of its Swin V2."""
        variant = spec.variant
        if variant.version == 1 and len(set(variant.stage_windows)) > 1:
            raise CheckpointError(
                f"transformers gives every stage of a Swin V1 the window {variant.window_size}, this network has "
                f"{variant.stage_windows}; it cannot be written as hf (use --to official)"
            )
        if variant.absolute_position:
            raise CheckpointError("absolute positions cannot be written as hf; no released model has them")
        config = hf.write_config(spec)
        if variant.num_classes:
            config |= hf.label_tables(spec)
            config["problem_type"] = "multi_label_classification" if spec.multi_label else "single_label_classification"
        return config


def _published_preparation(dialect: str, variant: Variant) -> Preprocessing:
    """Return how the publisher of a dialect's files measured them.

    Source: MS ``data/build.py``; timm ``pretrained_cfg``; torchvision's weights' transforms.
    """
    side = variant.img_size
    if dialect == "timm":
        return Preprocessing((side, side), "shorter", side if side >= 384 else int(side / 0.9))
    if dialect == "torchvision":
        shorter = {(1, 96, 6): 232, (1, 96, 18): 246, (1, 128, 18): 238, (2, 128, 18): 272}
        default, made_for = (232, 224) if variant.version == 1 else (260, 256)
        depth = variant.depths[min(2, len(variant.depths) - 1)]
        published = shorter.get((variant.version, variant.embed_dim, depth), default)
        return Preprocessing((side, side), "shorter", round(side * published / made_for))
    if side >= 384 or dialect == "hf":
        return Preprocessing((side, side), "squash")
    return Preprocessing((side, side), "shorter", int(256 / 224 * side))
