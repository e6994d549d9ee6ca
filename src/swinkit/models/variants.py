"""Every released Swin: names, shapes and published figures, as one table.

Canonical names are the file stems of the original releases; timm's and torchvision's names, and the hub ids, are
further spellings of the same row. Figures: microsoft/Swin-Transformer ``README.md`` and ``MODELHUB.md``
(multiply-adds as the original ``flops()`` counts them, ImageNet-1K validation accuracy, single crop).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from swinkit.embedded import EMBEDDED
from swinkit.errors import UnknownName, brief, nearest
from swinkit.specs import Variant


class Published(NamedTuple):
    """What the authors print about a release; None where they print nothing."""

    params: int | None = None
    gflops: float | None = None
    top1: float | None = None
    top5: float | None = None


@dataclass(frozen=True)
class Release:
    """One row: the network, its further spellings, its published figures."""

    variant: Variant
    aliases: tuple[str, ...]
    published: Published
    training: str


_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "large": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}
_CLASSES = {"in1k": 1000, "in22k_ft_in1k": 1000, "in22k": 21841}
_SCRATCH_DROP = {"tiny": 0.2, "small": 0.3, "base": 0.5, "large": 0.2}

# stem | size | image | window | training | params | GFLOPs | top-1 | top-5
_V1 = """
swin_tiny_patch4_window7_224                 tiny  224  7 in1k          28288354   4.49 81.2 95.5
swin_small_patch4_window7_224                small 224  7 in1k          49606258   8.75 83.2 96.2
swin_base_patch4_window7_224                 base  224  7 in1k          87768224  15.44 83.5 96.5
swin_base_patch4_window12_384                base  384 12 in1k          87903584  47.11 84.5 97.0
swin_tiny_patch4_window7_224_22k             tiny  224  7 in22k         44315083   4.51 -    -
swin_tiny_patch4_window7_224_22kto1k_finetune  tiny 224 7 in22k_ft_in1k 28288354   4.49 80.9 96.0
swin_small_patch4_window7_224_22k            small 224  7 in22k         65632987   8.76 -    -
swin_small_patch4_window7_224_22kto1k_finetune small 224 7 in22k_ft_in1k 49606258  8.75 83.2 97.0
swin_base_patch4_window7_224_22k             base  224  7 in22k        109130249  15.46 -    -
swin_base_patch4_window7_224_22kto1k         base  224  7 in22k_ft_in1k 87768224  15.44 85.2 97.5
swin_base_patch4_window12_384_22k            base  384 12 in22k         -          -    -    -
swin_base_patch4_window12_384_22kto1k        base  384 12 in22k_ft_in1k 87903584  47.11 86.4 98.0
swin_large_patch4_window7_224_22k            large 224  7 in22k        228565093  34.52 -    -
swin_large_patch4_window7_224_22kto1k        large 224  7 in22k_ft_in1k 196532476 34.49 86.3 97.9
swin_large_patch4_window12_384_22k           large 384 12 in22k         -          -    -    -
swin_large_patch4_window12_384_22kto1k       large 384 12 in22k_ft_in1k 196735516 103.95 87.3 98.2
"""
_V2 = """
swinv2_tiny_patch4_window8_256               tiny  256  8 in1k          28347154   5.93 81.8 95.9
swinv2_small_patch4_window8_256              small 256  8 in1k          49728418  11.51 83.7 96.6
swinv2_base_patch4_window8_256               base  256  8 in1k          87918816  20.29 84.2 96.9
swinv2_tiny_patch4_window16_256              tiny  256 16 in1k          28347154   6.61 82.8 96.2
swinv2_small_patch4_window16_256             small 256 16 in1k          49728418  12.65 84.1 96.8
swinv2_base_patch4_window16_256              base  256 16 in1k          87918816  21.80 84.6 97.0
swinv2_base_patch4_window12_192_22k          base  192 12 in22k        109280841  11.78 -    -
swinv2_base_patch4_window12to16_192to256_22kto1k_ft  base 256 16 in22k_ft_in1k 87918816 21.80 86.2 97.9
swinv2_base_patch4_window12to24_192to384_22kto1k_ft  base 384 24 in22k_ft_in1k 87918816 54.75 87.1 98.2
swinv2_large_patch4_window12_192_22k         large 192 12 in22k        228772549  26.00 -    -
swinv2_large_patch4_window12to16_192to256_22kto1k_ft large 256 16 in22k_ft_in1k 196739932 47.49 86.9 98.0
swinv2_large_patch4_window12to24_192to384_22kto1k_ft large 384 24 in22k_ft_in1k 196739932 115.42 87.6 98.3
"""

# Spellings that follow no rule: the hub's copies of V1 base and large bear the plain names but are the 22k -> 1k
# files; torchvision's builders; the short names people say; the original configs' other stems.
_FURTHER = {
    "swin_tiny_patch4_window7_224": ("swin_tiny", "swin_t", "microsoft/swin-tiny-patch4-window7-224"),
    "swin_small_patch4_window7_224": ("swin_small", "swin_s", "microsoft/swin-small-patch4-window7-224"),
    "swin_base_patch4_window7_224": ("swin_base", "swin_b"),
    "swin_base_patch4_window12_384": ("swin_base_patch4_window12_384_finetune",),
    "swin_base_patch4_window7_224_22k": ("microsoft/swin-base-patch4-window7-224-in22k",),
    "swin_base_patch4_window7_224_22kto1k": (
        "microsoft/swin-base-patch4-window7-224",
        "swin_base_patch4_window7_224_22kto1k_finetune",
    ),
    "swin_base_patch4_window12_384_22k": ("microsoft/swin-base-patch4-window12-384-in22k",),
    "swin_base_patch4_window12_384_22kto1k": (
        "microsoft/swin-base-patch4-window12-384",
        "swin_base_patch4_window12_384_22kto1k_finetune",
    ),
    "swin_large_patch4_window7_224_22k": ("microsoft/swin-large-patch4-window7-224-in22k",),
    "swin_large_patch4_window7_224_22kto1k": (
        "microsoft/swin-large-patch4-window7-224",
        "swin_large",
        "swin_l",
        "swin_large_patch4_window7_224_22kto1k_finetune",
    ),
    "swin_large_patch4_window12_384_22k": ("microsoft/swin-large-patch4-window12-384-in22k",),
    "swin_large_patch4_window12_384_22kto1k": (
        "microsoft/swin-large-patch4-window12-384",
        "swin_large_patch4_window12_384_22kto1k_finetune",
    ),
    "swinv2_tiny_patch4_window8_256": ("swinv2_tiny", "swin_v2_t"),
    "swinv2_small_patch4_window8_256": ("swinv2_small", "swin_v2_s"),
    "swinv2_base_patch4_window8_256": ("swinv2_base", "swin_v2_b"),
    "swinv2_large_patch4_window12to16_192to256_22kto1k_ft": ("swinv2_large",),
}
EMBEDDED_NAME = "swin_nano_patch2_window4_32"


def _timm_name(stem: str, version: int, training: str) -> str:
    base = stem
    for ending in ("_22kto1k_finetune", "_22kto1k_ft", "_22kto1k", "_22k"):
        base = base.removesuffix(ending)
    if version == 2:
        base = base.replace("_patch4", "")
    return f"{base}.ms_{training}"


def _rows(table: str, version: int) -> dict[str, Release]:
    releases = {}
    for line in table.strip().splitlines():
        stem, size, image, window, training, *figures = line.split()
        params, gflops, top1, top5 = (None if item == "-" else float(item) for item in figures)
        # Fine-tuned V2 keeps the coordinates of the 192-pixel pre-training, where the last map was 6 x 6.
        pretrained = (12, 12, 12, 6) if "to1" in stem and "12to" in stem else (0, 0, 0, 0)
        if training == "in1k":
            drop_path = _SCRATCH_DROP[size]
        else:
            drop_path = 0.1 if size == "tiny" else 0.2
        timm_name = _timm_name(stem, version, training)
        aliases = [timm_name, *_FURTHER.get(stem, ())]
        if version == 2:
            aliases += ["microsoft/" + stem.replace("_", "-"), timm_name.split(".")[0]]
            if training == "in22k":
                aliases.append(stem.removesuffix("_22k"))
        releases[stem] = Release(
            Variant(
                version=version,
                window_size=int(window),
                img_size=int(image),
                num_classes=_CLASSES[training],
                drop_path=drop_path,
                pretrained_windows=pretrained,
                **_SIZES[size],
            ),
            tuple(aliases),
            Published(None if params is None else int(params), gflops, top1, top5),
            training,
        )
    return releases


RELEASES: dict[str, Release] = {
    **_rows(_V1, 1),
    "swin_tiny_c24_patch4_window8_256": Release(
        Variant(num_heads=(4, 8, 16, 32), window_size=8, img_size=256, drop_path=0.2),
        (),
        Published(28306432, 5.93, 81.6, 95.7),
        "in1k",
    ),
    "swin_base_patch4_window6_192_simmim": Release(
        Variant(window_size=6, img_size=192, num_classes=0, drop_path=0.0, **_SIZES["base"]),
        ("microsoft/swin-base-simmim-window6-192",),
        Published(),
        "simmim",
    ),
    **_rows(_V2, 2),
    EMBEDDED_NAME: Release(
        Variant(
            embed_dim=64,
            depths=(2, 4, 2),
            num_heads=(2, 4, 8),
            window_size=4,
            patch_size=2,
            img_size=32,
            num_classes=10,
            drop_path=0.05,
            pretrained_windows=(0, 0, 0),
        ),
        ("swin_nano", "swin-nano-cifar10"),
        Published(),
        "cifar10",
    ),
}

VARIANTS: dict[str, Variant] = {name: release.variant for name, release in RELEASES.items()}
_SPELLINGS: dict[str, str] = {spelling: name for name, release in RELEASES.items() for spelling in (name, *release.aliases)}


def resolve(name: str) -> tuple[str, Variant]:
    """Return the canonical name and the shape for any known spelling.

    Args:
        name: an original file stem, a timm name (with or without its tag), a torchvision builder or a hub id.

    Raises:
        UnknownName: with the nearest three names.
    """
    key = name.strip().removeprefix("timm/").removesuffix(".pth")
    if key not in _SPELLINGS:
        key = key.lower()
    if key not in _SPELLINGS:
        named = [spelling for spelling in _SPELLINGS if not names_weights(spelling)]
        raise UnknownName(f"no model is called {brief(name)!r} ('swinkit models' lists all){nearest(key, named, cutoff=0.0)}")
    canonical = _SPELLINGS[key]
    return canonical, VARIANTS[canonical]


def names_weights(name: str) -> bool:
    """Say whether a name stands for trained weights rather than for a network: an embedded model, a hub id, a file."""
    return name in EMBEDDED or "/" in name or name.endswith((".pth", ".pt", ".bin", ".safetensors"))


def parameter_count(variant: Variant) -> int:
    """Return the number of parameters of the classifier, counted from the shape without building it."""
    total = variant.embed_dim * (variant.in_chans * variant.patch_size**2 + 1) + 2 * variant.embed_dim
    if variant.absolute_position:
        total += (-(-variant.img_size // variant.patch_size)) ** 2 * variant.embed_dim
    for stage, dim in enumerate(variant.channels):
        heads, hidden = variant.num_heads[stage], int(dim * variant.mlp_ratio)
        block = 4 * dim + (4 * dim * dim + dim) + (2 * dim * hidden + hidden + dim)
        if variant.version == 1:
            block += 3 * dim + (2 * variant.stage_windows[stage] - 1) ** 2 * heads
        else:
            block += 2 * dim + heads + 3 * 512 + 512 * heads
        total += variant.depths[stage] * block
        if stage < len(variant.depths) - 1:
            total += 8 * dim * dim + (8 * dim if variant.version == 1 else 4 * dim)
    width = variant.channels[-1]
    return total + 2 * width + (width + 1) * variant.num_classes


def count_macs(variant: Variant) -> int:
    """Return multiply-adds of one image at ``img_size``, counted as the original ``flops()`` does.

    Linear layers, convolutions and attention products, and one operation an element for LayerNorm; softmax and
    V2's position network are not counted. Torch's ``FlopCounterMode`` leaves LayerNorms out, so published figures would differ.
    """
    side = variant.img_size // variant.patch_size
    total = side**2 * variant.embed_dim * (variant.in_chans * variant.patch_size**2 + 1)
    for stage, dim in enumerate(variant.channels):
        tokens, window = side * side, variant.stage_windows[stage]
        attention = 4 * tokens * dim * dim + 2 * tokens * window**2 * dim
        total += variant.depths[stage] * (attention + int(2 * tokens * dim * dim * variant.mlp_ratio) + 2 * dim * tokens)
        if stage < len(variant.depths) - 1:
            total += tokens * dim // variant.version + (tokens // 4) * 8 * dim * dim
            side //= 2
    width = variant.channels[-1]
    total += width * (variant.img_size // variant.patch_size) ** 2 // 2 ** len(variant.depths)
    return total + width * variant.num_classes
