"""torch.export: graphs of plain tensor operations (``model.pt2``), run by torch without the network's Python code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import fx

from swinkit.errors import ExportError, UnsafeFile

DESCRIPTION, NAMES = "swinkit.json", "outputs.json"
LARGEST_CONFIG = 16_000_000


def write(
    program: torch.export.ExportedProgram, path: Path, answers: Sequence[str], blocks: Sequence[str], described: str
) -> None:
    """Write a program whose outputs are the answers and then the blocks.

    Args: as for ``swinkit.engines.openvino.write``; the names of answers and blocks are kept beside the description.
    """
    names = {"answers": list(answers), "blocks": list(blocks)}
    torch.export.save(program, str(path), extra_files={DESCRIPTION: described, NAMES: json.dumps(names)})


class Runtime:
    """A program, called for its answers alone."""

    def __init__(self, path: Path) -> None:
        _refuse_code(path)
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
        """Return the graph with these outputs only, which also takes float pixels: its conversion then does nothing."""
        whole = self._program.module(check_guards=False)
        graph = fx.Graph()
        outputs = graph.graph_copy(whole.graph, {})
        assert isinstance(outputs, tuple | list)
        for node in list(graph.nodes):
            if node.target is torch.ops.aten._assert_tensor_metadata.default:  # "these are uint8"
                graph.erase_node(node)
        graph.output(tuple(outputs[self._names.index(name)] for name in names))
        graph.eliminate_dead_code()
        return fx.GraphModule(whole, graph)


def _refuse_code(path: Path) -> None:
    """Raise UnsafeFile for an archive with anything but a graph and plain tensors; ``torch.export.load`` would run it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            configs = [name for name in names if name.endswith("_config.json")]
            if any(archive.getinfo(name).file_size > LARGEST_CONFIG for name in configs):
                raise UnsafeFile(f"{path}: its tables are larger than {LARGEST_CONFIG:,} bytes; export again: swinkit export")
            tables = [json.loads(archive.read(name))["config"] for name in configs]
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path}: is no program of torch.export ({error}); export again: swinkit export") from error
    pickled = any(row.get("use_pickle", True) for table in tables for row in table.values())
    if pickled or any("/aotinductor/" in name or name.endswith((".so", ".cpp", ".py")) for name in names):
        raise UnsafeFile(f"{path}: holds code, not only tensors; export again: swinkit export")
