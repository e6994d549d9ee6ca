"""Pillow's memory as a tensor: the values of a plain copy, for as long as somebody holds it."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swinkit.data import pixels as module
from swinkit.data.pixels import pixels_of, scaled


def picture(height: int, width: int, seed: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def copied(image: Image.Image) -> torch.Tensor:
    """Return (C, H, W) as numpy reads the picture."""
    return torch.tensor(np.array(image).reshape(image.height, image.width, -1)).permute(2, 0, 1).contiguous()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31), st.sampled_from(["RGB", "L"]))
def test_pixels_are_those_that_numpy_reads(height: int, width: int, seed: int, mode: str) -> None:
    image = picture(height, width, seed, mode)
    assert torch.equal(pixels_of(image), copied(image))


@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["bilinear", "bicubic"]),
    st.booleans(),
    st.data(),
)
def test_scaling_the_memory_itself_or_a_part_of_it_equals_scaling_a_copy(
    shape: tuple[int, int], size: tuple[int, int], mode: str, antialias: bool, data: st.DataObject
) -> None:
    image = picture(*shape, seed=sum(shape))
    top, left = (data.draw(st.integers(0, side - 1)) for side in shape)
    part = (slice(None), slice(top, None), slice(left, None))
    given_out = scaled(pixels_of(image)[part], size, mode, antialias)
    assert given_out.shape == (3, *size)
    assert torch.equal(given_out, scaled(copied(image)[part], size, mode, antialias))


def test_no_byte_is_copied_and_the_memory_outlives_the_picture() -> None:
    image = picture(300, 400, 1)
    pixels, expected = pixels_of(image), copied(image)
    assert pixels.data_ptr() == pixels_of(image).data_ptr()
    del image
    gc.collect()
    others = [picture(300, 400, seed) for seed in range(2, 12)]  # would lie where the first was
    assert torch.equal(pixels, expected)
    assert len(others) == 10


@pytest.mark.parametrize("size", [(2300, 2000), (4100, 1100)])
def test_a_picture_in_pieces_is_copied(size: tuple[int, int]) -> None:
    image = picture(*size, seed=3)
    assert module._own_memory(image) is None
    assert torch.equal(pixels_of(image), copied(image))


@pytest.mark.parametrize("mode", ["L", "I", "F"])
def test_memory_of_another_layout_is_not_taken_for_colours(mode: str) -> None:
    assert module._own_memory(Image.new(mode, (4, 4))) is None


def test_a_layout_that_is_called_otherwise_is_not_trusted() -> None:
    class Other:
        height, width = 4, 4

        def __arrow_c_array__(self) -> tuple[object, object]:
            return Image.new("L", (4, 4)).__arrow_c_array__()[0], picture(4, 4, 0).__arrow_c_array__()[1]

    assert module._own_memory(Other()) is None  # type: ignore[arg-type]


def test_an_empty_picture_has_no_memory() -> None:
    assert module._own_memory(Image.new("RGB", (0, 5))) is None
