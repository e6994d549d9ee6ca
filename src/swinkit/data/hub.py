"""Folders that the ``datasets`` library wrote with ``save_to_disk``, read without it.

Its own loader takes names of parts and files as addresses (``a::https://...`` is fetched) and makes objects of whatever class
the description names. Here the description is JSON whose few needed fields are looked at, the tables are Arrow streams below the
folder, and both columns are validated before a row is read: offsets in a damaged table would else lead out of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from swinkit.data.containers import FolderSource
from swinkit.data.labelled import ClassificationData
from swinkit.data.names import checked_labels, part_path
from swinkit.data.parts import PARTS, MissingPart, UndividedData
from swinkit.errors import DatasetError, ImageError
from swinkit.extras import need
from swinkit.files import checked_file, parse_json, read_file

INDEX, INFO, STATE = "dataset_dict.json", "dataset_info.json", "state.json"
MAX_DESCRIPTION = 64 * 2**20
MAX_TABLE = 2**40  # mapped, never read as a whole
_AGAIN = "save the data set again"


class HubData(ClassificationData):
    """A data set written by the ``datasets`` library: pictures come from its own tables."""

    def __init__(self, files: list[Path], image: str, label: str, classes: list[str], where: str) -> None:
        self.files, self.image = files, image
        self._pictures: Any = None
        super().__init__(classes, [], [FolderSource(Path(where))])
        for number, target in enumerate(_column(files, label, where).to_pylist()):
            if type(target) is not int or not 0 <= target < len(classes):
                raise DatasetError(f"{where}: row {number} has the label {target!r}, none of {len(classes)} classes; mend it")
            self.items.append((0, str(number), target))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pictures": None}  # another process maps the files itself

    def encoded(self, index: int) -> bytes | Path:
        """Return the stored bytes, so that every picture goes through the one reader and its bounds."""
        name = self.name(index)
        if self._pictures is None:
            self._pictures = _column(self.files, self.image, name)
        try:
            stored = self._pictures[int(self.items[index][1])].as_py()
        except Exception as error:  # damaged tables raise whatever the library below does
            raise ImageError(f"{name}: cannot be read ({error}); copy the data set again") from error
        data = stored.get("bytes") if isinstance(stored, dict) else stored
        if not isinstance(data, bytes):
            raise ImageError(f"{name}: holds a path instead of a picture; save the data set again with its pictures")
        return data


def is_hub_folder(path: Path) -> bool:
    """Return whether a folder is one of ``save_to_disk``."""
    return os.path.lexists(path / INDEX) or os.path.lexists(path / INFO)


def open_hub(path: Path, split: str | None) -> HubData:
    """Return a part of such a folder.

    Raises:
        DatasetError: it is damaged, names files outside of it, or has no pictures with classes.
        MissingPart: that part is not there.
    """
    where = path
    if os.path.lexists(path / INDEX):
        parts = _description(path / INDEX).get("splits")
        if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
            raise DatasetError(f"{path / INDEX}: names no parts; {_AGAIN}")
        name = next((part for part in PARTS[split or "train"] if part in parts), None)
        if name is None:
            raise MissingPart(f"{path}: there is no part {split or 'train'!r}, only {', '.join(map(repr, parts[:5]))}")
        where = part_path(path, name)
    elif split not in (None, "train"):
        raise UndividedData(f"{path}: there is no part {split!r}; it is one undivided set")
    features = _description(where / INFO).get("features")
    if not isinstance(features, dict) or not all(isinstance(feature, dict | list) for feature in features.values()):
        raise DatasetError(f"{where / INFO}: does not say its columns; {_AGAIN}")
    kinds = {column: feature.get("_type") for column, feature in features.items() if isinstance(feature, dict)}
    image = next((column for column, kind in kinds.items() if kind == "Image"), None)
    label = next((column for column, kind in kinds.items() if kind == "ClassLabel"), None)
    if image is None or label is None:
        raise DatasetError(f"{where}: needs an Image and a ClassLabel column, has {', '.join(map(repr, [*features][:6]))}")
    classes = features[label].get("names")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise DatasetError(f"{where / INFO}: the column {label!r} does not name its classes; {_AGAIN}")
    return HubData(_tables(where), image, label, checked_labels(classes, str(where / INFO)), str(where))


def _description(path: Path) -> dict[str, Any]:
    value = parse_json(read_file(path, MAX_DESCRIPTION, DatasetError, fix=_AGAIN), str(path), DatasetError, _AGAIN)
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: is no description of a data set; {_AGAIN}")
    return value


def _tables(where: Path) -> list[Path]:
    """Return the Arrow files of a part in their order, each a regular file below it."""
    rows = _description(where / STATE).get("_data_files")
    if not isinstance(rows, list) or not rows:
        raise DatasetError(f"{where / STATE}: names no data files; {_AGAIN}")
    files = []
    for row in rows:
        name = row.get("filename") if isinstance(row, dict) else None
        if not isinstance(name, str):
            raise DatasetError(f"{where / STATE}: names a data file by no name; {_AGAIN}")
        files.append(part_path(where, name))
        checked_file(files[-1], MAX_TABLE, DatasetError, fix="copy the data set again")
    if len(set(files)) < len(files):
        raise DatasetError(f"{where / STATE}: names a data file twice; {_AGAIN}")
    return files


def _column(files: list[Path], name: str, where: str) -> Any:
    """Return a column of the tables together, its memory validated; nothing but offsets and labels is read yet."""
    arrow = need("pyarrow", "datasets")
    chunks = []
    try:
        for file in files:
            with arrow.memory_map(str(file)) as mapped, need("pyarrow.ipc", "datasets").open_stream(mapped) as stream:
                for batch in stream:
                    batch.column(name).validate(full=True)
                    chunks.append(batch.column(name))
        return arrow.chunked_array(chunks)
    except Exception as error:  # damaged tables raise many kinds
        raise DatasetError(f"{where}: cannot be read ({error}); copy the data set again") from error
