"""Where pictures lie: a folder or a zip, read by name; nothing is ever unpacked to disk."""

from __future__ import annotations

import io
import os
import stat
import weakref
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from swinkit.data.images import IMAGE_SUFFIXES, MAX_BYTES
from swinkit.errors import DatasetError, ImageError, shown
from swinkit.files import open_file, read_file

MAX_ZIP = 2**42  # read member by member
MAX_DIRECTORY = 256 * 2**20  # of a zip, which is read as a whole: some two million names
_PACKINGS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}  # the others may ask for gigabytes to unpack a byte
MAX_RATIO = 200  # deflate ends at about 1,030; pictures are packed already
FREE_BYTES = 4 * 2**20  # a small member of one colour may shrink to nearly nothing


def is_picture(name: str) -> bool:
    """Return whether a file's name is that of a picture: known suffix, not hidden, no side file of an archive."""
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(p.startswith(".") or p == "__MACOSX" for p in path.parts)


def _refuse_folder(error: OSError) -> None:
    raise DatasetError(f"{shown(str(error.filename))}: cannot be listed ({error.strerror}); give yourself the right to read it")


@dataclass
class FolderSource:
    """Files below a folder."""

    root: Path

    def names(self) -> list[str]:
        """Return all file names relative to the root, with forward slashes, sorted.

        Raises:
            DatasetError: a folder below is a link or may not be listed; its pictures would be missing without a word.
        """
        found = []
        for folder, folders, files in os.walk(self.root, onerror=_refuse_folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            base = Path(folder).relative_to(self.root)
            for name in folders:
                if (Path(folder) / name).is_symlink():
                    raise DatasetError(
                        f"{shown(str(Path(folder) / name))}: is a link to a folder, which is not followed; "
                        "put the folder itself there"
                    )
            found += [(base / name).as_posix() for name in files]
        return sorted(found)

    def path(self, name: str) -> Path:
        """Return the file's path.

        Raises:
            DatasetError: the name leads out of the folder.
        """
        if not name or "\x00" in name:
            raise DatasetError(f"{self.root}: {name!r} is no file name")
        path = self.root / name
        try:
            inside = not Path(name).is_absolute() and path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):  # links that lead to themselves, which Python 3.11 and 3.13 say in their own ways
            inside = False
        if not inside:
            raise DatasetError(f"{self.root}: {name!r} leads out of the folder; use names below it")
        return path

    def read(self, name: str) -> bytes | Path:
        """Return the file's path; opening it is the reader's."""
        return self.root / name

    def content(self, name: str, limit: int) -> bytes:
        """Return the bytes of a description: a list of classes, annotations.

        Raises:
            DatasetError: no regular file, more than ``limit`` bytes, or a name that leads out of the folder.
        """
        return read_file(self.path(name), limit, DatasetError, self.label(name))

    def label(self, name: str) -> str:
        """Return the file's path for people."""
        return shown(str(self.root / name))


class _Archive(io.BufferedReader):
    """A zip's file, which refuses to read a directory of names that is larger than any data set's."""

    limit: int | None = MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if self.limit is not None and size is not None and size > self.limit:
            raise DatasetError(f"its directory has {size:,} bytes, more than the {self.limit:,} allowed; make several zips")
        return super().read(size)


@dataclass
class ZipSource:
    """Members of a zip, opened once a process."""

    root: Path
    _open: dict[int, zipfile.ZipFile] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict:
        return {"root": self.root, "_open": {}}

    def _zip(self) -> zipfile.ZipFile:
        # A file handle shared over fork would be moved by all processes at once.
        process = os.getpid()
        archive = self._open.get(process)
        if archive is None:
            with open_file(self.root, MAX_ZIP, DatasetError, fix="give a zip") as opened:
                file = _Archive(io.FileIO(os.dup(opened.fileno())))
            try:
                archive = zipfile.ZipFile(file)
            except DatasetError as error:
                file.close()
                raise DatasetError(f"{self.root}: {error}") from error
            except Exception as error:  # damaged directories raise struct.error and others besides BadZipFile
                file.close()
                raise DatasetError(f"{self.root}: is no readable zip ({error}); copy it again") from error
            file.limit = None
            weakref.finalize(archive, file.close)
            self._open = {process: archive}  # one assignment: reading threads never meet an emptied table
        return archive

    def names(self) -> list[str]:
        """Return the names of all members, sorted, after checking every one of them.

        Raises:
            DatasetError: a name that leads out of the archive, a link, an encrypted, doubled or oversized member.
        """
        names = []
        for member in self._zip().infolist():
            name = member.filename
            if not name:
                raise DatasetError(f"{self.root}: holds a member without a name; pack it again")
            if name.startswith(("/", "\\")) or "\\" in name or ".." in PurePosixPath(name).parts or ":" in name[:3]:
                raise DatasetError(f"{self.root}: member {name!r} leads out of the archive; pack it again without such names")
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                raise DatasetError(f"{self.root}: member {name!r} is a link; pack the file itself")
            if member.flag_bits & 1:
                raise DatasetError(f"{self.root}: member {name!r} is encrypted; pack it without a password")
            if member.file_size > MAX_BYTES or member.file_size > MAX_RATIO * member.compress_size + FREE_BYTES:
                raise DatasetError(f"{self.root}: member {name!r} announces {member.file_size:,} bytes; remove it")
            names.append(name)
        doubled = [name for name, count in Counter(names).items() if count > 1]
        if doubled:
            raise DatasetError(f"{self.root}: {len(doubled)} names stand twice (first: {doubled[0]!r}); pack it again")
        return sorted(names)

    def read(self, name: str) -> bytes:
        """Return the member's bytes.

        Raises:
            ImageError: it cannot be unpacked.
        """
        try:
            if self._zip().getinfo(name).compress_type not in _PACKINGS:
                raise NotImplementedError("packed in an unusual way; deflate is understood")
            with self._zip().open(name) as file:
                data = file.read(MAX_BYTES + 1)
        except Exception as error:  # zipfile's, zlib's and bz2's have no common base
            raise ImageError(f"{self.label(name)}: cannot be unpacked ({error}); copy the zip again") from error
        return data

    def content(self, name: str, limit: int) -> bytes:
        """Return the bytes of a description, which a member holds.

        Raises:
            DatasetError: it cannot be unpacked, or has more than ``limit`` bytes.
        """
        try:
            data = self.read(name)
        except ImageError as error:
            raise DatasetError(str(error)) from error
        if len(data) > limit:
            raise DatasetError(f"{self.label(name)}: has more than the {limit:,} bytes allowed; write it again")
        return data

    def label(self, name: str) -> str:
        """Return the member's name behind the zip's path, for people."""
        return shown(f"{self.root}/{name}")


Source = FolderSource | ZipSource
