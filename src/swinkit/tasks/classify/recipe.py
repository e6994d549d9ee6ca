"""What a recipe of a classifier says besides what every recipe says."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from swinkit.training.recipe import Augment, Recipe


class MixedAugment(Augment):
    """Random changes of training pictures and of whole batches; zeros switch a change off."""

    mixup: float = Field(0.8, ge=0, le=100, description="alpha of mixup")
    cutmix: float = Field(1.0, ge=0, le=100, description="alpha of CutMix")
    switch: float = Field(0.5, ge=0, le=1, description="share of CutMix when both are on")
    label_smoothing: float = Field(0.1, ge=0, lt=1)


class ClassifyRecipe(Recipe):
    """Everything a run of a classifier depends on besides the data."""

    task: Literal["classify"] = "classify"
    augment: MixedAugment = MixedAugment()
    class_weights: Literal["none", "balanced"] = "none"
    map_22k: bool = Field(False, description="take the rows of the 1,000 classes out of a 22K head")
