"""A secret that only this user can read, and seals made with it: how a process knows what this user's processes wrote.

A hash inside a file says that the file is whole, not who made it. A seal is an HMAC with the user's secret, so nobody else can
make one, whatever folder they may write to.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

KEY_BYTES = 32


def cache_home() -> Path:
    """Return the folder of what this package keeps between processes: ``$SWINKIT_CACHE`` or ``~/.cache/swinkit``."""
    return Path(os.environ.get("SWINKIT_CACHE") or Path.home() / ".cache" / "swinkit")


def seal(data: bytes) -> str:
    """Return the seal of ``data``, hexadecimal; "" where this user's secret cannot be kept (a read-only home, a full disk)."""
    key = _key(cache_home() / "key")
    return hmac.new(key, data, hashlib.sha256).hexdigest() if key else ""


def is_sealed(data: bytes, mark: str) -> bool:
    """Return whether ``mark`` is this user's seal of ``data``."""
    expected = seal(data)
    return bool(expected) and hmac.compare_digest(expected.encode(), mark.encode(errors="replace"))


def private_folder(path: Path) -> bool:
    """Make a folder that only this user can enter, with the folders above it; return whether it is one.

    A folder that belongs to somebody else, or is a link, is not; one of this user's that others may enter is closed to them.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or not _is_ours(status):
            return False
        if os.name == "posix" and status.st_mode & 0o077:
            path.chmod(0o700)
        return os.access(path, os.W_OK)
    except OSError:
        return False


@functools.cache
def _key(path: Path) -> bytes | None:
    """Return the secret in a file, made when it is not there; None when it cannot be kept or is not this user's alone."""
    if not private_folder(path.parent):
        return None
    with contextlib.suppress(OSError):
        if not os.path.lexists(path):  # Path.exists would follow links
            # Written beside and linked: two processes that start together get the same secret, and never half of one.
            beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(handle, secrets.token_bytes(KEY_BYTES))
                os.fsync(handle)
                with contextlib.suppress(FileExistsError):
                    os.link(beside, path)
            finally:
                os.close(handle)
                beside.unlink(missing_ok=True)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            status = os.fstat(handle)
            alone = stat.S_ISREG(status.st_mode) and _is_ours(status) and not (os.name == "posix" and status.st_mode & 0o077)
            key = os.read(handle, KEY_BYTES + 1) if alone else b""
        finally:
            os.close(handle)
        if len(key) == KEY_BYTES:
            return key
    return None


def _is_ours(status: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or status.st_uid == os.getuid()
