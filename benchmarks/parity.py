"""Do converted weights answer as in the library they come from? Prints variant x dialect x largest logit difference.

Run ``python -m benchmarks.parity``; exit 1 when a pair exceeds 1e-5. Every pair goes both ways: the peer's random weights
into swinkit, and swinkit's back into a fresh peer. Weights are random with logits of standard deviation about 1, so that
1e-5 means something: norms 1 +- 0.3, tables of std 1, V2 temperatures on both sides of the clamp.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from swinkit.models.classifier import SwinClassifier
from swinkit.models.variants import resolve
from swinkit.specs import Variant
from swinkit.weights import from_neutral, load_into, to_neutral

BOUND = 1e-5
TINY = {"embed_dim": 32, "depths": (2, 2, 4, 2), "num_heads": (1, 2, 4, 8), "num_classes": 37}
CASES = {
    "tiny V1 w7 224": Variant(version=1, window_size=7, img_size=224, **TINY),
    "tiny V1 w4 128": Variant(version=1, window_size=4, img_size=128, **TINY),
    "tiny V1 w8 256": Variant(version=1, window_size=8, img_size=256, **TINY),
    "tiny V1 w12 384": Variant(version=1, window_size=12, img_size=384, **TINY),
    "tiny V1 w12 96 (shrunk)": Variant(version=1, window_size=12, img_size=96, **TINY),
    "tiny V2 w8 256": Variant(version=2, window_size=8, img_size=256, **TINY),
    "tiny V2 w16 256": Variant(version=2, window_size=16, img_size=256, **TINY),
    "tiny V2 w12 192": Variant(version=2, window_size=12, img_size=192, **TINY),
    "tiny V2 w12to16 256": Variant(version=2, window_size=16, img_size=256, pretrained_windows=(12, 12, 12, 6), **TINY),
}
FULL = ("swin_tiny_patch4_window7_224", "swinv2_tiny_patch4_window8_256")
# What a dialect cannot hold (and ``save_dialect`` refuses): windows that shrink, or coordinates of another window.
IMPOSSIBLE = {
    ("tiny V1 w12 96 (shrunk)", "hf"),
    ("tiny V1 w12 96 (shrunk)", "torchvision"),
    ("tiny V2 w16 256", "torchvision"),
    ("tiny V2 w12 192", "torchvision"),
    ("tiny V2 w12to16 256", "torchvision"),
}


@dataclass
class Pair:
    """One line of the table."""

    case: str
    dialect: str
    to_ours: float
    to_theirs: float
    spread: float

    @property
    def fits(self) -> bool:
        """Whether both directions are within the bound."""
        return max(self.to_ours, self.to_theirs) <= BOUND


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Fill a Swin of any library with weights that make logits of standard deviation about 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logit_scale" in name:
                normal(parameter, 2.3, 1.2)
            elif "relative_position_bias_table" in name:
                normal(parameter, 0, 1)
            elif parameter.ndim == 1:
                is_scale = "norm" in name.lower() and name.endswith("weight")
                normal(parameter, 1 if is_scale else 0, 0.3 if is_scale else 0.2)
            else:
                normal(parameter, 0, parameter[0].numel() ** -0.5)


def peer(dialect: str, variant: Variant) -> nn.Module:
    """Return a fresh network of a live library with the shape of ``variant``."""
    if dialect == "timm":
        from timm.models.swin_transformer import SwinTransformer
        from timm.models.swin_transformer_v2 import SwinTransformerV2

        common = {
            "img_size": variant.img_size,
            "window_size": variant.window_size,
            "embed_dim": variant.embed_dim,
            "depths": variant.depths,
            "num_heads": variant.num_heads,
            "num_classes": variant.num_classes,
        }
        if variant.version == 1:
            return SwinTransformer(**common)
        return SwinTransformerV2(**common, pretrained_window_sizes=variant.pretrained_windows)
    if dialect == "torchvision":
        from functools import partial

        from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

        extra = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if variant.version == 2 else {}
        return SwinTransformer(
            patch_size=[4, 4],
            embed_dim=variant.embed_dim,
            depths=list(variant.depths),
            num_heads=list(variant.num_heads),
            window_size=[variant.window_size] * 2,
            num_classes=variant.num_classes,
            norm_layer=partial(nn.LayerNorm, eps=1e-5),
            **extra,
        )
    import transformers

    config = transformers.SwinConfig if variant.version == 1 else transformers.Swinv2Config
    extra = {} if variant.version == 1 else {"pretrained_window_sizes": list(variant.pretrained_windows)}
    built = config(
        image_size=variant.img_size,
        embed_dim=variant.embed_dim,
        depths=list(variant.depths),
        num_heads=list(variant.num_heads),
        window_size=variant.window_size,
        num_labels=variant.num_classes,
        **extra,
    )
    kind = transformers.SwinForImageClassification if variant.version == 1 else transformers.Swinv2ForImageClassification
    return kind(built)


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return a peer's or our logits."""
    model.eval()
    with torch.inference_mode():
        answer = model(images)
    return answer if isinstance(answer, Tensor) else answer.logits


