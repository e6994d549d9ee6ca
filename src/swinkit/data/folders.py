"""Data sets as people have them: folders, zips, tables. All become one form, ``ClassificationData``.

* ``root/train/<class>/x.jpg`` and ``root/val/...`` (ImageFolder), or ``root/<class>/x.jpg`` without parts;
* a zip of either, several zips, a pattern (``data/train-[0-3].zip``) or a comma-separated list of them;
* the authors' layout: ``train.zip`` + ``train_map.txt`` (lines ``name<TAB>index``), ``val.zip`` + ``val_map.txt``;
* a CSV with ``file,label`` or ``file,labels`` (``;`` between several), optionally ``split``; files lie below its folder;
* a Hugging Face image folder (``metadata.csv`` / ``.jsonl`` with ``file_name``, ``label``), or one of ``save_to_disk``.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from swinkit.data.containers import FolderSource, Source, ZipSource, is_picture
from swinkit.data.images import read_image
from swinkit.data.tables import column, numbers_first, read_rows, read_text
from swinkit.errors import DatasetError, ImageError, shown
from swinkit.extras import need
from swinkit.labels import imagenet_synsets

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
Target = int | tuple[int, ...]


class MissingPart(DatasetError):
    """The data set is there, but not the part of it that was asked for."""


class UndividedData(MissingPart):
    """A part was asked for, and the data set has no parts at all."""


@dataclass
class ClassificationData:
    """Pictures with their classes.

    Args:
        classes: names in index order.
        items: (source number, name inside it, target) of each picture.
        sources: folders and zips the items point into.
        multi_label: True when a target is a tuple of class indices.
        skipped: files that are no pictures, by suffix.
    """

    classes: list[str]
    items: list[tuple[int, str, Target]]
    sources: list[Source]
    multi_label: bool = False
    skipped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        """Return the picture's path, for people; members of a zip stand behind its path."""
        source, name, _ = self.items[index]
        return self.sources[source].label(name)

    def target(self, index: int) -> Any:
        """Return the class index, or the tuple of them (multi-label)."""
        return self.items[index][2]

    def read(self, index: int, grey: bool = False) -> Image.Image:
        """Return the upright picture, "RGB" or "L".

        Raises:
            ImageError: it cannot be read; the message starts with its name.
        """
        return read_image(self.encoded(index), name=self.name(index), grey=grey)

    def check(self, index: int) -> None:
        """Read all that belongs to a sample.

        Raises:
            ImageError: it cannot be read.
        """
        self.read(index)

    def encoded(self, index: int) -> bytes | Path:
        """Return the picture as it is stored: its bytes, or the path of its file."""
        source, name, _ = self.items[index]
        return self.sources[source].read(name)

    def fingerprint(self) -> str:
        """Return a short hash of classes, names and targets; where the files lie does not count."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for _, name, target in self.items:
            digest.update(f"{name}\0{target}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def subset(self, indices: list[int]) -> ClassificationData:
        """Return some of the pictures, with the same classes."""
        return ClassificationData(self.classes, [self.items[i] for i in indices], self.sources, self.multi_label)


class HubData(ClassificationData):
    """A data set written by the ``datasets`` library: pictures come from its own files."""

    def __init__(self, rows: Any, classes: list[str], image: str, label: str, where: str) -> None:
        super().__init__(classes, [(0, str(i), int(t)) for i, t in enumerate(rows[label])], [FolderSource(Path(where))])
        self.rows, self.image = rows, image

    def encoded(self, index: int) -> bytes | Path:
        """Return the stored bytes, so that every picture goes through the one reader and its bounds."""
        name = self.name(index)
        try:
            stored = self.rows[int(self.items[index][1])][self.image]
        except Exception as error:  # damaged tables raise whatever the library below does
            raise ImageError(f"{name}: cannot be read ({error}); copy the data set again") from error
        if not stored or stored.get("bytes") is None:
            raise ImageError(f"{name}: holds a path instead of a picture; save the data set again with its pictures")
        return stored["bytes"]

    def subset(self, indices: list[int]) -> ClassificationData:
        """Return some of the pictures, with the same classes."""
        kept = HubData.__new__(HubData)
        kept.__dict__ = {**self.__dict__, "items": [self.items[i] for i in indices]}
        return kept


def open_dataset(source: str | Path, split: str | None = None) -> ClassificationData:
    """Return a data set; the module's head lists the forms.

    Args:
        source: folder, zip, CSV, a pattern or a comma-separated list of zips.
        split: "train", "val" or "test" takes that part; None takes everything below ``source``.

    Raises:
        DatasetError: nothing of that form is there, or the part is missing.
    """
    text = str(source)
    if split is not None and split not in PARTS:
        raise DatasetError(f"{text}: there is no split {split!r}; choose train, val or test")
    paths = _paths(text)
    if len(paths) > 1:
        return _merged([open_dataset(path, split) for path in paths], text)
    path = paths[0]
    if path.is_dir():
        data = _from_folder(path, split)
    elif path.suffix.lower() == ".zip":
        data = _from_tree(ZipSource(path), split, str(path))
    elif path.suffix.lower() in (".csv", ".tsv"):
        data = _from_table(path, split)
    else:
        raise DatasetError(f"{path}: a data set is a folder, a zip or a CSV file")
    if not data.items:
        raise DatasetError(f"{text}: no picture found{f' for {split}' if split else ''}; expected <class>/<picture> below it")
    return data


def split_dataset(data: ClassificationData, fraction: float, seed: int) -> tuple[ClassificationData, ClassificationData]:
    """Return (train, val): of each class the same share is held out, chosen by ``seed``.

    Raises:
        DatasetError: a class has fewer than 2 pictures.
    """
    groups: dict[Any, list[int]] = {}
    for index in range(len(data)):
        target = data.target(index)
        groups.setdefault(target[0] if isinstance(target, tuple) and target else target, []).append(index)
    val: list[int] = []
    rng = np.random.default_rng(seed)
    for target, members in sorted(groups.items(), key=lambda item: str(item[0])):
        if len(members) < 2 and not data.multi_label:
            raise DatasetError(
                f"class {data.classes[target]!r} has {len(members)} picture; at least 2 are needed to keep one for validation"
            )
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        val += rng.permutation(members)[:count].tolist()
    held = set(val)
    return data.subset([i for i in range(len(data)) if i not in held]), data.subset(sorted(held))


def _paths(text: str) -> list[Path]:
    paths: list[Path] = []
    # os.path says False where pathlib raises: names too long for the file system.
    for part in [text] if os.path.exists(text) else filter(None, map(str.strip, text.split(","))):  # noqa: PTH110
        if glob.has_magic(part) and not os.path.exists(part):  # noqa: PTH110
            matches = sorted(glob.glob(part))  # noqa: PTH207 - patterns may be absolute
            if not matches:
                raise DatasetError(f"{part}: nothing matches this pattern")
            paths += [Path(match) for match in matches]
        else:
            paths.append(Path(part))
    for path in paths:
        if not os.path.exists(path):  # noqa: PTH110
            raise DatasetError(f"{str(path)!r}: does not exist; check the path")
    if not paths:
        raise DatasetError(f"{text!r}: no path was given; name a folder, a zip or a CSV file")
    return paths


def _merged(parts: list[ClassificationData], where: str) -> ClassificationData:
    """Return several data sets of the same classes as one."""
    first = parts[0]
    items: list[tuple[int, str, Target]] = []
    sources: list[Source] = []
    for part in parts:
        if part.classes != first.classes or part.multi_label != first.multi_label:
            differing = sorted(set(part.classes) ^ set(first.classes)) or ["their order"]
            raise DatasetError(f"{where}: the parts have other classes (first: {differing[0]!r}); they must be the same")
        items += [(source + len(sources), name, target) for source, name, target in part.items]
        sources += part.sources
    return ClassificationData(first.classes, items, sources, first.multi_label, sum((p.skipped for p in parts), Counter()))


def _from_folder(path: Path, split: str | None) -> ClassificationData:
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _from_datasets(path, split)
    for name in PARTS.get(split or "", ()):
        if (path / f"{name}_map.txt").is_file():
            return _from_map(path, name)
        if (path / f"{name}.csv").is_file():
            return _from_table(path / f"{name}.csv", None)
        if (path / f"{name}.zip").is_file():
            return _from_tree(ZipSource(path / f"{name}.zip"), None, str(path / f"{name}.zip"))
    for name in ("metadata.csv", "metadata.jsonl"):
        for part in ("", *PARTS.get(split or "", ())):
            if (path / part / name).is_file():
                return _from_table(path / part / name, None if part else split)
    zips = sorted(path.glob("*.zip"))
    if zips and not any(child.is_dir() for child in path.iterdir()):
        chosen = [z for z in zips if split is None or z.name.lower().startswith(PARTS[split])]
        if not chosen:
            raise MissingPart(f"{path}: no zip begins with {split!r}; name the zips themselves or add that part")
        return _merged([_from_tree(ZipSource(z), None, str(z)) for z in chosen], str(path))
    return _from_tree(FolderSource(path), split, str(path))


def _from_tree(source: Source, split: str | None, where: str) -> ClassificationData:
    """Read <part>/<class>/<picture> or <class>/<picture>; a single folder around everything is passed through."""
    names = source.names()
    entries = [(name, PurePosixPath(name).parts) for name in names if is_picture(name)]
    others = [PurePosixPath(name).parts for name in names if not is_picture(name)]
    known = {word for words in PARTS.values() for word in words}

    def part_at(depth: int) -> bool:
        # A folder "train" right above pictures is a class (a railway train) if classes of other names stand beside it.
        below = [parts for _, parts in entries if len(parts) > depth + 1]
        deep = any(len(parts) > depth + 2 and parts[depth].lower() in known for parts in below)
        return deep or (bool(below) and all(parts[depth].lower() in known for parts in below))

    depth = 0
    tops = {parts[0] for _, parts in entries if len(parts) > 1}
    if not part_at(0) and len(tops) == 1 and all(len(parts) > 2 for _, parts in entries):
        depth = 1
    if part_at(depth):
        if split and not any(parts[depth].lower() in PARTS[split] for _, parts in entries if len(parts) > depth):
            present = sorted({parts[depth] for _, parts in entries if len(parts) > depth + 1})
            raise MissingPart(f"{where}: there is no part {split!r}, only {', '.join(present[:5])}")
        entries = [
            (name, parts[depth + 1 :])
            for name, parts in entries
            if len(parts) > depth + 1 and parts[depth].lower() in (PARTS[split] if split else known)
        ]
        chosen = PARTS[split] if split else known
        others = [parts for parts in others if len(parts) > depth + 1 and parts[depth].lower() in chosen]
    elif split in (None, "train"):
        entries = [(name, parts[depth:]) for name, parts in entries]
    else:
        raise UndividedData(f"{where}: there is no part {split!r}; expected {where}/{split}/<class>/<picture>")
    loose = [name for name, parts in entries if len(parts) < 2]
    entries = [entry for entry in entries if len(entry[1]) >= 2]
    skipped = Counter(PurePosixPath(parts[-1]).suffix.lower() or parts[-1] for parts in others)
    skipped["outside a class folder"] += len(loose)
    classes = sorted({parts[0] for _, parts in entries})
    for name in classes:
        if shown(name) != name:
            raise DatasetError(f"{where}: class folder {shown(name)!r} has a name that cannot be shown; rename it")
    index = {name: number for number, name in enumerate(classes)}
    return ClassificationData(classes, [(0, name, index[parts[0]]) for name, parts in entries], [source], skipped=+skipped)


def _from_map(path: Path, part: str) -> ClassificationData:
    """Read the authors' layout: a list of names and indices beside a zip."""
    table = path / f"{part}_map.txt"
    archive = path / f"{part}.zip"
    if not archive.is_file():
        raise DatasetError(f"{archive}: does not exist, though {table.name} stands beside; put the zip there")
    source = ZipSource(archive)
    members = source.names()
    known = set(members)
    # The authors write "n01440764/x.JPEG" for a member that may lie under one more folder.
    prefix = members[0].split("/")[0] + "/" if members else ""
    items: list[tuple[int, str, Target]] = []
    for number, line in enumerate(read_text(table).splitlines(), 1):
        if not line.strip():
            continue
        name, _, index = line.rpartition("\t") if "\t" in line else line.rpartition(" ")
        if not index.strip().isdecimal() or len(index.strip()) > 18 or not name:
            raise DatasetError(f"{table}, line {number}: expected 'name<TAB>index', found {line[:80]!r}")
        name = name.strip().removeprefix(archive.name).removeprefix("@/")  # "train.zip@/..." is one of their spellings
        member = name if name in known else prefix + name
        if member not in known:
            raise DatasetError(f"{table}, line {number}: {name!r} is not in {archive.name}; make the list and the zip agree")
        items.append((0, member, int(index)))
    count = max((int(target) for _, _, target in items), default=-1) + 1  # type: ignore[arg-type]
    if count > 100_000:
        raise DatasetError(f"{table}: index {count - 1} is too large for a class")
    synsets = imagenet_synsets(count)
    places = {name: place for place, name in enumerate(synsets)}
    for _, member, target in items:
        folder = next((part for part in PurePosixPath(member).parts if part in places), None)
        if folder is not None and places[folder] != target:
            raise DatasetError(
                f"{table}: gives {folder} the index {target}, the order of the published weights is {places[folder]}; write the "
                "list in that order (1,000 classes: sorted by WordNet id)"
            )
    return ClassificationData(list(synsets) or [str(i) for i in range(count)], items, [source])


