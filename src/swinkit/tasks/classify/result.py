"""What a classifier says about one image, as typed values, as bars and as a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image, ImageDraw, ImageFont

from swinkit.errors import InputError, shown
from swinkit.files import atomic_path
from swinkit.tasks.base import drawn_on
from swinkit.tasks.chart import bar_chart

HEIGHT = 300  # of the photo in the drawing, pixels
_PANEL = 340
_MARGIN = 16
_INK, _PAPER, _BAR, _TRACK = (33, 37, 41), (255, 255, 255), (47, 111, 183), (233, 236, 239)


@dataclass(frozen=True)
class Prediction:
    """One class: its name, its index among the network's outputs, its probability (0..1)."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class ClassificationResult:
    """The answer for one image.

    Args:
        source: path of the image, or a description of one that came without.
        predictions: most probable first; empty when the image could not be read.
        error: why the image could not be read, one sentence; None when it could.
        picture: the image itself where it came in memory; of a file, which is read again when a drawing is asked for, None.
    """

    columns: ClassVar[tuple[str, ...]] = ("rank", "label", "index", "probability")
    suffix: ClassVar[str] = ".jpg"

    source: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None
    picture: Image.Image | None = field(default=None, repr=False, compare=False)

    @property
    def top(self) -> Prediction:
        """The most probable class.

        Raises:
            InputError: the image could not be read; the message is ``error``.
        """
        if not self.predictions:
            raise InputError(self.error or f"{self.source}: there are no predictions")
        return self.predictions[0]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: ``source``, ``predictions`` (``label``, ``index``, ``probability``), ``error``."""
        return {
            "source": self.source,
            "predictions": [asdict(prediction) for prediction in self.predictions],
            "error": self.error,
        }

    def bars(self) -> str:
        """Return a line a class: name, bar, per cent; under the source as a heading."""
        if self.error is not None:
            return shown(self.error)
        return bar_chart(self.source, [(prediction.label, prediction.probability) for prediction in self.predictions])

    def rows(self) -> list[tuple[Any, ...]]:
        """Return a row a class: rank, label, index, probability."""
        return [(rank, p.label, p.index, f"{p.probability:.6f}") for rank, p in enumerate(self.predictions, start=1)]

    def line(self) -> str:
        """Return the source and the most probable class."""
        return f"{self.source}  {self.top.label}  {100 * self.top.probability:.1f} %"

    def text(self) -> list[str]:
        """Return ``bars`` as lines."""
        return self.bars().split("\n")

    def draw(self) -> Image.Image:
        """Return the photo with a bar a class beside it.

        Raises:
            InputError, ImageError: there is no answer, or the file can no longer be read.
        """
        if self.error is not None:
            raise InputError(self.error)
        return draw_bars(drawn_on(self.source, self.picture), self)

    def save(self, path: str | Path) -> None:
        """Write ``draw`` as a JPEG."""
        picture = self.draw()
        with atomic_path(path) as temporary:
            picture.save(temporary, format="JPEG", quality=90)


def draw_bars(image: Image.Image, result: ClassificationResult) -> Image.Image:
    """Return the photo with one bar a class on its right.

    Args:
        image: the upright photo; strips are cut to between 1:4 and 4:1.
        result: its answer.

    Returns:
        An RGB picture, ``HEIGHT`` plus margins high, or as high as the bars need.
    """
    width = round(HEIGHT * min(max(image.width / image.height, 0.25), 4.0))
    scale = max(width / image.width, HEIGHT / image.height)
    across, down = width / scale / 2, HEIGHT / scale / 2
    middle = (image.width / 2, image.height / 2)
    box = (middle[0] - across, middle[1] - down, middle[0] + across, middle[1] + down)
    photo = image.convert("RGB").resize((width, HEIGHT), Image.Resampling.LANCZOS, box=box)

    row = 44
    height = max(HEIGHT, row * len(result.predictions)) + 2 * _MARGIN
    picture = Image.new("RGB", (width + _PANEL + 3 * _MARGIN, height), _PAPER)
    picture.paste(photo, (_MARGIN, _MARGIN))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    left, right = width + 2 * _MARGIN, width + 2 * _MARGIN + _PANEL
    for place, prediction in enumerate(result.predictions):
        top = _MARGIN + place * row
        share = f"{100 * prediction.probability:.1f} %"
        pen.text((right, top), share, _INK, font, anchor="ra")
        pen.text((left, top), _shortened(prediction.label, font, right - left - font.getlength(share) - 8), _INK, font)
        pen.rectangle((left, top + 22, right, top + 34), _TRACK)
        pen.rectangle((left, top + 22, left + round(prediction.probability * (right - left)), top + 34), _BAR)
    return picture


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return ``text``, its end replaced by dots when it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
