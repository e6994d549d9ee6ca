"""Pictures with label maps, as people have them. All forms become one, ``SegmentationData``.

* ``root/images/x.jpg`` + ``root/masks/x.png``, or each part in a folder: ``root/train/images`` + ``root/train/masks``, or
  ``root/images/train`` + ``root/masks/train``; "annotations", "labels" and "labelmaps" also mean masks;
* ADE20K: ``images/training`` + ``annotations/training``, with ``objectInfo150.txt``: value 0 is void;
* Cityscapes: ``leftImg8bit/<part>/<city>/*_leftImg8bit.png`` + ``gtFine/.../*_gtFine_labelIds.png`` (or ``labelTrainIds``);
* COCO: ``annotations.json`` (or ``annotations/instances_<part>*.json``) with polygons beside ``images``; drawn large to small.
  A ``file_name`` is the end of a picture's path and must fit one; of a file of one part, pictures of another never do.

What is not unique is refused: two pictures or label maps of one name (``a.jpg``, ``a.png``), two annotation files of a part.

Class names: ``classes.txt`` (a name a line, the line's number from 0 is the value; a line "void", "unlabelled" or
"ignore" is one), or those the layout implies, or those given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from swinkit.data.coco import MAX_BYTES, Drawing, read_coco
from swinkit.data.containers import FolderSource, Source, ZipSource, is_picture
from swinkit.data.labelled import Pictures
from swinkit.data.masks import IGNORED, MASK_SUFFIXES, MAX_CLASSES, MaskReader, read_mask
from swinkit.data.names import checked_labels
from swinkit.data.parts import PARTS, MissingPart, part_in
from swinkit.errors import DatasetError, ImageError
from swinkit.labels import CITYSCAPES, ade20k
from swinkit.specs import MaskRules

_MASK_FOLDERS = ("masks", "annotations", "labels", "mask", "labelmaps")
_IMAGE_FOLDERS = ("images", "image", "imgs")
VOID_NAMES = frozenset(["void", "unlabelled", "unlabeled", "ignore", "ignored", "background_ignore"])
MAX_LIST = 2**20  # bytes of classes.txt


@dataclass
class SegmentationData(Pictures):
    """Pictures with label maps: ``items`` hold the map's name; polygons stand in ``shapes`` under the picture's name.

    Args:
        rules: which stored values are void; colours.
        shapes: COCO only: picture -> what is drawn over it.
    """

    items: list[tuple[int, str, str]]
    rules: MaskRules
    shapes: dict[str, Drawing] = field(default_factory=dict)

    def mask_name(self, index: int) -> str:
        """Return the label map's path, for people."""
        source, name, mask = self.items[index]
        return self.sources[source].label(mask or name)

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
            if size is None:
                picture = self.read(index)
                size = (picture.height, picture.width)
            return self.shapes[name].draw(size, self.name(index))
        return MaskReader(self.rules, len(self.classes)).read(self.sources[source].read(mask), self.mask_name(index), size)

    def check(self, index: int) -> None:
        """Read all that belongs to a sample, and compare sizes and values.

        Raises:
            ImageError: picture or label map cannot be read or used.
        """
        image = self.read(index)
        self.mask(index, (image.height, image.width))

    def meaning(self) -> Any:
        """Return classes and the values that are void."""
        return [self.classes, list(self.rules.void)]


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
    files = coco_files(names)
    if files:
        return _from_coco(place, names, files, split)
    cities = [name for name in names if name.endswith("_leftImg8bit.png")]
    if cities:
        return _from_cityscapes(place, names, cities, split, path)
    return _from_pairs(place, names, split, path, list(classes), rules)


def _from_pairs(
    place: Source, names: list[str], split: str | None, path: Path, classes: list[str], rules: MaskRules | None
) -> SegmentationData:
    pairs = find_pairs(names)
    if not pairs.pictures or not pairs.masks:
        what = "pictures below a folder 'images'" if not pairs.pictures else "label maps below a folder 'masks'"
        raise DatasetError(f"{path}: no {what}; give images/x.jpg and masks/x.png, or train/images and train/masks")
    present = {part for key in {*pairs.pictures, *pairs.masks} if (part := part_of(key))}
    if split is not None and present:
        if split not in present:
            raise MissingPart(f"{path}: has no part {split!r}, only {', '.join(sorted(present))}")
        pairs = pairs.of_part(split)
    elif split in ("val", "test"):
        raise MissingPart(f"{path}: is not divided into parts, so there is no {split!r}")
    if pairs.doubled:
        first, second = (place.label(name) for name in pairs.doubled[0])
        raise DatasetError(f"{first} and {second}: have one name, so nobody knows which belongs to the pair; keep one of them")
    alone = pairs.alone
    if alone[0] or alone[1]:
        first = place.label((alone[0] or alone[1])[0])
        raise DatasetError(
            f"{path}: {len(alone[0])} pictures without a mask and {len(alone[1])} masks without a picture (first: {first}); "
            "pairs have the same name"
        )
    if not pairs.pictures:
        raise DatasetError(f"{path}: no pair of picture and mask was found")
    items = [(0, pairs.pictures[key], pairs.masks[key]) for key in sorted(pairs.pictures)]
    classes, rules = named(place, names, path, classes, rules)
    if not classes:
        classes = _counted(place, items, rules)
    if len(classes) > MAX_CLASSES:
        raise DatasetError(f"{path}: {len(classes)} classes are more than {MAX_CLASSES}; merge some")
    return SegmentationData(classes, items, [place], _coloured(place, items, rules))