def _from_table(path: Path, split: str | None) -> ClassificationData:
    """Read a CSV, TSV or JSON-lines table of files and labels; files lie below the table's folder."""
    rows = read_rows(path)
    fields = list(rows[0][1])
    file = column(path, fields, ("file_name", "file", "filename", "path", "image"))
    label = column(path, fields, ("label", "labels", "class", "category"))
    multi = label.strip().lower() == "labels" or any(isinstance(row[label], list) or ";" in str(row[label]) for _, row in rows)
    wanted = _rows_of_part(path, rows, file, split)
    source = FolderSource(path.parent)
    named: list[tuple[str, list[str], bool]] = []
    for number, row in rows:
        name, value = str(row[file] or "").strip(), row[label]
        if not name or value is None or (str(value).strip() == "" and not multi):
            raise DatasetError(f"{path}, line {number}: the file or its label is empty")
        chosen = number in wanted
        if chosen and not os.path.isfile(source.path(name)):  # noqa: PTH113 - pathlib raises on names too long for the file system
            raise DatasetError(f"{path}, line {number}: {name!r} does not exist below {path.parent}")
        values = value if isinstance(value, list) else str(value).split(";") if multi else [str(value)]
        named.append((name, [str(item).strip() for item in values if str(item).strip()], chosen))
    # Of all rows: a label too rare to stand in one part is still a class there, and every part has the same order.
    classes = sorted({item for _, values, _ in named for item in values}, key=numbers_first)
    index = {name: number for number, name in enumerate(classes)}
    items: list[tuple[int, str, Target]] = [
        (0, name, tuple(sorted({index[v] for v in values})) if multi else index[values[0]])
        for name, values, chosen in named
        if chosen
    ]
    return ClassificationData(classes, items, [source], multi_label=multi)


