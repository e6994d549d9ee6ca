"""Models whose weights lie in the package. Plain data: asking for them loads no torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

# name -> file in assets/
EMBEDDED = {"swin-nano-cifar10": "swin_nano_cifar10.safetensors"}
DEFAULT = "swin-nano-cifar10"


def embedded_path(name: str) -> Path | None:
    """Return the file of an embedded model, or None when this version has none."""
    path = Path(str(resources.files("swinkit") / "assets" / EMBEDDED[name]))
    return path if path.is_file() else None