def compare(case: str, dialect: str, variant: Variant, batch: int = 2) -> Pair:
    """Convert both ways and return the largest differences of logits."""
    torch.manual_seed(0)
    theirs = peer(dialect, variant)
    randomise(theirs)
    images = torch.randn(batch, 3, variant.img_size, variant.img_size)
    expected = logits(theirs, images)
    ours = SwinClassifier(variant)
    load_into(ours, to_neutral(theirs.state_dict()).tensors)
    answer = logits(ours, images)
    prefix = {"hf": "swin." if variant.version == 1 else "swinv2."}.get(dialect, "")
    back = peer(dialect, variant)
    written = from_neutral(ours.state_dict(), dialect, variant.version, prefix)
    _load(back, written, dialect)
    returned = logits(back, images)
    return Pair(
        case,
        dialect,
        float((answer - expected).abs().max()),
        float((returned - expected).abs().max()),
        float(expected.std()),
    )


def _load(model: nn.Module, tensors: dict[str, Tensor], dialect: str) -> None:
    """Load every tensor; tables the peer derives itself may be absent, nothing else."""
    if dialect == "hf":
        import tempfile

        from safetensors.torch import save_file

        with tempfile.TemporaryDirectory() as folder:  # its own loader knows the names of files
            model.config.save_pretrained(folder)
            save_file(
                {k: v.contiguous() for k, v in tensors.items()},
                f"{folder}/model.safetensors",
                metadata={"format": "pt"},
            )
            loaded, report = type(model).from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"], report["missing_keys"]
        assert not report["unexpected_keys"], report["unexpected_keys"]
        model.load_state_dict(loaded.state_dict())
        return
    result = model.load_state_dict(tensors, strict=False)
    derived = ("relative_position_index", "relative_coords_table", "attn_mask", "k_bias")
    assert not result.unexpected_keys, result.unexpected_keys
    assert all(key.endswith(derived) for key in result.missing_keys), result.missing_keys


def pairs(full: bool = True) -> Iterator[Pair]:
    """Yield every possible pair."""
    for case, variant in CASES.items():
        for dialect in ("timm", "torchvision", "hf"):
            if (case, dialect) not in IMPOSSIBLE:
                yield compare(case, dialect, variant)
    if full:
        for name in FULL:
            for dialect in ("timm", "torchvision", "hf"):
                yield compare(name, dialect, resolve(name)[1], batch=1)


def _segmenters(folder: Path) -> int:
    """Print system x fixture x deviation; return 1 when one is out of bounds or nothing was compared."""
    from benchmarks.parity_segmentation import LOGITS_BOUND, LOSS_BOUND, rows, transformers_rows

    if not folder.is_dir():
        print(f"{folder}: is no folder; give one with fixtures", file=sys.stderr)
        return 2
    table = Table("system", "fixture", "logits, max abs", "losses, max relative", "compared", "")
    found = []
    for row in (*rows(folder), *transformers_rows()):
        if row.compared:
            found.append(row)
            mark = row.note or ("ok" if row.fits else "TOO FAR")
            table.add_row(row.system, row.fixture, f"{row.logits:.1e}", f"{row.losses:.1e}", str(row.compared), mark)
        else:
            table.add_row(row.system, row.fixture, "-", "-", "0", row.note)
    Console(width=120).print(table)
    wrong = [row for row in found if not row.fits]
    print(f"{len(found)} compared, {len(wrong)} out of bounds (logits {LOGITS_BOUND:g}, losses {LOSS_BOUND:g} relative)")
    return 1 if wrong or not found else 0


def main() -> int:
    """Print the table; return 1 when a pair is out of bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="leave out the full-size variants")
    parser.add_argument("--fixtures", type=Path, help="folder of stored reference outputs: compare segmenters instead")
    arguments = parser.parse_args()
    if arguments.fixtures is not None:
        return _segmenters(arguments.fixtures)
    table = Table("variant", "dialect", "into swinkit", "back again", "logit std", "")
    found = []
    for pair in pairs(full=not arguments.tiny):
        found.append(pair)
        mark = "ok" if pair.fits else "TOO FAR"
        table.add_row(pair.case, pair.dialect, f"{pair.to_ours:.1e}", f"{pair.to_theirs:.1e}", f"{pair.spread:.2f}", mark)
    for case, dialect in sorted(IMPOSSIBLE):
        table.add_row(case, dialect, "-", "-", "-", "refused: the dialect cannot hold it")
    Console().print(table)
    wrong = [pair for pair in found if not pair.fits]
    print(f"{len(found)} pairs, {len(wrong)} out of bounds ({BOUND:g})")
    return 1 if wrong or len(found) < 15 else 0


if __name__ == "__main__":
    sys.exit(main())
