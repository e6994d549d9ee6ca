"""``swinkit convert``: weights from any dialect to another."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from swinkit.cli.common import say
from swinkit.errors import InputError


class Dialect(enum.StrEnum):
    """Whose parameter names the result has."""

    official = "official"
    hf = "hf"
    timm = "timm"
    torchvision = "torchvision"
    mm = "mm"


def convert(
    source: Annotated[str, typer.Argument(help="Embedded name, hub id, directory, .safetensors or .pth.")],
    dest: Annotated[Path, typer.Argument(help="File to write; a directory for hf. It must not exist yet.")],
    to: Annotated[Dialect, typer.Option(help="Dialect to write.")],
) -> None:
    """Write weights in another dialect.

    Nothing is overwritten.
    """
    if dest.is_dir() and any(dest.iterdir()):
        raise InputError(f"{dest}: is a folder with files in it; give a name that is free")
    if dest.exists() and not dest.is_dir():
        raise InputError(f"{dest}: exists already; give a name that is free")
    from swinkit import weights

    checkpoint = weights.load_checkpoint(source)
    written = weights.save_dialect(dest, checkpoint.tensors, checkpoint.spec, to.value)
    notes = "".join(f"; {note}" for note in checkpoint.notes)
    say(f"read {len(checkpoint.tensors)} tensors of the dialect {checkpoint.dialect}{notes}")
    say(f"wrote {written} in the dialect {to.value}")
    if written.suffix in weights.PICKLED:
        say("a .pth holds tensors alone: class names and the preparation of photos stayed behind; a .safetensors keeps them")