def names_a_layout(names: list[str]) -> bool:
    """Return whether files are of a layout that says itself which pictures have which label maps: COCO or Cityscapes."""
    return bool(coco_files(names)) or any(name.endswith("_leftImg8bit.png") for name in names)


@dataclass(frozen=True)
class Pairs:
    """Pictures and label maps among files, each under what the two of a pair have in common.

    Args:
        pictures, masks: key -> file.
        doubled: two pictures, or two label maps, of one key.
    """

    pictures: dict[str, str]
    masks: dict[str, str]
    doubled: list[tuple[str, str]]

    @property
    def alone(self) -> tuple[list[str], list[str]]:
        """Pictures without a mask, and masks without a picture."""
        return (
            [self.pictures[key] for key in sorted(self.pictures.keys() - self.masks.keys())],
            [self.masks[key] for key in sorted(self.masks.keys() - self.pictures.keys())],
        )

    def of_part(self, part: str) -> Pairs:
        """Return those of "train", "val" or "test"."""
        pictures, masks = ({k: v for k, v in files.items() if part_of(k) == part} for files in (self.pictures, self.masks))
        kept = {*pictures.values(), *masks.values()}
        return Pairs(pictures, masks, [two for two in self.doubled if two[0] in kept])


def find_pairs(names: list[str]) -> Pairs:
    """Return the pictures and the label maps among files."""
    maps = MASK_SUFFIXES | {".jpg", ".jpeg"}  # JPEG label maps are refused by their reader, with the reason
    pairs = Pairs({}, {}, [])
    for name in names:
        suffix = PurePosixPath(name).suffix.lower()
        for files, folders, fits in (
            (pairs.pictures, _IMAGE_FOLDERS, is_picture(name)),
            (pairs.masks, _MASK_FOLDERS, suffix in maps and is_picture(name)),
        ):
            if not fits or not _inside(name, folders):
                continue
            first = files.setdefault(_key(name, folders), name)
            if first != name:
                pairs.doubled.append((first, name))
    return pairs


def named(
    place: Source, names: list[str], path: Path, classes: list[str], rules: MaskRules | None
) -> tuple[list[str], MaskRules]:
    """Return class names and rules, after names of void are taken out of the list; ADE20K's are known."""
    if rules is None:
        rules = MaskRules((0,), ade20k()[1]) if _is_ade(names) else MaskRules()
    if not classes:
        listed = next((name for name in ("classes.txt", "labels.txt") if name in names), None)
        if listed is not None:
            try:
                text = place.content(listed, MAX_LIST).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise DatasetError(f"{place.label(listed)}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
            classes = [line.strip() for line in text.rstrip().split("\n")]
            if classes == [""]:
                raise DatasetError(f"{place.label(listed)}: holds no class names; write one a line")
            if "" in classes:
                line = classes.index("") + 1
                raise DatasetError(f"{place.label(listed)}, line {line}: is empty; each line names a value, write void for none")
        elif _is_ade(names):
            return list(ade20k()[0]), rules
        else:
            return [], rules
    void = {value for value, name in enumerate(classes) if name.lower() in VOID_NAMES}
    kept = checked_labels([name for value, name in enumerate(classes) if value not in void], str(path))
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


def coco_files(names: list[str]) -> list[str]:
    """Return the COCO annotation files among files."""
    paths = [PurePosixPath(name) for name in names]
    return [str(p) for p in paths if p.suffix == ".json" and (p.name == "annotations.json" or p.name.startswith("instances_"))]


def _from_coco(place: Source, names: list[str], files: list[str], split: str | None) -> SegmentationData:
    # A file for all pictures is the training part; validation is held out of it.
    parts = {file: part_in(PurePosixPath(file), stem=True) or ("train" if "/" not in file else None) for file in files}
    fitting = [file for file in files if split is None or parts[file] == split]
    if not fitting:
        raise MissingPart(f"{place.root}: no COCO annotation file is that of the part {split!r}")
    if len(fitting) > 1:
        which = f"of the part {split!r}" if split else "; ask for one part"
        raise DatasetError(f"{place.root}: has two annotation files {which} ({fitting[0]!r} and {fitting[1]!r}); keep one")
    file = fitting[0]
    pictures = [name for name in names if is_picture(name)]
    classes, drawn = read_coco(place.content(file, MAX_BYTES), place.label(file), file, pictures)
    return SegmentationData(classes, [(0, picture, "") for picture in drawn], [place], MaskRules(), drawn)
