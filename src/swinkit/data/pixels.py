"""Pillow's pictures as tensors, scaled: what lies between a decoder and the arithmetic."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def pixels_of(image: Image.Image) -> Tensor:
    """Return the picture as (C, H, W) uint8, colours together in memory: scaling is quicker so, with the same result.

    It may be the picture's own memory: nobody writes into it.
    """
    if image.mode == "RGB" and (pixels := _own_memory(image)) is not None:
        return pixels[:3]
    array = np.array(image, dtype=np.uint8, copy=True)
    return torch.from_numpy(array.reshape(image.height, image.width, -1)).permute(2, 0, 1)


def scaled(pixels: Tensor, size: Sequence[int], mode: str, antialias: bool = True) -> Tensor:
    """Return (C, H, W) uint8 scaled to (height, width): the operation behind torchvision's v2 resize, bit for bit.

    Called here without torchvision, whose import costs as much as torch's own. Without antialiasing it is within one
    grey level of OpenCV's.
    """
    if not antialias:
        values = F.interpolate(pixels[None].float(), size=list(size), mode=mode, align_corners=False)[0]
        return values.round_().clamp_(0, 255).to(torch.uint8)
    channels, height, width = pixels.shape
    if channels == 3 and pixels.stride(0) == 1 and pixels.stride(2) == 4:  # Pillow's memory: four together go without a copy
        pixels = pixels.as_strided((4, height, width), pixels.stride())
    return F.interpolate(pixels[None], size=list(size), mode=mode, antialias=True, align_corners=False)[0, :channels]


class _ArrowArray(ctypes.Structure):
    """The Arrow C data interface's ``ArrowArray``, up to the children."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))


def _own_memory(image: Image.Image) -> Tensor | None:
    """Return an RGB picture's own (4, H, W) uint8, the fourth unused, which the tensor keeps alive; None where it is in pieces.

    For whoever asks for an array, Pillow packs three bytes of each four into text, block by block, and holds Python's lock
    meanwhile. The Arrow interface hands the memory out as it lies.
    """
    try:
        schema, capsule = image.__arrow_c_array__()
    except ValueError:  # Pillow holds more than 16 MB in several blocks
        return None
    count = 4 * image.height * image.width
    layout = ctypes.cast(_pointer(schema, b"arrow_schema"), ctypes.POINTER(ctypes.c_char_p))[0]
    array = _ArrowArray.from_address(_pointer(capsule, b"arrow_array"))
    if count == 0 or layout != b"+w:4" or array.n_children != 1 or array.offset:
        return None
    values = array.children[0].contents
    if values.length != count or values.offset or values.n_buffers != 2 or not values.buffers[1]:
        return None
    memory = (ctypes.c_uint8 * count).from_address(values.buffers[1])
    memory.owner = capsule  # type: ignore[attr-defined]  # its end gives the memory back to Pillow
    return torch.frombuffer(memory, dtype=torch.uint8).view(image.height, image.width, 4).permute(2, 0, 1)
