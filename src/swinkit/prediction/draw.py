"""Answers as pictures: the photo with its bars beside it. Needs Pillow only."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from swinkit.prediction.results import ClassificationResult

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


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return ``text``, its end replaced by dots when it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
