"""``swinkit export``: a checkpoint to a folder that OpenVINO, onnxruntime or plain torch runs."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Annotated

import typer

from swinkit.cli.common import say
from swinkit.errors import InputError


class Target(enum.StrEnum):
    """What is written."""

    openvino = "openvino"
    onnx = "onnx"
    torch = "torch"
    aotinductor = "aotinductor"


def export(
    source: Annotated[str, typer.Argument(help="Embedded name, hub id, directory, .safetensors or .pth.")],
    dest: Annotated[Path, typer.Argument(help="Folder to make. It must not exist yet.")],
    to: Annotated[Target, typer.Option(help="Library that shall run it.")],
    size: Annotated[
        list[str] | None, typer.Option(help="Size that it shall take, pixels; may be repeated.", metavar="HEIGHTxWIDTH")
    ] = None,
    pyramid: Annotated[bool, typer.Option("--pyramid", help="The backbone's maps instead of the answer.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Eight bits, where they cost at most 0.5 point (OpenVINO).")] = False,
    data: Annotated[
        str | None, typer.Option(help="With --int8: pictures with labels to calibrate and judge by.", metavar="DIR|ZIP")
    ] = None,
) -> None:
    """Write a network for another library, proved against the original.

    Preparation and class names travel inside; 'swinkit predict --model DEST' runs it.
    """
    from swinkit.runs.export import export as run

    if data is not None and not int8:
        raise InputError("--data is for --int8; an exact export needs none")
    manifest = run(source, dest, to.value, [_size(text) for text in size or []], pyramid, int8, data)
    for (height, width), error in zip(manifest.sizes, manifest.errors, strict=True):
        what = "from the exact network" if int8 else "from the network"
        say(f"{height}x{width}, any batch: largest difference {what} {error:.2g}")
    for metric, row in manifest.facts.items():
        if isinstance(row, dict):
            say(f"{metric}: {100 * row['fp32']:.2f} % exact, {100 * row['int8']:.2f} % in eight bits")
    say(f"wrote {dest}")


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    if found is None:
        raise InputError(f"--size {text}: write height x width in pixels, for example --size 224x224")
    return int(found[1]), int(found[2])
