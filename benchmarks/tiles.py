"""What cutting photos into tiles costs and shows: mIoU beside the whole picture's, memory of a large photo, seams.

Run ``python -m benchmarks.tiles --data ../shared/data/camvid [--tile 240] [--photo [720]] [--picture FILE]``. Exit 1 when the
photo's label map needs more than 3 GB.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from benchmarks.startup import CLI, run
from swinkit.data.masks import paint
from swinkit.prediction import Predictor, load
from swinkit.runs.card import machine
from swinkit.tasks.segment.data import SegmentationData, open_segmentation
from swinkit.tasks.segment.metric import evaluate_segmentation
from swinkit.tasks.segment.passes import OVERLAP, Passes, label_map, starts

BOUND = 3000  # MB
SIZE = (4000, 6000)  # height and width of the large photo


def main() -> None:
    """Print the figures, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CamVid, or what the model was trained on")
    parser.add_argument("--model", default="swin-nano-camvid")
    parser.add_argument("--tile", type=int, default=240, help="pixels")
    parser.add_argument("--photo", type=int, nargs="?", const=720, help="also a photo of 6000 x 4000 in tiles of so many pixels")
    parser.add_argument("--picture", type=Path, help="PNG to draw: photo, whole, tiled, differences")
    arguments = parser.parse_args()
    console = Console(width=130)
    console.print("; ".join(machine()))
    predictor = load(arguments.model)
    data = open_segmentation(arguments.data, "val", predictor.labels, predictor.spec.masks)
    ways = {"whole pictures": Passes(), f"tiles of {arguments.tile}": Passes(tile=arguments.tile)}
    reports = [evaluate_segmentation(predictor.model, data, predictor.preprocessing, options=way) for way in ways.values()]
    table = Table(f"{len(data)} pictures", *ways, "difference")
    for name in ("mIoU", "mAcc", "aAcc"):
        whole, tiled = (report[name] for report in reports)
        table.add_row(name, f"{whole:.2%}", f"{tiled:.2%}", f"{100 * (tiled - whole):+.2f} points")
    console.print(table)
    if arguments.picture:
        seams(predictor, data.read(len(data) // 2), arguments.tile).save(arguments.picture, format="PNG")
    if arguments.photo:
        seconds, memory = large_photo(data, arguments.model, arguments.photo)
        console.print(
            f"{SIZE[1]} x {SIZE[0]} pixels in tiles of {arguments.photo}: {seconds:.0f} s, peak {memory:.0f} MB (bound {BOUND})"
        )
        if memory > BOUND:
            raise SystemExit(1)


def large_photo(data: SegmentationData, model: str, tile: int) -> tuple[float, float]:
    """Return (seconds, peak resident MB) of ``swinkit predict`` on a large photo: mask, overlay and areas, in its own process."""
    small = np.asarray(data.read(0))
    missing = [(0, side - there) for side, there in zip(SIZE, small.shape, strict=False)]
    with tempfile.TemporaryDirectory() as temporary:
        photo = Path(temporary) / "large.jpg"
        Image.fromarray(np.pad(small, [*missing, (0, 0)], mode="symmetric")).save(photo, quality=90)  # mirrored again and again
        out = ["--out", f"{temporary}/out", "--json", f"{temporary}/areas.json", "--device", "cpu"]
        return run([*CLI, "predict", str(photo), "--model", model, "--tile", str(tile), *out])


def seams(predictor: Predictor, photo: Image.Image, tile: int) -> Image.Image:
    """Return four pictures: photo, whole label map, tiled one, where they differ; the tiles' edges on the last two."""
    with torch.inference_mode():
        whole, tiled = (label_map(predictor.model, photo, predictor.preprocessing, way) for way in (Passes(), Passes(tile=tile)))
    differing = Image.fromarray(np.where(whole != tiled, 255, 40).astype(np.uint8)).convert("RGB")
    panels = [photo, paint(photo, whole, predictor.palette, 0.7), paint(photo, tiled, predictor.palette, 0.7), differing]
    width, height = photo.size
    for panel in panels[2:]:
        pen = ImageDraw.Draw(panel)
        for top in starts(height, tile, round(tile * (1 - OVERLAP))):
            for left in starts(width, tile, round(tile * (1 - OVERLAP))):
                pen.rectangle((left, top, min(left + tile, width) - 1, min(top + tile, height) - 1), outline=(255, 160, 0))
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for place, panel in enumerate(panels):
        sheet.paste(panel, (place % 2 * width, place // 2 * height))
    return sheet


if __name__ == "__main__":
    main()
