"""Decoders whose shape tensors alone do not tell: other pooling scales, and a U-Net that enlarges by transposed convolutions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.parity_segmentation import rows
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import swinkit
from swinkit.errors import CheckpointError, InputError, SwinkitError
from swinkit.models.build import build_network
from swinkit.models.segmentation import Segmenter
from swinkit.specs import Decoder
from swinkit.weights import load_checkpoint, load_into, save_dialect

BODY = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 4}
CONFIG = {
    "type": "EncoderDecoder",
    "backbone": {
        "type": "SwinTransformer",
        "embed_dims": 16,
        "depths": [1, 1, 2, 1],
        "num_heads": [1, 2, 4, 8],
        "window_size": 4,
    },
    "decode_head": {"type": "UPerHead", "pool_scales": [1, 2, 4, 8], "num_classes": 5, "align_corners": False},
}


def _shaken(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.5 if name.endswith("var") else 0.3 * torch.randn(value.shape))
    return model.eval()


def _folder(folder: Path, state: dict[str, Tensor], config: dict | None) -> Path:
    """Write mmsegmentation's tensors, and beside them what its configuration says."""
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def _read(folder: Path) -> Segmenter:
    checkpoint = load_checkpoint(folder)
    network = build_network(checkpoint.spec)
    load_into(network, checkpoint)
    assert isinstance(network, Segmenter)
    return network.eval()


def _mm_state(model: Segmenter, path: Path) -> dict[str, Tensor]:
    spec = swinkit.load("swin-nano-camvid").spec.changed(
        variant=model.backbone.variant.changed(num_classes=model.num_classes), decoder=model.decoder, labels=(), masks=None
    )
    tensors = {name.removeprefix("backbone."): value for name, value in model.state_dict().items()}
    return torch.load(save_dialect(path / "mm.pth", tensors, spec, "mm"), weights_only=True)["state_dict"]


@pytest.mark.parametrize("scales", [(1, 2, 4, 8), (2, 3), (1, 2, 3, 6, 9)])
def test_pooling_scales_come_from_the_configuration_beside_mmsegs_weights(scales: tuple[int, ...], tmp_path: Path) -> None:
    model = _shaken(swinkit.create_model("upernet", num_classes=5, channels=12, pool_scales=scales, **BODY))
    assert isinstance(model, Segmenter)
    state = _mm_state(model, tmp_path)
    config = {**CONFIG, "decode_head": {**CONFIG["decode_head"], "pool_scales": list(scales)}}
    again = _read(_folder(tmp_path / "with", state, config))
    assert again.decoder.pool_scales == scales
    images = torch.randn(1, 3, 101, 143)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    if len(scales) == 4:
        return  # four scales that nothing describes are taken for UPerNet's own
    with pytest.raises(CheckpointError, match=rf"pools at {len(scales)} scales .*config\.json"):
        load_checkpoint(_folder(tmp_path / "without", state, None))


def _unet(maps: list[Tensor], state: dict[str, Tensor], kernel: int, size: tuple[int, int]) -> Tensor:
    """Return the logits as mmsegmentation's ``UpConvBlock``, ``DeconvModule`` and ``FCNHead`` make them, written down plainly."""

    def cbr(x: Tensor, name: str, norm: str, deconv: bool = False) -> Tensor:
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        if deconv:
            x = F.conv_transpose2d(x, weight, bias, stride=2, padding=(kernel - 2) // 2)
        else:
            x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        return F.relu(F.batch_norm(x, *(state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))))

    x = maps[3]
    for level in (2, 1, 0):
        block = f"neck.decoder.{level}"
        x = cbr(x, f"{block}.upsample.deconv_upsamping.0", f"{block}.upsample.deconv_upsamping.1", deconv=True)
        if x.shape[-2:] != maps[level].shape[-2:]:
            x = F.interpolate(x, size=maps[level].shape[-2:], mode="bilinear", align_corners=False)
        x = torch.cat([maps[level], x], dim=1)
        for number in (0, 1):
            x = cbr(x, f"{block}.conv_block.convs.{number}.conv", f"{block}.conv_block.convs.{number}.bn")
    x = cbr(x, "decode_head.convs.0.conv", "decode_head.convs.0.bn")
    logits = F.conv2d(x, state["decode_head.conv_seg.weight"], state["decode_head.conv_seg.bias"])
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _unet_state(kernel: int) -> dict[str, Tensor]:
    """Return random decoder tensors under mmsegmentation's names, by its own modules' shapes."""
    generator = torch.Generator().manual_seed(kernel)
    state: dict[str, Tensor] = {}

    def add(name: str, *shape: int) -> None:
        state[name] = 0.2 * torch.randn(shape, generator=generator)

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean"):
            add(f"{name}.{part}", width)
        state[f"{name}.running_var"] = torch.rand(width, generator=generator) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(3)

    for level, fine in enumerate((16, 32, 64)):
        up, convs = f"neck.decoder.{level}.upsample.deconv_upsamping", f"neck.decoder.{level}.conv_block.convs"
        add(f"{up}.0.weight", 2 * fine, fine, kernel, kernel)
        add(f"{up}.0.bias", fine)
        norm(f"{up}.1", fine)
        for number, wide in enumerate((2 * fine, fine)):
            add(f"{convs}.{number}.conv.weight", fine, wide, 3, 3)
            norm(f"{convs}.{number}.bn", fine)
    add("decode_head.convs.0.conv.weight", 12, 16, 3, 3)
    norm("decode_head.convs.0.bn", 12)
    add("decode_head.conv_seg.weight", 5, 12, 1, 1)
    add("decode_head.conv_seg.bias", 5)
    return state


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("kernel", [2, 4])
def test_a_unet_with_transposed_convolutions_answers_as_written_down_plainly(
    kernel: int, described: bool, tmp_path: Path
) -> None:
    model = _shaken(swinkit.create_model("unet", num_classes=5, channels=12, auxiliary_channels=0, **BODY))
    assert isinstance(model, Segmenter)
    body = {name: value for name, value in _mm_state(model, tmp_path).items() if name.startswith("backbone.")}
    state = _unet_state(kernel)
    head = {"type": "FCNHead", "in_index": 3, "num_classes": 5}
    config = {**CONFIG, "neck": {"type": "SwinUNetNeck", "upsample": "DeconvModule"}, "decode_head": head}
    network = _read(_folder(tmp_path / "folder", body | state, config if described else None))
    assert (network.decoder.kind, network.decoder.deconv_kernel) == ("unet", kernel)
    for size in ((64, 96), (101, 143)):
        images = torch.randn(2, 3, *size)
        with torch.inference_mode():
            expected = _unet(model.backbone(images), state, kernel, size)
            torch.testing.assert_close(network(images), expected, atol=1e-5, rtol=1e-5)
    back = _mm_state(network, tmp_path)
    assert back.keys() == (body | state).keys()
    assert all(torch.equal(back[name], value) for name, value in (body | state).items())


