"""Broken pictures, archives and tables, made on the spot in a folder of the test's own."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int = 0, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """Return a smooth made-up photo, width by height; another seed looks quite different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(seed: int = 0, form: str = "PNG") -> bytes:
    return encoded(photo(seed), form)


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def image_folder(root: Path, layout: Iterable[str], first_seed: int = 0) -> Path:
    """Write a different picture at every name of ``layout``."""
    for seed, name in enumerate(layout, first_seed):
        write(root / name, picture(seed, "GIF" if name.endswith(".gif") else "PNG"))
    return root


def two_classes(root: Path, part: str, count: int = 3, first_seed: int = 0) -> Path:
    """Write ``count`` ants and as many bees below ``root/part``."""
    prefix = f"{part}/" if part else ""
    return image_folder(root, [f"{prefix}{c}/{i}.png" for c in ("ants", "bees") for i in range(count)], first_seed)


def zipped(path: Path, members: dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = members.items() if isinstance(members, dict) else members
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in rows:
            archive.writestr(name, data)
    return path


def zip_of(path: Path, names: Iterable[str], first_seed: int = 0) -> Path:
    return zipped(path, {name: picture(seed) for seed, name in enumerate(names, first_seed)})


def zip_with_link(path: Path) -> Path:
    link = zipfile.ZipInfo("ants/link.png")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zipped(path, [("ants/0.png", picture()), (link, b"/etc/passwd")])


def _patched(path: Path, at_local: int, at_central: int, value: bytes) -> Path:
    """Overwrite a field of the first member in its local and in its central header."""
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", at_local), (b"PK\x01\x02", at_central)):
        start = data.index(signature) + offset
        data[start : start + len(value)] = value
    path.write_bytes(bytes(data))
    return path


def zip_encrypted(path: Path) -> Path:
    return _patched(zip_of(path, ["ants/0.png", "bees/0.png"]), 6, 8, struct.pack("<H", 1))


def zip_announcing(path: Path, size: int) -> Path:
    """Write a zip whose first member claims to unpack to ``size`` bytes."""
    return _patched(zip_of(path, ["ants/0.png", "bees/0.png"]), 22, 24, struct.pack("<I", size))


def zip_bad_crc(path: Path) -> Path:
    return _patched(zip_of(path, ["ants/0.png", "bees/0.png"]), 14, 16, b"\xde\xad\xbe\xef")


def zip_unknown_compression(path: Path) -> Path:
    return _patched(zip_of(path, ["ants/0.png", "bees/0.png"]), 8, 10, struct.pack("<H", 77))


def zip_bomb(path: Path) -> Path:
    """Write a zip whose member unpacks to more than a thousand times its packed size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("ants/0.png", bytes(8 * 2**20))
        archive.writestr("bees/0.png", picture())
    return path


def zip_doubled(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("ants/0.png", "bees/0.png", "bees/1.png"):
            archive.writestr(name, picture())
    return write(path, path.read_bytes().replace(b"bees/1.png", b"bees/0.png"))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_announcing(width: int, height: int) -> bytes:
    """Return a tiny PNG whose header claims a huge picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def one_sentence(error: BaseException, named: str) -> str:
    """Return the message after asserting that it is one line, names ``named`` and is no traceback."""
    text = str(error)
    assert "\n" not in text
    assert named in text
    assert len(text) < 700
    assert "Traceback" not in text
    return text


def everything_below(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}
