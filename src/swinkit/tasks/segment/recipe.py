"""What a recipe of a segmenter says besides what every recipe says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from swinkit.training.recipe import Data, Pixels, Ratio, Recipe, Section, rising
from swinkit.training.values import echo

ClassName = Annotated[str, Field(min_length=1, max_length=200)]
MaskValue = Annotated[int, Field(ge=0, le=65535)]


class Mirror(Section):
    """Random changes of pictures and label maps together, besides ``scene``."""

    flip: float = Field(0.5, ge=0, le=1)


class SceneView(Section):
    """Random views of pictures with label maps."""

    crop: tuple[Pixels, Pixels] = Field((512, 512), description="height and width of the training input, pixels")
    ratio: tuple[Ratio, Ratio] = Field((0.5, 2.0), description="range of the scale, times the test preparation's")
    max_share: float = Field(0.75, gt=0, le=1, description="largest share of one class in a crop; 1 takes any crop")
    distort: bool = Field(True, description="change brightness, contrast, saturation, hue")

    @model_validator(mode="after")
    def _rising(self) -> SceneView:
        rising("ratio", self.ratio)
        return self


class Head(Section):
    """The decoder. None keeps its published widths, or the checkpoint's."""

    kind: Literal["upernet", "fpn", "unet"] | None = None
    channels: int | None = Field(None, ge=1, le=4096)
    neck_channels: int | None = Field(None, ge=1, le=4096)
    auxiliary_channels: int | None = Field(None, ge=0, le=4096)
    auxiliary_index: int | None = Field(None, ge=0, le=8)
    dropout: float | None = Field(None, ge=0, lt=1)
    deconv_kernel: int | None = Field(None, ge=0, le=16, description="unet: side of its transposed convolutions; 0 enlarges")


class Loss(Section):
    """Losses of label maps."""

    divide: Literal["all", "valid"] = Field(
        "valid", description="cross entropy over all pixels (authors, mmseg) or those not void"
    )
    auxiliary: float = Field(0.4, ge=0, le=1000, description="weight of the auxiliary head's loss")
    dice: float = Field(0.0, ge=0, le=1000, description="weight of a Dice loss beside cross entropy, for rare classes")


class MaskData(Data):
    """Which files of ``--data`` are which part, and what the values of label maps mean."""

    classes: tuple[ClassName, ...] = Field(
        (), max_length=255, description="class names in index order, when the data does not say them"
    )
    void: tuple[MaskValue, ...] = Field((), max_length=1000, description="values besides 255 that mean nothing")

    @model_validator(mode="after")
    def _names(self) -> MaskData:
        doubled = [name for place, name in enumerate(self.classes) if name in self.classes[:place]]
        if doubled:
            raise ValueError(f"classes names {echo(doubled[0])} twice")
        if not all(name.isprintable() for name in self.classes):
            raise ValueError("classes holds a name with control characters")
        return self


class SegmentRecipe(Recipe):
    """Everything a run of a segmenter depends on besides the data."""

    task: Literal["segment"] = "segment"
    augment: Mirror = Mirror()
    scene: SceneView = SceneView()
    decoder: Head = Head()
    loss: Loss = Loss()
    data: MaskData = MaskData()
    class_weights: Literal["none", "balanced"] = "none"
