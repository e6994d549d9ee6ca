"""What a recipe of SimMIM says besides what every recipe says."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from swinkit.training.recipe import Augment, Recipe, Section


class Masking(Section):
    """SimMIM (arXiv 2111.09886): which part of a picture is hidden, and what is compared."""

    cell: int = Field(32, ge=1, le=4096, description="side of a hidden cell in pixels")
    ratio: float = Field(0.6, gt=0, lt=1)
    normalise_targets: int = Field(0, ge=0, le=4096, description="side of the window targets are normalised in; 0 = plain pixels")


class PretrainRecipe(Recipe):
    """Everything a run of SimMIM depends on besides the data."""

    task: Literal["simmim"] = "simmim"
    augment: Augment = Augment()
    masking: Masking = Masking()
