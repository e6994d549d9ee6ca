"""torch.export: graphs of tensor operations (``model.pt2``), run by torch without the network's Python code.

A program is code all the same: torch imports what it names and calls any operator, some of which write files. ``ExportedEngine``
opens only what this user wrote, or was told to trust.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import fx

from swinkit.engines.manifest import EXPORT_AGAIN
from swinkit.errors import ExportError

DESCRIPTION, NAMES = "swinkit.json", "outputs.json"


def write(
    program: torch.export.ExportedProgram, path: Path, answers: Sequence[str], blocks: Sequence[str], described: str
) -> None:
    """Write a program whose outputs are the answers and then the blocks.

    Args: as for ``swinkit.engines.openvino.write``; the names of answers and blocks are kept beside the description.
    """
    names = {"answers": list(answers), "blocks": list(blocks)}
    buffer = io.BytesIO()  # torch's own writing of files ends the process when the disk is full
    torch.export.save(program, buffer, extra_files={DESCRIPTION: described, NAMES: json.dumps(names)})
    path.write_bytes(buffer.getbuffer())


class Runtime:
    """A program, called for its answers alone."""

    def __init__(self, path: Path) -> None:
        check_archive(path)
        extra = {NAMES: ""}
        self._program = torch.export.load(str(path), extra_files=extra)
        names = json.loads(extra[NAMES])
        self._names = [*names["answers"], *names["blocks"]]
        self.network = self._module(names["answers"])

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        return self._run(self.network, pixels)

    def blocks(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        return self._run(self._module(names), pixels)

    def _run(self, module: fx.GraphModule, pixels: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [answer.numpy() for answer in module(torch.from_numpy(pixels))]

    def _module(self, names: Sequence[str]) -> fx.GraphModule:
        return with_outputs(self._program, [self._names.index(name) for name in names])


def with_outputs(program: torch.export.ExportedProgram, chosen: Iterable[int]) -> fx.GraphModule:
    """Return a program's graph with some of its outputs only, which also takes float pixels: its conversion then does nothing."""
    whole = program.module(check_guards=False)
    graph = fx.Graph()
    outputs = graph.graph_copy(whole.graph, {})
    assert isinstance(outputs, tuple | list)
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:  # "these are uint8"
            graph.erase_node(node)
    graph.output(tuple(outputs[index] for index in chosen))
    graph.eliminate_dead_code()
    return fx.GraphModule(whole, graph)


def check_archive(path: Path) -> None:
    """Raise ExportError for a file that is no archive as torch writes them: members as they lie, each name once.

    What torch then unpacks is no larger than the file. This says nothing about what the program does: it is code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ExportError(f"{path}: is no program of torch.export ({error}); {EXPORT_AGAIN}") from error
    plain = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    size = sum(member.file_size for member in members)
    if not plain or len({member.filename for member in members}) < len(members) or size > path.stat().st_size:
        raise ExportError(f"{path}: is no program of torch.export (its members are packed or doubled); {EXPORT_AGAIN}")
