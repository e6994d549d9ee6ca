"""Whatever a caller calls an image, to an upright picture: one door, bounded, with a sentence for what is none."""

from __future__ import annotations

import base64
import binascii
import os
import re
import urllib.parse
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from swinkit.data.images import MAX_BYTES, MAX_PIXELS, read_image, to_rgb
from swinkit.errors import ImageError, InputError, shown

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray | Tensor

_DATA_URL = re.compile(r"data:[^,]{0,200}?(;base64)?,", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{1,20}://", re.IGNORECASE)
_NAME = 60  # letters of a data: URL that are shown
_KINDS = (
    "an image is a path, a PIL image or a uint8 array; encoded bytes, an open binary file, a data: URL and a uint8 tensor "
    "(C, H, W) are taken too"
)


def is_path(source: object) -> bool:
    """Return whether ``source`` names a file, which can be read again."""
    return isinstance(source, os.PathLike) or (isinstance(source, str) and not _DATA_URL.match(source))


def name_of(source: object, otherwise: str) -> str:
    """Return what to call an image: its path, the beginning of its ``data:`` URL, the name of its file, or ``otherwise``."""
    if is_path(source):
        return os.fsdecode(source)  # type: ignore[arg-type]
    if isinstance(source, str):
        return source if len(source) <= _NAME else f"{source[:_NAME]}... ({len(source):,} letters)"
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return name if name and isinstance(name, str) else otherwise


def picture_of(source: object, name: str, grey: bool = False) -> Image.Image:
    """Return the upright picture, mode "RGB", or "L" for ``grey``; what came in memory is copied.

    Args:
        source: a path; a ``data:`` URL in base64; encoded bytes, or an open binary file that is read from where it stands; a PIL
            image; an array (H, W), (H, W, 3) or (H, W, 4) or a tensor (1, H, W), (3, H, W) or (4, H, W), both uint8 in RGB order.
        name: what to call it in errors.
        grey: one channel instead of three.

    Raises:
        ImageError: it cannot be read as a picture.
        InputError: it is no image at all.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        picture = read_image(bytes(source), name, grey)
    elif isinstance(source, str | os.PathLike):
        picture = _of_text(source, name, grey)
    elif isinstance(source, Image.Image):
        picture = to_rgb(_with_pixels(source, name), name, grey)
    elif isinstance(source, np.ndarray):
        picture = to_rgb(_of_array(source), name, grey)
    elif isinstance(source, Tensor):
        picture = to_rgb(_of_tensor(source), name, grey)
    elif callable(getattr(source, "read", None)):
        picture = read_image(_read(source, name), name, grey)
    else:
        raise InputError(f"{_KINDS}, got {type(source).__name__}")
    return _with_pixels(picture, name)


def _of_text(source: str | os.PathLike[str], name: str, grey: bool) -> Image.Image:
    if not isinstance(source, str):
        return read_image(Path(os.fsdecode(source)), name, grey)
    found = _DATA_URL.match(source)
    if found:
        if not found[1]:
            raise ImageError(f"{name}: is a data: URL without ;base64; encode the picture's bytes in base64")
        return read_image(_decoded(source[found.end() :], name), name, grey)
    if _ADDRESS.match(source):
        raise ImageError(f"{name}: is an address, and nothing is fetched from a network here; download it and give the file")
    return read_image(Path(source), name, grey)


def _decoded(text: str, name: str) -> bytes:
    if len(text) > 2 * MAX_BYTES:
        raise ImageError(f"{name}: is more than {MAX_BYTES:,} bytes; scale it down")
    try:
        data = urllib.parse.unquote_to_bytes(text) if "%" in text else text.encode("ascii")
        return base64.b64decode(data, validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ImageError(f"{name}: is no base64; encode the picture's bytes again") from None


def _read(file: object, name: str) -> bytes:
    """Return the rest of an open file, after bounding it; one call may give less than there is."""
    parts: list[bytes] = []
    room = MAX_BYTES + 1
    try:
        while room > 0:
            part = file.read(min(room, 2**20 if parts else room))  # type: ignore[attr-defined]
            if not isinstance(part, bytes | bytearray | memoryview):
                raise InputError(f"{shown(name)}: was opened as text, or has nothing to read yet; open it in mode 'rb'")
            if not part:
                break
            parts.append(bytes(part))
            room -= len(part)
    except (OSError, ValueError) as error:  # the latter: it is closed, or not open for reading
        if isinstance(error, InputError):
            raise
        raise ImageError(f"{name}: cannot be read ({' '.join(str(error).split())[:200]}); open it again") from error
    return b"".join(parts)


def _of_array(array: np.ndarray) -> Image.Image:
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not fits or array.size == 0:
        raise InputError(
            f"an image array is (H, W), (H, W, 3) or (H, W, 4) of uint8 in RGB order, got {array.shape} of "
            f"{array.dtype}; scale, round and transpose it first"
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise InputError(f"an image array of {array.shape[1]}x{array.shape[0]} is more than {MAX_PIXELS:,} pixels; scale it down")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _of_tensor(tensor: Tensor) -> Image.Image:
    strided = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type != "meta"
    if tensor.dtype != torch.uint8 or tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4) or not tensor.numel() or not strided:
        raise InputError(
            f"an image tensor is (1, H, W), (3, H, W) or (4, H, W) of uint8 in RGB order, as torchvision.io.read_image gives, "
            f"got {tuple(tensor.shape)} of {tensor.dtype}; give pixels of 0..255, before any normalisation"
        )
    if tensor.shape[1] * tensor.shape[2] > MAX_PIXELS:
        raise InputError(
            f"an image tensor of {tensor.shape[2]}x{tensor.shape[1]} is more than {MAX_PIXELS:,} pixels; scale it down"
        )
    return _of_array(np.ascontiguousarray(tensor.detach().cpu().permute(1, 2, 0).numpy()))


def _with_pixels(image: Image.Image, name: str) -> Image.Image:
    if not image.width or not image.height:
        raise ImageError(f"{name}: has {image.width}x{image.height} pixels, and so nothing to look at; remove it")
    return image
