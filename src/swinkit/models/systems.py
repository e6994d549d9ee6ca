"""Segmentation systems as data: published combinations of backbone and decoder, their sizes and costs. Loads no torch.

Costs are counted from shapes, not by torch's ``FlopCounterMode``: ``swinkit models`` answers without loading torch. A test
compares both.
"""

from __future__ import annotations

from dataclasses import dataclass

from swinkit.errors import UnknownName, nearest
from swinkit.models.variants import parameter_count, resolve
from swinkit.specs import DECODERS, Decoder, Variant

# What each decoder is without further wishes: the authors' UPerNet, and mmsegmentation's FPN and U-Net.
DEFAULT_DECODERS = {
    "upernet": Decoder(),
    "fpn": Decoder("fpn", channels=128, auxiliary_channels=0),
    "unet": Decoder("unet", channels=64, auxiliary_channels=64),
}
DROP_PATH = 0.3  # of every published segmentation run


@dataclass(frozen=True)
class System:
    """A published segmentation system.

    Args:
        backbone: name of the variant.
        decoder: what stands on it.
        num_classes: classes.
        size: height and width its cost is published at.
        aliases: hub ids and file stems.
        params_m: published parameters, millions, auxiliary head included; None where nobody says.
        gmacs: published thousand millions of multiply-adds at ``size``, auxiliary head left out.
        miou: published mIoU on ADE20K at one scale, per cent.
        data: what it was trained on.
    """

    backbone: str
    decoder: Decoder
    num_classes: int = 150
    size: tuple[int, int] = (512, 2048)
    aliases: tuple[str, ...] = ()
    params_m: float | None = None
    gmacs: float | None = None
    miou: float | None = None
    data: str = "ade20k"


def _published(letter: str, params: float, gmacs: float | None, miou: float, *aliases: str, **more: str) -> System:
    backbone = more.get("backbone", f"swin_{letter}_patch4_window7_224")
    size = (640, 2560) if "640" in more.get("at", "") else (512, 2048)
    return System(backbone, Decoder(), 150, size, aliases, params, gmacs, miou)


_B22K, _L22K = "swin_base_patch4_window7_224_22k", "swin_large_patch4_window7_224_22k"
# Source: README of SwinTransformer/Swin-Transformer-Semantic-Segmentation; the last two from mmsegmentation's metafile.
SYSTEMS: dict[str, System] = {
    "upernet_swin_tiny": _published("tiny", 60, 945, 44.51, "openmmlab/upernet-swin-tiny"),
    "upernet_swin_small": _published("small", 81, 1038, 47.64, "openmmlab/upernet-swin-small"),
    "upernet_swin_base": _published("base", 121, 1188, 48.13),
    "upernet_swin_base_640_22k": _published("base", 121, 1841, 50.04, backbone=_B22K, at="640"),
    # The published 3230 G of this one is not reproduced by any count of a 512-channel head (2482): left out.
    "upernet_swin_large_640_22k": _published("large", 234, None, 52.05, backbone=_L22K, at="640"),
    "upernet_swin_base_window12_22k": _published(
        "base", 121, None, 50.76, "openmmlab/upernet-swin-base", backbone="swin_base_patch4_window12_384_22k"
    ),
}
_SPELLINGS = {spelling: name for name, system in SYSTEMS.items() for spelling in (name, *system.aliases)}
SYSTEM_NAMES = frozenset([*DECODERS, *_SPELLINGS])  # decoders and published systems, every spelling


def resolve_system(name: str) -> tuple[str, System]:
    """Return the canonical name and the system for any known spelling.

    Raises:
        UnknownName: with the nearest three names.
    """
    if name not in _SPELLINGS:
        raise UnknownName(f"no segmentation system is called {name!r}{nearest(name, _SPELLINGS)}")
    return _SPELLINGS[name], SYSTEMS[_SPELLINGS[name]]


def system_variant(system: System) -> Variant:
    """Return the shape of a system's backbone, with the system's classes and stochastic depth."""
    return resolve(system.backbone)[1].changed(num_classes=system.num_classes, drop_path=DROP_PATH)


@dataclass(frozen=True)
class _Conv:
    """One convolution of a decoder: where it works is a map's number, its cells a side, or a map doubled some times."""

    part: str
    inputs: int
    outputs: int
    kernel: int
    level: int = 0
    cells: int = 0
    doublings: int = 0
    norm: bool = True  # a norm and no bias, or a bias and no norm
    both: bool = False  # a norm and a bias

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs * self.kernel**2 + (3 if self.both else 2 if self.norm else 1) * self.outputs


