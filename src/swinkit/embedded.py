"""Models whose weights lie in the package. Plain data: asking for them loads no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

METADATA_KEY = "swinkit"  # our description in the head of a safetensors file


@dataclass(frozen=True)
class Embedded:
    """One of them.

    Args:
        file: in assets/.
        recipe: that trains it.
        licence: of the weights, SPDX; the code's is another.
    """

    file: str
    recipe: str
    licence: str


EMBEDDED = {
    "swin-nano-cifar10": Embedded("swin_nano_cifar10.safetensors", "cifar10", "Apache-2.0"),
    "swin-nano-camvid": Embedded("swin_nano_camvid.safetensors", "camvid", "CC-BY-NC-4.0"),
}
DEFAULT = "swin-nano-cifar10"


def embedded_path(name: str) -> Path | None:
    """Return the file of an embedded model, or None when this version has none."""
    path = Path(str(resources.files("swinkit") / "assets" / EMBEDDED[name].file))
    return path if path.is_file() else None


def embedded_names() -> list[str]:
    """Return the models whose files this version has."""
    return [name for name in EMBEDDED if embedded_path(name) is not None]


def embedded_description(name: str) -> dict[str, Any]:
    """Return what a present model's file says about itself: ``ModelSpec.to_dict()``."""
    path = embedded_path(name)
    assert path is not None
    with path.open("rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(head["__metadata__"][METADATA_KEY])