def test_a_fixture_with_transposed_convolutions_is_compared(tmp_path: Path) -> None:
    model = _shaken(swinkit.create_model("unet", num_classes=5, channels=12, auxiliary_channels=0, **BODY))
    assert isinstance(model, Segmenter)
    state = {name: value for name, value in _mm_state(model, tmp_path).items() if name.startswith("backbone.")} | _unet_state(4)
    picture = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        logits = _unet(model.backbone((picture.float() - 128) / 64), state, 4, (64, 96))
    config = {**CONFIG, "neck": {"upsample": "DeconvModule"}, "decode_head": {"type": "FCNHead", "num_classes": 5}}
    stored = {f"state/{name}": value.contiguous() for name, value in state.items()}
    stored |= {"input/a": picture, "out/a/logits": logits, "input/train": picture, "input/train_target": picture[:, 0] % 5}
    for name, wrong in (("good", 0.0), ("bad", 1e-3)):
        stored["out/a/logits"] = logits + wrong
        told = {"config": json.dumps({"system": "unet", "model": config})}
        save_file({key: value.clone() for key, value in stored.items()}, tmp_path / f"{name}.safetensors", metadata=told)
    found = {row.fixture: row for row in rows(tmp_path)}
    assert found["good.safetensors"].compared == 1
    assert found["good.safetensors"].fits
    assert not found["bad.safetensors"].fits


def test_a_unet_with_transposed_convolutions_trains_on_a_batch_of_one() -> None:
    model = swinkit.create_model("unet", num_classes=5, channels=12, deconv_kernel=4, **BODY).train()
    model(torch.randn(1, 3, 33, 20)).square().mean().backward()
    grad = model.neck.blocks[0].enlarge.conv.weight.grad
    assert grad is not None
    assert float(grad.abs().sum()) > 0


def test_a_description_without_transposed_convolutions_is_what_it_was() -> None:
    assert "deconv_kernel" not in Decoder("unet").to_dict()
    for decoder in (Decoder("unet"), Decoder("unet", deconv_kernel=4)):
        assert Decoder.from_dict(decoder.to_dict()) == decoder
        spec = swinkit.load("swin-nano-camvid").spec.changed(decoder=decoder)
        assert type(spec).from_dict(spec.to_dict()) == spec
    for wrong in (3, -2, 18):
        with pytest.raises(InputError, match="deconv_kernel"):
            Decoder("unet", deconv_kernel=wrong)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"backbone": {"type": "ResNet"}}, "SwinTransformer"),
        ({"backbone": "swin"}, "SwinTransformer"),
        ({"auxiliary_head": [{"in_index": 2}]}, "auxiliary"),
        ({"decode_head": {"align_corners": True}}, "align_corners"),
        ({"decode_head": {"num_classes": -3}}, "num_classes"),
        ({"decode_head": {"pool_scales": [10**6]}}, "pool_scales"),
        ({"decode_head": {"pool_scales": "many"}}, "pool_scales"),
    ],
)
def test_a_configuration_of_mmseg_that_cannot_be_gets_one_sentence(changes: dict, word: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "folder", {"a": torch.zeros(1)}, {**CONFIG, **changes})
    with pytest.raises(SwinkitError, match=word) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
