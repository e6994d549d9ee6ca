"""Options of the commands for segmenters, and how often a photo goes through the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from swinkit.errors import InputError


@dataclass(frozen=True)
class SegmentPredict:
    """How photos are segmented, one after the other.

    Args:
        tile: side of tiles that the photo is cut into, pixels, each answered like a photo, seams blended; 0 takes it whole.
    """

    batch: ClassVar[int] = 1
    tile: int = field(default=0, metadata={"min": 0, "help": "Cut photos into tiles of so many pixels."})

    def __post_init__(self) -> None:
        if self.tile and (isinstance(self.tile, bool) or not isinstance(self.tile, int) or not 16 <= self.tile <= 16384):
            raise InputError(f"a tile is 16 to 16384 pixels wide, got {self.tile!r}")


@dataclass(frozen=True)
class SegmentEvaluate:
    """How a segmenter is measured.

    Args:
        predictions: folder of label maps to measure instead of a network.
        scales: of the picture, averaged as probabilities; numbers, or a text of numbers with commas.
        scales_of: what the scales multiply: "box", the size a picture is prepared to, or "picture", its own.
        flip: average with mirror images.
        window: side of a sliding window, pixels; 0 is the whole.
        stride: step of the window; 0 is two thirds of it.
        tile: side of tiles, pixels of the picture; 0 does not cut.
    """

    predictions: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "Measure the PNGs in this folder instead of the network."}
    )
    scales: str | tuple[float, ...] = field(
        default="1", metadata={"help": "Scales to average, for example 0.5,0.75,1,1.25,1.5,1.75."}
    )
    scales_of: str = field(
        default="box", metadata={"choices": ("box", "picture"), "help": "What the scales multiply: box or picture."}
    )
    flip: bool = field(default=False, metadata={"help": "Average with mirror images."})
    window: int = field(default=0, metadata={"min": 0, "help": "Side of a sliding window, pixels; 0 is the whole."})
    stride: int = field(default=0, metadata={"min": 0, "help": "Step of the window; 0 is two thirds of it."})
    tile: int = field(default=0, metadata={"min": 0, "help": "Cut pictures into tiles of so many pixels; 0 does not."})

    def __post_init__(self) -> None:
        if self.scales_of not in ("box", "picture"):
            raise InputError(f"scales_of is box or picture, got {self.scales_of!r}")


@dataclass(frozen=True)
class SegmentCheck:
    """How pictures with label maps are checked.

    Args:
        void: values besides 255 that mean nothing.
    """

    void: tuple[int, ...] = field(
        default=(), metadata={"min": 0, "max": 65535, "help": "A value besides 255 that means nothing; repeat it."}
    )
