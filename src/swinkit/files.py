"""The one door for files from outside, and writing that never leaves half a file behind.

Every reader opens a file through ``open_file``, ``read_file`` or ``checked_file``: a regular file (a pipe would block, a device
never ends), no larger than its kind may be, and any refusal a sentence. ``parse_json`` does the same for what stands in it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from swinkit.errors import InputError, SwinkitError

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

EXPORT_MANIFEST = "export.json"  # a folder that holds it is an export (``swinkit.engines.exported``)
MAX_DEPTH = 100  # of nested JSON
_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_NESTING = frozenset((dict, list))
_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part")  # names that _temporary makes


def open_file(
    path: str | Path, limit: int, error: type[SwinkitError] = InputError, name: str | None = None, fix: str = "check the path"
) -> BinaryIO:
    """Open a regular file of at most ``limit`` bytes for reading; links are followed.

    Args:
        path: of the file.
        limit: largest size, bytes.
        error: raised when it is refused.
        name: for messages; None is the path.
        fix: what to do about a file that is too large or cannot be read, the end of the message.

    Raises:
        SwinkitError: ``error``: no such file, no regular file, too large, or not readable.
    """
    name = str(path) if name is None else name
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a zero byte in the name
        raise error(f"{name}: does not exist; check the path") from None
    except OSError as problem:
        raise error(f"{name}: cannot be read ({problem.strerror}); {fix}") from problem
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise error(f"{name}: is a folder where a file was expected; {fix}")
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{name}: is not a regular file (a pipe or a device); {fix}")
        if status.st_size > limit:
            raise error(f"{name}: has {status.st_size:,} bytes, more than the {limit:,} allowed; {fix}")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_file(
    path: str | Path, limit: int, error: type[SwinkitError] = InputError, name: str | None = None, fix: str = "check the path"
) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes. Arguments and errors as for ``open_file``."""
    with open_file(path, limit, error, name, fix) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size + 1)  # asked for the limit, Python would set that much memory aside for each file
        except OSError as problem:
            raise error(f"{name or path}: cannot be read ({problem.strerror}); {fix}") from problem
    if len(data) != size:
        raise error(f"{name or path}: changed while it was read; wait until it is written")
    return data


def checked_file(
    path: str | Path, limit: int, error: type[SwinkitError] = InputError, name: str | None = None, fix: str = "check the path"
) -> int:
    """Return the size of a file that a library will open by its path, after the checks of ``open_file``."""
    with open_file(path, limit, error, name, fix) as file:
        return os.fstat(file.fileno()).st_size


def read_text(
    path: str | Path, limit: int, error: type[SwinkitError] = InputError, name: str | None = None, fix: str = "save it as UTF-8"
) -> str:
    """Return the text of a UTF-8 file, without a byte order mark. Arguments and errors as for ``open_file``."""
    data = read_file(path, limit, error, name, fix)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{name or path}: is not UTF-8 text (byte {problem.start:,}); {fix}") from None


def parse_json(data: str | bytes, where: str, error: type[SwinkitError] = InputError, fix: str = "write it again") -> Any:
    """Return what JSON text says, with numbers that can be used: finite floats, integers of 64 bits.

    Args:
        data: the text.
        where: the file, for messages.
        error: raised when it is refused.
        fix: what to do about it, the end of the message.

    Raises:
        SwinkitError: ``error``: not JSON, nested deeper than ``MAX_DEPTH``, NaN, infinity, or a number out of range.
    """

    def whole(text: str) -> int:
        if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
            raise ValueError(f"the number {text[:20]}... is out of range")
        return int(text)

    def real(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"the number {text[:20]} is out of range")
        return value

    def refused(text: str) -> float:
        raise ValueError(f"{text} is not a number")

    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        # A call for each number is slow, and most files have none that could be out of range.
        plain = text.encode("utf-8", "surrogatepass").translate(_DIGITS, b"+")
        doubtful = b"e000" in plain or b"0" * 19 in plain
        checks: dict[str, Any] = {"parse_int": whole, "parse_float": real} if doubtful else {}
        value = json.loads(text, parse_constant=refused, **checks)
        _check_depth(value)
    except (ValueError, RecursionError) as problem:
        reason = "nested too deeply" if isinstance(problem, RecursionError) else " ".join(str(problem).split())[:200]
        raise error(f"{where}: is not usable JSON ({reason}); {fix}") from None
    return value


def _check_depth(value: Any) -> None:
    level = [value] if type(value) in _NESTING else []
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for part in level:
            items = part.values() if type(part) is dict else part
            if not _NESTING.isdisjoint(map(type, items)):  # long lists of numbers are passed in one step
                below += [item for item in items if type(item) in _NESTING]
        if not below:
            return
        level = below
    raise RecursionError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed, on failure removed.

    A reader, a crash, or a full disk therefore meets the old file or the new one, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, folder=False) as temporary:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; give back what open() would have
        temporary.replace(path)
        _sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``, which is renamed on success and removed on failure.

    Raises:
        FileExistsError: ``path`` exists, also when another process was quicker.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, folder=True) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes private folders
        if path.exists():
            raise FileExistsError(f"{path}: exists already")
        try:
            temporary.rename(path)
        except OSError as problem:
            raise FileExistsError(f"{path}: exists already") from problem
        _sync_folder(path.parent)


def sweep(folder: str | Path) -> int:
    """Remove what killed processes left unfinished directly below ``folder``; return how many files and folders that were.

    Only names that ``atomic_path`` and ``atomic_folder`` make, and only those that no living process holds.
    """
    removed = 0
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if not _PART.fullmatch(entry.name) or entry.is_symlink():
                continue
            with contextlib.suppress(OSError):
                lock = _locked(entry.path)
                if lock is None:
                    continue
                try:
                    _remove(Path(entry.path))
                    removed += 1
                finally:
                    os.close(lock)
    return removed


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to ``path`` through ``atomic_path``."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def free_folder(path: str | Path) -> Path:
    """Return ``path``, or ``path2``, ``path3`` ...: the first that does not exist yet."""
    path = Path(path)
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}{number}")
        number += 1
    return candidate


@contextlib.contextmanager
def _temporary(path: Path, folder: bool) -> Iterator[Path]:
    """Yield a new file or folder beside ``path``, held so that ``sweep`` leaves it alone; what is left of it is removed."""
    prefix = f".{path.name[:200]}."
    while True:
        if folder:
            temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=".part"))
        else:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".part")
            os.close(handle)
            temporary = Path(name)
        lock = _locked(temporary)
        if lock is not None:
            break  # else a sweep came between; it has removed the file
    try:
        yield temporary
    finally:
        _remove(temporary)
        os.close(lock)


def _locked(path: str | Path) -> int | None:
    """Return a handle that holds ``path`` against other processes, or None when one of them holds or removed it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if Path(path).stat().st_ino != os.fstat(handle).st_ino:
            raise FileNotFoundError
    except (BlockingIOError, FileNotFoundError):
        os.close(handle)
        return None
    return handle


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system allows a folder to be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
