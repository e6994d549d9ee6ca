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
    from swinkit.tasks.base import Cost


def info(
    source: Annotated[str, typer.Argument(help="Embedded name, hub id, directory, .safetensors, .pth, or an export.")],
) -> None:
    """Say what a checkpoint or an export holds.

    Network, size, classes, preparation of photos, fingerprint of the weights, licence.
    """
    from swinkit import weights
    from swinkit.engines.exported import Manifest, is_export
    from swinkit.tasks.table import task_of

    if is_export(Path(source)):
        _show(_of_export(source, Manifest.read(Path(source))))
        return

    checkpoint = weights.load_checkpoint(source)
    spec, task = checkpoint.spec, task_of(checkpoint.spec)
    count = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    size = _size_on_disk(checkpoint.source)
    rows = {
        "source": checkpoint.source,
        "dialect": checkpoint.dialect,
        "name": spec.name or "unknown",
        "network": _network(spec),
        "parameters": f"{count:,} in {len(checkpoint.tensors)} tensors",
        **task.facts(spec),
        "GFLOPs": _gflops(task.cost(spec)),
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
    from swinkit.tasks.table import task_of

    spec, answers = manifest.spec, "answers" if manifest.maps == 1 else f"{manifest.maps} maps"
    sizes = zip(manifest.sizes, manifest.errors, strict=True)
    return {
        "source": source,
        "export": f"{manifest.to} ({manifest.precision}), run by the engine {KINDS[manifest.to][2]}",
        "name": spec.name or "unknown",
        "network": _network(spec),
        **(task_of(spec).facts(spec) if spec.variant.num_classes else {}),
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


def _gflops(cost: Cost) -> str:
    if cost.macs is None:
        return f"unknown, because {cost.of}"
    return f"{cost.macs / 1e9:.2f} (multiply-adds, {cost.of})"


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
