"""Preparation and augmentation: live peers for the fixed path, counted facts for the random one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swinkit.data.transforms import OPERATIONS, Augmentation, augment, prepare, rand_augment, resized
from swinkit.specs import Preprocessing
from swinkit.tasks.classify.mixing import mix_batch, smooth_targets

SHORTER = Preprocessing((224, 224), "shorter", 256)


def _photo(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(40, 200, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(451, 300), (300, 451), (224, 224), (100, 37)])
def test_equals_torchvisions_own_evaluation_transform(size: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    peer = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(SHORTER.mean, SHORTER.std),
        ]
    )
    image = _photo(*size)
    torch.testing.assert_close(prepare(image, SHORTER), peer(image), atol=1e-5, rtol=0)


def test_squash_is_within_a_level_of_pillow() -> None:
    image = _photo(451, 300)
    ours = resized(image, Preprocessing((64, 48))).permute(1, 2, 0).numpy().astype(int)
    pillow = np.asarray(image.resize((48, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(ours - pillow).max() <= 2


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(["squash", "shorter"]))
def test_any_size_gives_the_network_its_size(width: int, height: int, resize: str) -> None:
    preprocessing = Preprocessing((32, 32), resize, 36 if resize == "shorter" else 0)
    assert prepare(Image.new("RGB", (width, height), (9, 99, 200)), preprocessing).shape == (3, 32, 32)


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (20000, 2)])
def test_strips_are_read_in_bounded_memory(size: tuple[int, int]) -> None:
    assert prepare(Image.new("RGB", size), SHORTER).shape == (3, 224, 224)


def test_augmentation_is_a_function_of_its_generator() -> None:
    image, options = _photo(80, 60), Augmentation(soften=0.5)
    preprocessing = Preprocessing((32, 32))
    first, again, other = (augment(image, preprocessing, options, np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_everything_off_is_the_squashed_photo() -> None:
    image, preprocessing = _photo(80, 60), Preprocessing((32, 32))
    still = Augmentation((1, 1), (80 / 60, 80 / 60), 0, 0, 0, 0, 0, 0)
    torch.testing.assert_close(augment(image, preprocessing, still, np.random.default_rng(0)), prepare(image, preprocessing))


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_operation_keeps_size_and_mode_and_changes_the_picture(name: str, mode: str) -> None:
    image = _photo(40, 30).convert(mode)
    fill = (124, 116, 104) if mode == "RGB" else (120,)
    changed = OPERATIONS[name](image, 0.9, fill)
    assert (changed.size, changed.mode) == (image.size, mode)
    if not (name == "color" and mode == "L"):
        assert changed.tobytes() != image.tobytes()


def test_rand_augment_applies_each_operation_half_the_time() -> None:
    image, rng = _photo(16, 16), np.random.default_rng(0)
    options = Augmentation(randaugment=1, magnitude=9, magnitude_std=0)
    unchanged = sum(rand_augment(image, options, (0, 0, 0), rng).tobytes() == image.tobytes() for _ in range(400))
    assert 160 < unchanged < 250


def test_smooth_targets_by_hand() -> None:
    rows = smooth_targets(torch.tensor([2]), 4, 0.1)
    torch.testing.assert_close(rows, torch.tensor([[0.025, 0.025, 0.925, 0.025]]))


def test_cutmix_targets_follow_the_pasted_area() -> None:
    images = torch.stack([torch.zeros(3, 20, 20), torch.ones(3, 20, 20)])
    targets = torch.eye(2)
    for seed in range(20):
        mixed, rows = mix_batch(images.clone(), targets, 0.0, 1.0, 0.5, np.random.default_rng(seed))
        share = mixed[0].mean()
        torch.testing.assert_close(rows[0], torch.stack([1 - share, share]), atol=1e-5, rtol=0)


def test_mixup_mixes_pictures_and_targets_alike() -> None:
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    mixed, rows = mix_batch(images, torch.eye(2), 0.8, 0.0, 0.5, np.random.default_rng(3))
    torch.testing.assert_close(mixed[0].mean(), rows[0, 1])
