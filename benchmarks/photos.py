"""How the embedded classifier answers on real photographs, for several ways of preparing them.

Run ``python -m benchmarks.photos --data ../shared/data``: photos of ImageNet classes that are one of the ten classes
(``imagenet-sample``), objects of at least 64 x 64 pixels cut from COCO pictures with a margin (``coco-mini``), and
scikit-image's cat. None of them was trained on.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from swinkit.data.images import read_image
from swinkit.data.transforms import prepare
from swinkit.prediction import load
from swinkit.specs import Preprocessing

# ImageNet-1K indices (first, last) of each class; deer has none among them.
IMAGENET = {
    "airplane": [(404, 404), (895, 895)],
    "automobile": [(436, 436), (468, 468), (511, 511), (609, 609), (627, 627), (656, 656), (661, 661), (817, 817)],
    "bird": [(7, 24), (80, 100), (127, 146)],
    "cat": [(281, 285)],
    "dog": [(151, 268)],
    "frog": [(30, 32)],
    "horse": [(339, 339)],
    "ship": [(510, 510), (628, 628), (724, 724), (780, 780), (814, 814), (871, 871), (914, 914)],
    "truck": [(555, 555), (569, 569), (717, 717), (864, 864), (867, 867)],
}
COCO = {"car": "automobile", "boat": "ship"} | {n: n for n in ("airplane", "bird", "cat", "dog", "horse", "truck")}


def photos(data: Path) -> Iterator[tuple[str, str, Image.Image]]:
    """Yield (source, class, picture)."""
    with (data / "imagenet-sample" / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            index = int(row["class_index"])
            for name, ranges in IMAGENET.items():
                if any(low <= index <= high for low, high in ranges):
                    yield "imagenet-sample", name, read_image(data / "imagenet-sample" / row["file"])
    truth = json.loads((data / "coco-mini" / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    files = {image["id"]: image["file_name"] for image in truth["images"]}
    for item in truth["annotations"]:
        left, top, width, height = item["bbox"]
        name = COCO.get(names[item["category_id"]])
        if name is None or item["iscrowd"] or min(width, height) < 64:
            continue
        picture = read_image(data / "coco-mini" / "images" / files[item["image_id"]])
        margin = 0.15 * max(width, height)
        box = (left - margin, top - margin, left + width + margin, top + height + margin)
        box = (max(0, box[0]), max(0, box[1]), min(picture.width, box[2]), min(picture.height, box[3]))
        yield "coco-mini objects", name, picture.crop(tuple(round(value) for value in box))
    yield "chelsea", "cat", read_image(data / "photos" / "chelsea.png")


def main() -> None:
    """Print right answers by source for each preparation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with imagenet-sample, coco-mini, photos")
    parser.add_argument("--model", default="swin-nano-cifar10")
    parser.add_argument("--sizes", type=int, nargs="*", default=[32, 40, 48, 56, 64])
    arguments = parser.parse_args()
    predictor = load(arguments.model)
    stored = predictor.preprocessing
    items = list(photos(arguments.data))
    counts = Counter(source for source, _, _ in items)
    choices = {"stored": stored}
    for size in arguments.sizes:
        for resize in ("squash", "shorter"):
            name = f"{size} {resize}"
            choices[name] = Preprocessing(
                (size, size), resize, 0 if resize == "squash" else size, stored.interpolation, stored.mean, stored.std
            )
    table = Table("preparation", *(f"{source} ({count})" for source, count in counts.items()), "all")
    labels = list(predictor.labels)
    for name, preprocessing in choices.items():
        batch = torch.stack([prepare(image, preprocessing) for _, _, image in items])
        with torch.inference_mode():
            answers = [labels[i] for i in predictor.model(batch).argmax(1)]
        right = Counter(s for (s, label, _), answer in zip(items, answers, strict=True) if label == answer)
        table.add_row(name, *(f"{right[s]}/{n}" for s, n in counts.items()), f"{sum(right.values()) / len(items):.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
