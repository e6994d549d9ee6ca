"""The folded network against the network: same answers, same padding, the source untouched."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from swinkit.engines.exported import Engine, canary_pixels, difference, sampled
from swinkit.engines.fast import FromPixels, folded
from swinkit.export import CompiledEngine
from swinkit.models import create_model
from swinkit.models.classifier import SwinClassifier
from swinkit.models.swin import SwinBackbone
from swinkit.specs import ModelSpec, Preprocessing, Variant

SHAPE = Variant(embed_dim=32, depths=(2, 1), num_heads=(1, 2), window_size=4, patch_size=4, img_size=64, num_classes=10)
GREY = Preprocessing((64, 64), mean=(0.4,), std=(0.2,))


def shaken(network: nn.Module) -> nn.Module:
    """Return the network with random weights everywhere: norms that are the identity would hide what folding forgets."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def tiny(kind: str, version: int = 1, in_chans: int = 3) -> nn.Module:
    torch.manual_seed(version)
    variant = SHAPE.changed(version=version, in_chans=in_chans)
    if kind == "classifier":
        return shaken(SwinClassifier(variant))
    if kind == "pyramid":
        return shaken(SwinBackbone(variant))
    shape = {"embed_dim": 32, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 2), "window_size": 4}
    base = "swin_tiny" if version == 1 else "swinv2_tiny_patch4_window8_256"
    return shaken(create_model(kind, 3, in_chans, backbone=base, channels=8, auxiliary_channels=0, **shape))


def largest(found: list[Tensor], exact: list[Tensor]) -> float:
    """Return the largest difference from an answer computed in float64."""
    return max(float((ours - theirs).abs().max()) for ours, theirs in zip(found, exact, strict=True))


def maps(answer: Tensor | list[Tensor]) -> list[Tensor]:
    return [answer] if isinstance(answer, Tensor) else answer


def normalised(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (pixels.float() / 255 - mean) / std


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["classifier", "pyramid", "upernet", "unet"])
def test_the_folded_network_answers_as_the_network(kind: str, version: int) -> None:
    network, preprocessing = tiny(kind, version), Preprocessing()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fast, from_pixels, exact = folded(network), FromPixels(network, preprocessing), copy.deepcopy(network).double()
    precise = folded(exact)
    with torch.inference_mode():
        for size in ((1, 64, 64), (2, 50, 71), (3, 33, 20)):
            pixels = torch.from_numpy(canary_pixels(ModelSpec(SHAPE, preprocessing), size[1:], size[0]))
            images = normalised(pixels, preprocessing)
            expected = maps(exact(images.double()))
            own = largest(maps(network(images)), expected)
            assert largest(maps(precise(images.double())), expected) <= 1e-9  # the same function, rounding apart
            # A shaken U-Net rounds by more than 1e-5 itself: then the folded form may as well, but not by much more.
            for found in (fast(images), from_pixels(pixels), from_pixels(pixels.float())):
                assert largest(maps(found), expected) <= max(1e-5, 3 * own)
    assert not fast.training
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_training_network_stays_one() -> None:
    network = tiny("classifier").train()
    folded(network)
    assert all(module.training for module in network.modules())


def test_grey_pictures_and_five_channels() -> None:
    for channels, preprocessing in ((1, GREY), (5, Preprocessing(mean=(0.1, 0.2, 0.3, 0.4, 0.5), std=(0.2,) * 5))):
        network = tiny("pyramid", in_chans=channels)
        pixels = torch.randint(0, 256, (2, channels, 37, 50), dtype=torch.uint8)
        with torch.inference_mode():
            pairs = zip(FromPixels(network, preprocessing)(pixels), network(normalised(pixels, preprocessing)), strict=True)
            for ours, theirs in pairs:
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


PADDED = tiny("pyramid")
PADDED_FAST = folded(PADDED)


@given(st.integers(1, 90), st.integers(1, 90))
@settings(max_examples=15, deadline=None)
def test_padding_is_what_the_network_pads_with(height: int, width: int) -> None:
    images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height * 100 + width))
    with torch.inference_mode():
        for ours, theirs in zip(PADDED_FAST(images), PADDED(images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_pyramid_of_timm_gets_its_statistics_in_front() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    network = create_model("fpn", 3, backbone="timm:resnet10t", channels=8, neck_channels=8, auxiliary_channels=0).eval()
    pixels = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        found, expected = FromPixels(network, Preprocessing())(pixels), network(normalised(pixels, Preprocessing()))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


class Echo(Engine):
    """Gives the pixels it got, and notes how many threads were inside."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__("torch", spec)
        self.inside = self.most = 0

    def run(self, pixels: Tensor) -> Tensor:
        self.inside += 1
        self.most = max(self.most, self.inside)
        threading.Event().wait(0.002)
        self.inside -= 1
        return pixels


def test_an_engine_gets_pixels_whatever_it_is_called_with() -> None:
    echo = Echo(ModelSpec(SHAPE, Preprocessing()))
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    assert torch.equal(echo(pixels), pixels)
    images = normalised(pixels, Preprocessing()).requires_grad_()
    torch.testing.assert_close(echo(images), pixels.float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(echo(images.double()), pixels.float(), atol=1e-3, rtol=0)
    for wrong in (pixels[0], pixels[:, :1]):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
            echo(wrong)


def test_threads_take_turns() -> None:
    echo = Echo(ModelSpec(SHAPE, Preprocessing()))
    pixels = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    threads = [threading.Thread(target=lambda: [echo(pixels) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert echo.most == 1


def test_a_canary_is_the_same_everywhere_and_kept_small() -> None:
    spec = ModelSpec(SHAPE, Preprocessing())
    pixels = canary_pixels(spec, (20, 33), 2)
    assert pixels.shape == (2, 3, 20, 33)
    assert (pixels == canary_pixels(spec, (20, 33), 2)).all()
    assert pixels[0, 0, 0, :4].tolist() == [24, 62, 34, 70]
    assert sampled(np.zeros((1, 4, 100, 20))).shape == (1, 4, 32, 20)
    assert difference([np.zeros(3)], [np.full(3, np.nan)]) == float("inf")
    assert difference([np.zeros(3)], []) == float("inf")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["classifier", "pyramid", "upernet"])
def test_an_accelerator_compiles_the_same_answers(kind: str, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network, spec = tiny(kind, version), ModelSpec(SHAPE, Preprocessing((64, 64)))
    pixels = torch.from_numpy(canary_pixels(spec, (64, 72), 3))
    with torch.inference_mode():
        expected = maps(network(normalised(pixels, spec.preprocessing)))
    engine = CompiledEngine(network.to("cuda"), spec)
    for count in (3, 2):  # two are filled up to three
        found = [map_.cpu() for map_ in maps(engine(pixels[:count].to("cuda")))]
        assert largest(found, [map_[:count] for map_ in expected]) < 1e-4
