"""An input of the fuzzer: several files as one string of bytes.

The first line is JSON, a row a file: ``[name, length]``, ``[name, "pipe"]`` or ``[name, "link", target]``; the contents follow.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

PIPE = "pipe"
MAX_FILES = 64


class NoCase(Exception):
    """Bytes that are no case: the fuzzer passes over them."""


Content = bytes | str  # str: "pipe", or "link <target>"


def pack(files: dict[str, Content]) -> bytes:
    """Return the bytes of a case."""
    rows: list[list[str | int]] = []
    for name, content in files.items():
        rows.append([name, len(content)] if isinstance(content, bytes) else [name, *content.split(" ", 1)])
    return json.dumps(rows).encode() + b"\n" + b"".join(part for part in files.values() if isinstance(part, bytes))


def unpack(data: bytes) -> dict[str, Content]:
    """Return the files of a case.

    Raises:
        NoCase: the bytes are none, or a name leads out of the folder.
    """
    head, _, rest = data.partition(b"\n")
    files: dict[str, Content] = {}
    try:
        rows = json.loads(head)
        if len(rows) > MAX_FILES:
            raise NoCase
        for name, kind, *target in rows:
            parts = Path(name).parts
            if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name or len(name) > 200:
                raise NoCase
            if isinstance(kind, int):
                files[name], rest = rest[:kind], rest[kind:]
            else:
                files[name] = " ".join([kind, *target])
    except (ValueError, TypeError, RecursionError) as error:
        raise NoCase from error
    if not files:
        raise NoCase
    return files


def lay_out(files: dict[str, Content], folder: Path) -> None:
    """Write the files of a case below an empty folder.

    Raises:
        NoCase: names that the file system does not take, or that are each other's folders.
    """
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif content == PIPE:
                os.mkfifo(path)
            else:
                path.symlink_to(content.removeprefix("link "))
    except (OSError, ValueError) as error:
        raise NoCase from error
