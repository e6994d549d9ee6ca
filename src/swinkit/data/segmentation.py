"""Pictures with label maps, as people have them. All forms become one, ``SegmentationData``.

* ``root/images/x.jpg`` + ``root/masks/x.png``, or each part in a folder: ``root/train/images`` + ``root/train/masks``, or
  ``root/images/train`` + ``root/masks/train``; "annotations", "labels" and "labelmaps" also mean masks;
* ADE20K: ``images/training`` + ``annotations/training``, with ``objectInfo150.txt``: value 0 is void;
* Cityscapes: ``leftImg8bit/<part>/<city>/*_leftImg8bit.png`` + ``gtFine/.../*_gtFine_labelIds.png`` (or ``labelTrainIds``);
* COCO: ``annotations.json`` (or ``annotations/instances_<part>*.json``) with polygons beside ``images``; drawn large to small.

Class names: ``classes.txt`` (a name a line, the line's number from 0 is the value; a line "void", "unlabelled" or
"ignore" is one), or those the layout implies, or those given.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from swinkit.data.containers import FolderSource, Source, ZipSource, is_picture
from swinkit.data.folders import PARTS, MissingPart
from swinkit.data.images import read_image
from swinkit.data.masks import IGNORED, MASK_SUFFIXES, MAX_CLASSES, MaskReader, read_mask
from swinkit.data.tables import read_text
from swinkit.errors import DatasetError, ImageError
from swinkit.labels import CITYSCAPES, ade20k
from swinkit.specs import MaskRules

_MASK_FOLDERS = ("masks", "annotations", "labels", "mask", "labelmaps")
_IMAGE_FOLDERS = ("images", "image", "imgs")
VOID_NAMES = frozenset(["void", "unlabelled", "unlabeled", "ignore", "ignored", "background_ignore"])
MAX_JSON = 2**31


@dataclass
class SegmentationData:
    """Pictures with label maps.

    Args:
        classes: names in index order; void is none of them.
        items: (source number, picture, label map) of each pair; polygons stand in ``shapes`` under the picture's name.
        sources: folders and zips the items point into.
        rules: which stored values are void; colours.
        shapes: COCO only: picture -> (class, rings of x, y in pixels or a run-length table), largest first.
    """

    classes: list[str]
    items: list[tuple[int, str, str]]
    sources: list[Source]
    rules: MaskRules
    shapes: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        """Return the picture's path, for people."""
        source, name, _ = self.items[index]
        return self.sources[source].label(name)

    def mask_name(self, index: int) -> str:
        """Return the label map's path, for people."""
        source, name, mask = self.items[index]
        return self.sources[source].label(mask or name)

    def read(self, index: int, grey: bool = False) -> Image.Image:
        """Return the upright picture, "RGB" or "L".

        Raises:
            ImageError: it cannot be read.
        """
        source, name, _ = self.items[index]
        return read_image(self.sources[source].read(name), name=self.name(index), grey=grey)

    def mask(self, index: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the class ids, (H, W) uint8, 255 void.

        Args:
            index: of the pair.
            size: (height, width) of the upright picture, which the label map must have.

        Raises:
            ImageError: it cannot be read, has another size, or a value that is no class.
        """
        source, name, mask = self.items[index]
        if not mask:
            return self._drawn(index, name, size)
        return MaskReader(self.rules, len(self.classes)).read(self.sources[source].read(mask), self.mask_name(index), size)

    def check(self, index: int) -> None:
        """Read all that belongs to a sample, and compare sizes and values.

        Raises:
            ImageError: picture or label map cannot be read or used.
        """
        image = self.read(index)
        self.mask(index, (image.height, image.width))

    def fingerprint(self) -> str:
        """Return a short hash of classes, names and rules; where the files lie does not count."""
        digest = hashlib.sha256(json.dumps([self.classes, list(self.rules.void)]).encode())
        for _, name, mask in self.items:
            digest.update(f"{name}\0{mask}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def subset(self, indices: list[int]) -> SegmentationData:
        """Return some of the pairs, with the same classes."""
        return SegmentationData(self.classes, [self.items[i] for i in indices], self.sources, self.rules, self.shapes)

    def _drawn(self, index: int, name: str, size: tuple[int, int] | None) -> np.ndarray:
        """Draw polygons as a label map: class 0 where there is none, later (smaller) ones on top, crowds void."""
        if size is None:
            picture = self.read(index)
            size = (picture.height, picture.width)
        canvas = Image.new("L", size[::-1], 0)
        pen = ImageDraw.Draw(canvas)
        for label, shape in self.shapes.get(name, []):
            if isinstance(shape, dict):
                filled = _run_lengths(shape, size, self.name(index))
                canvas.paste(label, mask=Image.fromarray(filled.astype(np.uint8) * 255))
                continue
            for ring in shape:
                pen.polygon([(float(x), float(y)) for x, y in zip(ring[::2], ring[1::2], strict=True)], fill=label)
        return np.array(canvas)


def open_segmentation(
    source: str | Path, split: str | None = None, classes: Sequence[str] = (), rules: MaskRules | None = None
) -> SegmentationData:
    """Return pictures with label maps; the module's head lists the forms.

    Args:
        source: folder or zip.
        split: "train", "val" or "test" takes that part; None everything that is no part, or all parts.
        classes: names in index order, when the data set does not say them (a trained model's, for example).
        rules: which values are void, when the data set does not say it.

    Raises:
        DatasetError: nothing of these forms is there, pairs are incomplete, or the classes are not known.
        MissingPart: the data set is there, but not that part.
    """
    path = Path(str(source))
    if not path.exists():
        raise DatasetError(f"{str(path)!r}: does not exist; check the path")
    place: Source = FolderSource(path) if path.is_dir() else ZipSource(path)
    names = place.names()
    coco = _coco_file(names, split)
    if coco is not None:
        return _from_coco(place, names, coco)
    if split is not None and _coco_file(names, None) is not None:
        raise MissingPart(f"{path}: no COCO annotation file is that of the part {split!r}")
    cities = [name for name in names if name.endswith("_leftImg8bit.png")]
    if cities:
        return _from_cityscapes(place, names, cities, split, path)
    return _from_pairs(place, names, split, path, list(classes), rules)


def _from_pairs(
    place: Source, names: list[str], split: str | None, path: Path, classes: list[str], rules: MaskRules | None
) -> SegmentationData:
    pictures, masks = pictures_and_masks(names)
    if not pictures or not masks:
        what = "pictures below a folder 'images'" if not pictures else "label maps below a folder 'masks'"
        raise DatasetError(f"{path}: no {what}; give images/x.jpg and masks/x.png, or train/images and train/masks")
    parts = {key: part_of(key) for key in {*pictures, *masks}}
    if split is not None and any(parts.values()):
        if split not in parts.values():
            raise MissingPart(f"{path}: has no part {split!r}, only {', '.join(sorted({p for p in parts.values() if p}))}")
        pictures = {key: name for key, name in pictures.items() if parts[key] == split}
        masks = {key: name for key, name in masks.items() if parts[key] == split}
    elif split in ("val", "test"):
        raise MissingPart(f"{path}: is not divided into parts, so there is no {split!r}")
    lone = sorted(pictures.keys() - masks.keys()), sorted(masks.keys() - pictures.keys())
    if lone[0] or lone[1]:
        first = place.label(pictures[lone[0][0]] if lone[0] else masks[lone[1][0]])
        raise DatasetError(
            f"{path}: {len(lone[0])} pictures without a mask and {len(lone[1])} masks without a picture (first: {first}); "
            "pairs have the same name"
        )
    if not pictures:
        raise DatasetError(f"{path}: no pair of picture and mask was found")
    items = [(0, pictures[key], masks[key]) for key in sorted(pictures)]
    if rules is None:
        rules = MaskRules((0,), ade20k()[1]) if _is_ade(names) else MaskRules()
    classes, rules = named(place, names, path, classes, rules)
    if not classes:
        classes = _counted(place, items, rules)
    if len(classes) > MAX_CLASSES:
        raise DatasetError(f"{path}: {len(classes)} classes are more than {MAX_CLASSES}; merge some")
    return SegmentationData(classes, items, [place], _coloured(place, items, rules))


def names_a_layout(names: list[str]) -> bool:
    """Return whether files are of a layout that says itself which pictures have which label maps: COCO or Cityscapes."""
    return _coco_file(names, None) is not None or any(name.endswith("_leftImg8bit.png") for name in names)


def pictures_and_masks(names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the pictures and the label maps among files, each under what the two of a pair have in common."""
    pictures = {_key(name, _IMAGE_FOLDERS): name for name in names if _inside(name, _IMAGE_FOLDERS) and is_picture(name)}
    maps = MASK_SUFFIXES | {".jpg", ".jpeg"}  # JPEG label maps are refused by their reader, with the reason
    found = [name for name in names if _inside(name, _MASK_FOLDERS) and PurePosixPath(name).suffix.lower() in maps]
    return pictures, {_key(name, _MASK_FOLDERS): name for name in found}


def named(place: Source, names: list[str], path: Path, classes: list[str], rules: MaskRules) -> tuple[list[str], MaskRules]:
    """Return class names and rules after names of void are taken out of the list."""
    if not classes:
        listed = next((name for name in ("classes.txt", "labels.txt") if name in names), None)
        if listed is not None:
            content = place.read(listed)
            text = content.decode("utf-8", "replace") if isinstance(content, bytes) else read_text(content)
            classes = [line.strip() for line in text.splitlines() if line.strip()]
            if not classes:
                raise DatasetError(f"{place.label(listed)}: holds no class names; write one a line")
        elif _is_ade(names):
            return list(ade20k()[0]), rules
        else:
            return [], rules
    void = {value for value, name in enumerate(classes) if name.lower() in VOID_NAMES}
    kept = [name for value, name in enumerate(classes) if value not in void]
    doubled = [name for name, count in Counter(kept).items() if count > 1]
    if doubled:
        raise DatasetError(f"{path}: the class {doubled[0]!r} is named twice; give each its own name")
    if void:
        rules = MaskRules(tuple(sorted({*rules.void, *void})), rules.palette)
    return kept, rules


def _counted(place: Source, items: list[tuple[int, str, str]], rules: MaskRules) -> list[str]:
    """Return names for the values that occur, when nothing names them: "0", "1" ... up to the largest."""
    largest = -1
    for _, _, mask in items:
        values, _ = read_mask(place.read(mask), place.label(mask))
        values = values[~np.isin(values, [*rules.void, IGNORED])]
        largest = max(largest, int(values.max()) if values.size else -1)
    if largest < 0:
        raise DatasetError(f"{place.label(items[0][2])}: every mask is void from edge to edge; nothing can be learnt")
    if largest >= MAX_CLASSES:
        raise DatasetError(
            f"{place.root}: a mask holds the value {largest} and no classes.txt names the classes; write one, or name it void"
        )
    return [str(value) for value in range(largest + 1) if value not in rules.void]


def _coloured(place: Source, items: list[tuple[int, str, str]], rules: MaskRules) -> MaskRules:
    """Return the rules with the palette of the first label map, where it has one and none is known."""
    if rules.palette:
        return rules
    try:
        _, palette = read_mask(place.read(items[0][2]), place.label(items[0][2]))
    except ImageError:  # reported where masks are read
        return rules
    void = {*rules.void, IGNORED}
    colours = [palette[3 * value : 3 * value + 3] for value in range(len(palette) // 3) if value not in void]
    return MaskRules(rules.void, tuple(channel for colour in colours for channel in colour)) if palette else rules


def _inside(name: str, folders: tuple[str, ...]) -> bool:
    return any(part in folders for part in PurePosixPath(name).parts[:-1])


def _key(name: str, folders: tuple[str, ...]) -> str:
    """Return what a picture and its mask have in common: their path without that folder, without suffix."""
    path = PurePosixPath(name)
    parts = list(path.parts[:-1])
    parts.remove(next(part for part in parts if part in folders))
    return "/".join([*parts, path.stem])


def part_of(key: str) -> str | None:
    """Return "train", "val" or "test" when a folder of the path says so."""
    for part in PurePosixPath(key).parts[:-1]:
        for split, spellings in PARTS.items():
            if part in spellings:
                return split
    return None


def _is_ade(names: list[str]) -> bool:
    return "objectInfo150.txt" in names or any(name.startswith("annotations/training/ADE_train_") for name in names)


def _from_cityscapes(place: Source, names: list[str], cities: list[str], split: str | None, path: Path) -> SegmentationData:
    there = set(names)
    items: list[tuple[int, str, str]] = []
    trained = False
    for name in cities:
        if split is not None and f"leftImg8bit/{split}/" not in name:
            continue
        stem = name.replace("leftImg8bit/", "gtFine/", 1).removesuffix("_leftImg8bit.png")
        found = [mask for mask in (f"{stem}_gtFine_labelTrainIds.png", f"{stem}_gtFine_labelIds.png") if mask in there]
        if not found:
            raise DatasetError(f"{place.label(name)}: has no {PurePosixPath(stem).name}_gtFine_labelIds.png; unpack gtFine there")
        trained |= found[0].endswith("labelTrainIds.png")
        items.append((0, name, found[0]))
    if not items:
        raise MissingPart(f"{path}: has no part {split!r}")
    if trained and any(mask.endswith("labelIds.png") for _, _, mask in items):
        raise DatasetError(f"{path}: some pictures have labelTrainIds and some only labelIds; keep one kind")
    known = {value for _, value, _ in CITYSCAPES}
    void = () if trained else tuple(value for value in range(34) if value not in known)
    palette = tuple(channel for _, _, colour in CITYSCAPES for channel in colour)
    return SegmentationData([name for name, _, _ in CITYSCAPES], items, [place], MaskRules(void, palette))


def _coco_file(names: list[str], split: str | None) -> str | None:
    wanted = PARTS[split] if split is not None else ()
    for name in names:
        path = PurePosixPath(name)
        if path.suffix == ".json" and (path.name == "annotations.json" or path.name.startswith("instances_")):
            if not wanted or (path.name == "annotations.json" and len(path.parts) == 1 and split == "train"):
                return name  # a file for all pictures is the training part; validation is held out of it
            if any(word in path.name or word in path.parts for word in wanted):
                return name
    return None


def _from_coco(place: Source, names: list[str], file: str) -> SegmentationData:
    content = place.read(file)
    data = content if isinstance(content, bytes) else content.read_bytes() if content.stat().st_size < MAX_JSON else b""
    try:
        truth = json.loads(data)
        categories = sorted(truth["categories"], key=lambda row: int(row["id"]))
        labels = {int(row["id"]): place_of + 1 for place_of, row in enumerate(categories)}
        files = {int(row["id"]): str(row["file_name"]) for row in truth["images"]}
        shapes: dict[int, list[tuple[float, int, Any]]] = {}
        for row in truth["annotations"]:
            label = IGNORED if row.get("iscrowd") else labels[int(row["category_id"])]
            shape = row.get("segmentation")
            if isinstance(shape, list):
                shape = [ring for ring in shape if isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0]
            if shape:
                shapes.setdefault(int(row["image_id"]), []).append((float(row.get("area", 0)), label, shape))
        classes = ["background", *(str(row["name"]) for row in categories)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f"{place.label(file)}: is no COCO annotation file ({type(error).__name__}: {error})") from error
    if len(classes) > MAX_CLASSES:
        raise DatasetError(f"{place.label(file)}: {len(classes)} classes are more than {MAX_CLASSES}; keep those you need")
    by_name = {PurePosixPath(name).name: name for name in names if is_picture(name)}
    items, drawn = [], {}
    for number, name in sorted(files.items(), key=lambda item: item[1]):
        found = by_name.get(PurePosixPath(name).name)
        if found is None:
            raise DatasetError(f"{place.label(file)}: names the picture {name!r}, which is not there; unpack the pictures")
        rows = sorted(shapes.get(number, []), key=lambda row: -row[0])
        drawn[found] = [(label, shape) for _, label, shape in rows]
        items.append((0, found, ""))
    return SegmentationData(classes, items, [place], MaskRules(), drawn)


def _run_lengths(table: dict, size: tuple[int, int], name: str) -> np.ndarray:
    """Return the (H, W) bool of an uncompressed COCO run-length table: runs of 0 and 1 in turn, down the columns."""
    counts, shape = table.get("counts"), table.get("size")
    if not isinstance(counts, list) or not isinstance(shape, list) or tuple(shape) != size:
        raise ImageError(f"{name}: its run-length mask is compressed or of another size; convert it to polygons")
    if sum(counts) != size[0] * size[1] or min(counts, default=-1) < 0:
        raise ImageError(f"{name}: its run-length mask does not fill the picture; write it again")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size, order="F")
