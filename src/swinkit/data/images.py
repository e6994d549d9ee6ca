"""One reader for every picture: upright, 8 bits, RGB or grey, from a defined range.

| stored as | becomes |
|---|---|
| EXIF orientation 2..8 | turned; other values are ignored |
| 1, L, P, YCbCr, CMYK, Lab | RGB as Pillow converts it (embedded colour profiles are not applied) |
| RGBA, palette with transparency | laid over white |
| LA | the grey values; alpha is dropped |
| 16-bit grey | divided by 257 (the full range) |
| float within 0..1 | multiplied by 255 |
| 32-bit integers, other floats, NaN | refused: nobody knows their range |
| several frames or pages | the first |
"""

from __future__ import annotations

import contextlib
import io
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from swinkit.errors import ImageError, shown

MAX_PIXELS = 178_956_970
MAX_BYTES = 512 * 2**20
IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".avif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".j2k",
        ".ico",
        ".tga",
        ".heic",
        ".heif",
    ]
)
# What Pillow decodes itself. Left out: formats that start other programs (EPS) or play metafiles (WMF).
_FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM", "JPEG2000", "ICO", "TGA", "PCX", "XVTHUMB",
)  # fmt: skip
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")


def read_image(source: str | Path | bytes | BinaryIO, name: str | None = None, grey: bool = False) -> Image.Image:
    """Return a picture as the table above says.

    Args:
        source: path, encoded bytes, or an open binary file.
        name: what to call it in errors; default the path.
        grey: return one channel (mode "L") instead of three.

    Returns:
        An upright picture of mode "RGB" or "L".

    Raises:
        ImageError: the message starts with the name, says what is wrong and what to do.
    """
    name = shown(name or (str(source) if isinstance(source, str | Path) else "picture"))
    try:
        data = _bytes(source, name)
        with _quiet():
            return _decode(data, name, grey)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{name}: too large for the memory of this machine; scale it down") from error
    except Exception as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


def count_frames(source: bytes | Path) -> int:
    """Return how many frames a picture holds, 1 where that cannot be told; only the first is ever used."""
    try:
        with _quiet(), Image.open(io.BytesIO(_bytes(source, "picture")), formats=["GIF", "WEBP"]) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 - whether the picture can be read is for read_image to say
        return 1


def to_rgb(image: Image.Image, name: str = "picture", grey: bool = False, ours: bool = False) -> Image.Image:
    """Return an already opened picture as ``read_image`` would; ``ours`` may be changed instead of copied.

    Raises:
        ImageError: pixels without a known range, or a picture that cannot be decoded.
    """
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{name}: {image.width}x{image.height} pixels are more than {MAX_PIXELS:,}; scale it down")
    try:
        image.load()
        picture, mode = _eight_bits(_upright(image, ours), name, image.format), "L" if grey else "RGB"
        return picture if picture.mode == mode else picture.convert(mode)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


_quiet_lock = threading.Lock()
_quiet_readers = 0
_quiet_saved: list[warnings.catch_warnings] = []


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hush Pillow, which warns of damaged side data that does not touch the pixels.

    The filters of Python belong to all threads: each thread saving and restoring them by itself would leave
    them changed for good. So the first reader saves them and the last one puts them back.
    """
    global _quiet_readers
    with _quiet_lock:
        if _quiet_readers == 0:
            _quiet_saved.append(warnings.catch_warnings())
            _quiet_saved[0].__enter__()
            warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        _quiet_readers += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_readers -= 1
            if _quiet_readers == 0:
                _quiet_saved.pop().__exit__(None, None, None)


def _bytes(source: str | Path | bytes | BinaryIO, name: str) -> bytes:
    """Return the whole encoded picture, after bounding its size."""
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, str | Path):
        path = Path(source)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a zero byte in the name
            raise ImageError(f"{name}: does not exist; check the path") from None
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{name}: is a folder; give a picture")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name}: is no ordinary file; give a picture")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"{name}: {status.st_size:,} bytes are more than {MAX_BYTES:,}; scale it down")
        data = path.read_bytes()
    else:
        data = source.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name}: more than {MAX_BYTES:,} bytes; scale it down")
    if not data:
        raise ImageError(f"{name}: is empty (0 bytes); copy it again")
    return data


def _decode(data: bytes, name: str, grey: bool) -> Image.Image:
    formats: tuple[str, ...] = _FORMATS
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        try:
            from pillow_heif import register_heif_opener  # optional, under its own licence
        except ImportError:
            raise ImageError(f"{name}: HEIF pictures need a plug-in; run: pip install pillow-heif") from None
        register_heif_opener()
        formats = (*_FORMATS, "HEIF")
    Image.init()  # registers all readers; naming one that is not there is an error
    try:
        image = Image.open(io.BytesIO(data), formats=[name for name in formats if name in Image.OPEN])
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: is no picture that can be read ({_looks_like(data)}); remove or re-export it") from None
    with image:
        return to_rgb(image, name, grey, ours=True)


def _upright(image: Image.Image, ours: bool) -> Image.Image:
    """Return the picture turned as its EXIF says, ``ours`` itself, of another's a copy."""
    try:
        if not ours:
            return ImageOps.exif_transpose(image)
        ImageOps.exif_transpose(image, in_place=True)
        return image
    except Exception:  # noqa: BLE001 - broken EXIF says nothing about the orientation; the pixels are good
        return image


def _eight_bits(image: Image.Image, name: str, stored_as: str | None) -> Image.Image:
    """Return the picture in a mode of 8-bit channels without transparency."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and stored_as in ("PPM", "PNG", "JPEG2000")):
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8))
    if mode == "I":
        raise ImageError(f"{name}: 32-bit integer pixels have no known range; save it with 8 or 16 bits")
    if mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ImageError(f"{name}: float pixels hold NaN or infinity; mend them and save with 8 or 16 bits")
        if values.min() < 0 or values.max() > 1:
            raise ImageError(
                f"{name}: float pixels from {values.min():g} to {values.max():g} have no known range; scale them to 0..1"
            )
        return Image.fromarray(np.rint(values * 255.0).astype(np.uint8))
    if mode in ("LA", "La"):
        return image.getchannel("L") if mode == "LA" else image.convert("LA").getchannel("L")
    if mode in ("RGBA", "RGBa", "PA") or "transparency" in image.info:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return image


def _looks_like(data: bytes) -> str:
    head = data[:256].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    if head.startswith((b"<svg", b"<?xml")):
        return "it is a vector drawing or XML"
    if head.startswith((b"%pdf", b"%!ps", b"pk\x03\x04")):
        return "it is a document or an archive"
    if data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n":
        return "its header is damaged"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in data[:256]):
        return "it is text"
    return "unknown format"


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"announces more than {MAX_PIXELS:,} pixels; scale it down or remove it"
    text = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in text.lower() or "broken data stream" in text.lower():
        return f"is cut off or damaged ({text}); copy it again"
    return f"cannot be decoded ({text[:200]}); copy or export it again"