def _rows_of_part(path: Path, rows: list[tuple[int, dict[str, Any]]], file: str, split: str | None) -> set[int]:
    """Return the lines that belong to ``split``: by a column "split", else by the first folder of the file's name.

    Raises:
        MissingPart: no row does.
    """
    part = next((name for name in rows[0][1] if name.strip().lower() == "split"), None)
    folders = [str(row[file] or "").strip().partition("/")[0].lower() for _, row in rows]
    known = {word for words in PARTS.values() for word in words}
    if split is None:
        return {line for line, _ in rows}
    if part:
        words = [str(row[part]).strip().lower() for _, row in rows]
    elif all(folder in known for folder in folders):
        words = folders
    elif split == "train":
        return {line for line, _ in rows}
    else:
        raise UndividedData(f"{path}: has no column 'split', so no part {split!r}")
    chosen = {line for (line, _), word in zip(rows, words, strict=True) if word in PARTS[split]}
    if not chosen:
        where = f"in column {part!r}" if part else "as its first folder"
        raise MissingPart(f"{path}: no row has {split!r} {where}")
    return chosen


def _from_datasets(path: Path, split: str | None) -> ClassificationData:
    """Open a folder of the ``datasets`` library's own making."""
    library = need("datasets", "datasets")
    where = str(path)
    try:
        loaded = library.load_from_disk(str(path))
    except Exception as error:  # the library raises many kinds on damaged folders
        raise DatasetError(f"{path}: the datasets library cannot open it ({error})") from error
    if isinstance(loaded, library.DatasetDict):
        names = [name for name in PARTS.get(split or "train", ()) if name in loaded]
        if not names:
            raise MissingPart(f"{path}: there is no part {split or 'train'!r}, only {', '.join(loaded)}")
        loaded, where = loaded[names[0]], f"{path}/{names[0]}"
    elif split not in (None, "train"):
        raise UndividedData(f"{path}: there is no part {split!r}; it is one undivided set")
    features = loaded.features
    image = next((n for n, f in features.items() if isinstance(f, library.Image)), None)
    label = next((n for n, f in features.items() if isinstance(f, library.ClassLabel)), None)
    if image is None or label is None:
        raise DatasetError(f"{path}: needs an Image and a ClassLabel column, has {', '.join(features)}")
    loaded = loaded.cast_column(image, library.Image(decode=False))
    return HubData(loaded, list(features[label].names), image, label, where)
