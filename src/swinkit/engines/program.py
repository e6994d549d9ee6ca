"""torch.export: graphs of plain tensor operations (``model.pt2``), run by torch without the network's Python code."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from swinkit.errors import ExportError, UnsafeFile

DESCRIPTION, NAMES = "swinkit.json", "outputs.json"
LARGEST_TEXT = 256_000_000  # of a table of an archive; the graph of a Swin-L has 4 million
AGAIN = "export again: swinkit export"
# What an archive may hold, below its root.
MEMBERS = re.compile(
    r"data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json)"
    r"|sample_inputs/model\.pt)|models/model\.json|extra/(swinkit|outputs)\.json"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
TENSOR = re.compile(r"(tensor|weight)_\d+")
OPERATOR = re.compile(r"torch\.ops\.(aten|higher_order)\.\w+(\.\w+)?|_operator\.\w+")
SIZE = re.compile(r"(Symbol|Integer|Mul|Add|FloorDiv|Mod|Max|Min|positive|integer|True|'s\d+'|\d|[(), *+=-])*")


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


def _refuse_code(path: Path) -> None:
    """Raise UnsafeFile for an archive with anything but a graph and plain tensors; ``torch.export.load`` would run it.

    It unpickles what a table calls pickled or custom, older forms of an archive and example inputs that are no plain tensors;
    it evaluates expressions for sizes; and a graph may name any function of torch.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [(item.filename.partition("/")[2], item) for item in archive.infolist()]
            doubled = len({item.filename for _, item in members}) < len(members)
            strange = [item.filename for name, item in members if item.compress_type or not MEMBERS.fullmatch(name)]
            if doubled or strange:
                raise UnsafeFile(f"{path}: holds more than a graph and tensors ({(strange or ['doubled names'])[0]}); {AGAIN}")
            large = [item.filename for name, item in members if "/tensor_" not in name and "/weight_" not in name]
            texts = {name: archive.read(name) for name in large if archive.getinfo(name).file_size <= LARGEST_TEXT}
            if len(texts) < len(large):
                raise UnsafeFile(f"{path}: its tables are larger than {LARGEST_TEXT:,} bytes; {AGAIN}")
        for name, text in texts.items():
            if name.endswith("_config.json"):
                rows = json.loads(text)["config"].values()
                plain = all(row["use_pickle"] is False and TENSOR.fullmatch(row["path_name"]) for row in rows)
            elif name.endswith("model.json"):
                plain = all(_harmless(key, value) for key, value in _entries(json.loads(text)))
            else:
                plain = not name.endswith("/model.pt") or bool(torch.load(io.BytesIO(text), weights_only=True))
            if not plain:
                raise UnsafeFile(f"{path}: {name} holds code, not only tensors; {AGAIN}")
    except UnsafeFile:
        raise
    except pickle.UnpicklingError as error:
        raise UnsafeFile(f"{path}: its example holds code, not only tensors; {AGAIN}") from error
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise ExportError(f"{path}: is no program of torch.export ({error}); {AGAIN}") from error


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value of nested tables."""
    for key, item in value.items() if isinstance(value, dict) else [("", item) for item in value]:
        yield key, item
        if isinstance(item, dict | list):
            yield from _entries(item)


def _harmless(key: str, value: Any) -> bool:
    """Say whether an entry of a graph is one that is not run, or that runs an operator or counts."""
    if key == "target":
        return not isinstance(value, str) or bool(OPERATOR.fullmatch(value))
    if key == "expr_str":
        return bool(SIZE.fullmatch(value))
    return key != "guards_code" or not value
