"""Answers as pictures: the photo with its bars beside it, or with its label map and a legend. Needs Pillow only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from swinkit.prediction.results import Area, ClassificationResult

HEIGHT = 300  # of the photo in the drawing, pixels
_PANEL = 340
_MARGIN = 16
_INK, _PAPER, _BAR, _TRACK = (33, 37, 41), (255, 255, 255), (47, 111, 183), (233, 236, 239)


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


def with_legend(picture: Image.Image, areas: Sequence[Area], palette: np.ndarray) -> Image.Image:
    """Return the picture with a strip below it that names the colours, largest area first.

    Args:
        picture: RGB.
        areas: classes that occur.
        palette: (K, 3) uint8.
    """
    size = max(10, min(32, picture.width // 36))
    font = ImageFont.load_default(size)
    entries = [(area, f"{area.label} {100 * area.share:.0f} %") for area in areas]
    rows: list[list[tuple[int, Area, str]]] = [[]]
    left = size
    for area, text in entries:
        width = round(2 * size + font.getlength(text) + size)
        if left + width > picture.width and rows[-1]:
            rows.append([])
            left = size
        rows[-1].append((left, area, text))
        left += width
    height = round(1.7 * size)
    whole = Image.new("RGB", (picture.width, picture.height + height * len(rows) + size), _PAPER)
    whole.paste(picture, (0, 0))
    pen = ImageDraw.Draw(whole)
    for line, row in enumerate(rows):
        top = picture.height + size // 2 + line * height
        for left, area, text in row:
            pen.rectangle((left, top, left + 1.4 * size, top + size), tuple(int(v) for v in palette[area.index]), _INK)
            pen.text((left + 2 * size, top - 0.1 * size), text, _INK, font)
    return whole


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return ``text``, its end replaced by dots when it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
