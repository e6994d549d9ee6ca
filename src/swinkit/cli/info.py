"""``swinkit info``: what a checkpoint is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swinkit.cli.common import say

if TYPE_CHECKING:
    from torch import Tensor

    from swinkit.engines.exported import Manifest
    from swinkit.specs import ModelSpec


def info(
    source: Annotated[str, typer.Argument(help="Embedded name, hub id, directory, .safetensors, .pth, or an export.")],
) -> None:
    """Say what a checkpoint or an export holds.

    Network, size, classes, preparation of photos, fingerprint of the weights, licence.
    """
    from swinkit import weights
    from swinkit.engines.exported import Manifest, is_export

    if is_export(Path(source)):
        _show(_of_export(source, Manifest.read(Path(source))))
        return

    checkpoint = weights.load_checkpoint(source)
    spec = checkpoint.spec
    count = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    size = _size_on_disk(checkpoint.source)
    rows = {
        "source": checkpoint.source,
        "dialect": checkpoint.dialect,
        "name": spec.name or "unknown",
        "network": _network(spec),
        "parameters": f"{count:,} in {len(checkpoint.tensors)} tensors",
        **_decoder(spec),
        "GFLOPs": _gflops(spec),
        "classes": _classes(spec),
        "preprocessing": spec.preprocessing.describe(),
        "fingerprint": f"sha256 {_fingerprint(checkpoint.tensors)}",
        "file size": f"{size:,} bytes",
        **{name: str(value) for name, value in spec.facts.items()},
    }
    if not any("licen" in name for name in rows):
        rows["licence"] = "unknown, because the file does not say"
    rows |= {f"note {place}": note for place, note in enumerate(checkpoint.notes, start=1)}
    _show(rows)


def _show(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    say([f"{name:<{width}}  {value}" for name, value in rows.items()])


def _of_export(source: str, manifest: Manifest) -> dict[str, str]:
    from swinkit.engines.exported import KINDS

    spec, answers = manifest.spec, "answers" if manifest.maps == 1 else f"{manifest.maps} maps"
    sizes = zip(manifest.sizes, manifest.errors, strict=True)
    return {
        "source": source,
        "export": f"{manifest.to} ({manifest.precision}), run by the engine {KINDS[manifest.to][2]}",
        "name": spec.name or "unknown",
        "network": _network(spec),
        **_decoder(spec),
        "classes": _classes(spec),
        "preprocessing": spec.preprocessing.describe(),
        "sizes": ", ".join(f"{height}x{width} ({answers} within {error:.2g})" for (height, width), error in sizes),
        "made with": ", ".join(f"{name} {version}" for name, version in manifest.software.items()),
        **{name: str(value) for name, value in {**spec.facts, **manifest.facts}.items()},
    }


def _network(spec: ModelSpec) -> str:
    variant = spec.variant
    return (
        f"Swin V{variant.version}, embed_dim {variant.embed_dim}, depths {variant.depths}, heads {variant.num_heads}, "
        f"window {variant.window_size}, patch {variant.patch_size}, made for {variant.img_size} px"
    )


def _decoder(spec: ModelSpec) -> dict[str, str]:
    decoder = spec.decoder
    if decoder is None:
        return {}
    auxiliary = f", auxiliary head {decoder.auxiliary_channels}" if decoder.auxiliary_channels else ""
    return {"decoder": f"{decoder.kind}, {decoder.channels} channels{auxiliary}"}


def _gflops(spec: ModelSpec) -> str:
    """Return the cost of an image; a segmenter's at the size photos are fitted into, without its auxiliary head."""
    from swinkit.models.systems import segmenter_macs
    from swinkit.models.variants import count_macs

    variant, preprocessing = spec.variant, spec.preprocessing
    if spec.backbone:
        return f"unknown, because {spec.backbone} is not counted here"
    if spec.decoder is None:
        return f"{count_macs(variant) / 1e9:.2f} (multiply-adds, one image of {variant.img_size} px)"
    size = preprocessing.size if preprocessing.resize != "native" else (variant.img_size, variant.img_size)
    macs = sum(segmenter_macs(variant, spec.decoder, size, reordered=True).values())
    return f"{macs / 1e9:.2f} (multiply-adds, one image of {size[0]} x {size[1]} px)"


def _fingerprint(tensors: dict[str, Tensor]) -> str:
    """Return a SHA-256 over names, kinds, shapes and values, whatever file they came in."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _classes(spec: ModelSpec) -> str:
    count = spec.variant.num_classes
    if count == 0:
        return "none: features only"
    kind = ", not exclusive" if spec.multi_label else ""
    if not spec.labels:
        return f"{count}{kind}; names unknown, because the file does not say"
    shown = ", ".join(spec.labels[:5])
    return f"{count}{kind}: {shown}" + (", ..." if count > 5 else "")


def _size_on_disk(source: str) -> int:
    from swinkit.weights.read import weight_files

    return sum(file.stat().st_size for file in weight_files(Path(source)))