def _convolutions(decoder: Decoder, widths: tuple[int, ...], classes: int) -> list[_Conv]:
    """Return every convolution of neck and decode head, as the modules in ``segmentation/`` make them."""
    channels, last = decoder.channels, len(widths) - 1
    rows: list[_Conv] = []
    if decoder.kind == "upernet":
        rows += [_Conv("pooling", widths[-1], channels, 1, cells=scale) for scale in decoder.pool_scales]
        rows.append(_Conv("pooling", widths[-1] + len(decoder.pool_scales) * channels, channels, 3, last))
        rows += [_Conv("laterals", width, channels, 1, level) for level, width in enumerate(widths[:-1])]
        rows += [_Conv("smoothing", channels, channels, 3, level) for level in range(last)]
        rows.append(_Conv("fusion", len(widths) * channels, channels, 3))
    elif decoder.kind == "fpn":
        neck = decoder.neck_channels
        rows += [_Conv("neck", width, neck, 1, level, norm=False) for level, width in enumerate(widths)]
        rows += [_Conv("neck", neck, neck, 3, level, norm=False) for level in range(len(widths))]
        for level in range(len(widths)):
            steps = range(max(1, level))
            rows += [_Conv("branches", channels if step else neck, channels, 3, level, doublings=step) for step in steps]
    else:
        for level in range(last - 1, -1, -1):
            fine, coarse = widths[level], widths[level + 1]
            if decoder.deconv_kernel:  # a transposed convolution multiplies at the coarse map's places
                rows.append(_Conv("blocks", coarse, fine, decoder.deconv_kernel, level + 1, both=True))
            else:
                rows.append(_Conv("blocks", coarse, fine, 1, level))
            rows += [_Conv("blocks", width, fine, 3, level) for width in (2 * fine, fine)]
        rows.append(_Conv("head", widths[0], channels, 3))
    return [*rows, _Conv("classifier", channels, classes, 1, norm=False)]


def segmenter_parameters(variant: Variant, decoder: Decoder) -> dict[str, int]:
    """Return the parameters of backbone, decoder and auxiliary head, counted from the shapes."""
    widths, classes = variant.channels, variant.num_classes
    # A dense network keeps its full window in every stage, and has a norm for each map instead of one in all.
    whole = variant.changed(num_classes=0, img_size=variant.window_size * variant.strides[-1])
    counted = {"backbone": parameter_count(whole) - 2 * widths[-1] + 2 * sum(widths)}
    counted["decoder"] = sum(row.parameters for row in _convolutions(decoder, widths, classes))
    width, below = decoder.auxiliary_channels, widths[::-1] if decoder.kind == "unet" else widths
    if decoder.kind == "fpn":
        below = (decoder.neck_channels,) * len(widths)
    counted["auxiliary"] = 0
    if width:
        auxiliary = (_Conv("", below[decoder.auxiliary_index], width, 3), _Conv("", width, classes, 1, norm=False))
        counted["auxiliary"] = sum(row.parameters for row in auxiliary)
    return counted


def segmenter_macs(variant: Variant, decoder: Decoder, size: tuple[int, int], reordered: bool = False) -> dict[str, int]:
    """Return multiply-adds of one image by part: matrix products and convolutions; norms, resizing, sums not counted.

    Args:
        variant: backbone; its ``num_classes`` is the segmenter's.
        decoder: what stands on it; the auxiliary head does not run.
        size: (height, width) of the image, pixels.
        reordered: count UPerNet's fusion as ``upernet.py`` computes it in evaluation, each map at its own size.
    """
    maps = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in variant.strides]
    areas = [height * width for height, width in maps]
    side = variant.window_size
    backbone = areas[0] * variant.embed_dim * variant.in_chans * variant.patch_size**2
    for stage, (dim, (height, width)) in enumerate(zip(variant.channels, maps, strict=True)):
        padded = -(-height // side) * -(-width // side) * side**2
        block = padded * (4 * dim * dim + 2 * side**2 * dim) + int(2 * areas[stage] * dim * dim * variant.mlp_ratio)
        backbone += variant.depths[stage] * block
        backbone += areas[stage + 1] * 8 * dim * dim if stage + 1 < len(maps) else 0
    counted = {"backbone": backbone}
    for row in _convolutions(decoder, variant.channels, variant.num_classes):
        area = row.cells**2 or areas[row.level] * 4**row.doublings
        macs = area * row.inputs * row.outputs * row.kernel**2
        if row.part == "fusion" and reordered:
            macs = sum(areas) * row.inputs // len(maps) * row.outputs * row.kernel**2
        counted[row.part] = counted.get(row.part, 0) + macs
    return counted
