"""ONNX, run by onnxruntime: ``model.onnx``, ``floats.onnx`` (the same for float pixels), both on ``model.onnx.data``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swinkit.engines.manifest import EXPORT_AGAIN
from swinkit.errors import ExportError
from swinkit.extras import need
from swinkit.files import read_file

EXTRA = "export"
FLOATS, WEIGHTS = "floats.onnx", "model.onnx.data"
LARGEST_GRAPH = 2**28  # bytes of a graph without its weights
# Of each message of onnx.proto: the fields in which tensors may lie, and the message they hold.
TENSORS_IN = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "StringStringEntry"},
}


def write(
    program: torch.export.ExportedProgram, path: Path, answers: Sequence[str], blocks: Sequence[str], described: str
) -> None:
    """Write a program whose outputs are the answers and then the blocks; the blocks stay inside, under their names.

    Args: as for ``swinkit.engines.openvino.write``.
    """
    need("onnxscript", EXTRA)
    onnx = need("onnx", EXTRA)
    made = torch.onnx.export(
        program, dynamo=True, input_names=["pixels"], output_names=[*answers, *blocks], optimize=True, verbose=False
    )
    assert made is not None
    made.save(str(path), external_data=True)
    model = onnx.load(str(path), load_external_data=False)
    del model.graph.output[len(answers) :]
    _name_batch(model.graph)
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        part.ClearField("metadata_props")  # where the author's Python files lie, line by line
    onnx.helper.set_model_props(model, {"swinkit": described})
    onnx.save(model, str(path))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(model, str(path.with_name(FLOATS)))


class Runtime:
    """A graph in an onnxruntime session on the CPU.

    Raises:
        ExportError: its weights lie elsewhere than beside it, where their hash was checked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sessions = {np.dtype(np.uint8): session(path)}

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        if pixels.dtype not in self._sessions:
            self._sessions[pixels.dtype] = session(self.path.with_name(FLOATS))
        return self._sessions[pixels.dtype].run(None, {"pixels": np.ascontiguousarray(pixels)})

    def blocks(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        onnx = need("onnx", EXTRA)
        model = onnx.load(str(self.path), load_external_data=True)
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
        return session(model.SerializeToString()).run(list(names), {"pixels": pixels})


def session(model: Path | bytes) -> Any:
    """Return an onnxruntime session of a file, or of a model in memory, on as many threads as torch uses."""
    if isinstance(model, Path):
        check_weights(model)
    ort = need("onnxruntime", EXTRA)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def check_weights(path: Path) -> None:
    """Raise ExportError for a graph with weights in any other file than ``WEIGHTS`` beside it: onnxruntime would read it.

    A location may also be a place in this process's memory, so it is not enough that it is no path.
    """
    try:
        places = set(_locations(memoryview(read_file(path, LARGEST_GRAPH, ExportError, fix=EXPORT_AGAIN))))
    except ValueError as error:
        raise ExportError(f"{path}: is no graph of ONNX ({error}); {EXPORT_AGAIN}") from None
    if places - {WEIGHTS.encode()}:
        raise ExportError(f"{path}: takes weights from another file than {WEIGHTS}; {EXPORT_AGAIN}")


def _locations(model: memoryview) -> Iterator[bytes]:
    """Yield where a graph's tensors lie, of those whose values lie outside it."""
    waiting = [("Model", model)]
    while waiting:
        kind, data = waiting.pop()
        if kind == "StringStringEntry":
            texts = [(number, bytes(value)) for number, value in _fields(data)]
            if (1, b"location") in texts:
                yield from (text for number, text in texts if number == 2)
        else:
            inside = TENSORS_IN[kind]
            waiting += [(inside[number], value) for number, value in _fields(data) if number in inside]


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and bytes of the fields of a protobuf message that have a length; numbers are passed over."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if key >> 32:  # protobuf would leave out what is above
            raise ValueError("a field's number is too large")
        if kind == 0:
            _, place = _varint(data, place)
            continue
        length, place = _varint(data, place) if kind == 2 else ({1: 8, 5: 4}.get(kind, len(data) + 1), place)
        if length > len(data) - place:
            raise ValueError("a field is longer than what holds it")
        if kind == 2:
            yield number, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return a whole number of protobuf, and where the next byte lies."""
    value = 0
    for shift, byte in enumerate(data[place : place + 10]):
        value |= (byte & 127) << (7 * shift)
        if byte < 128:
            return value, place + shift + 1
    raise ValueError("a number does not end")


def _name_batch(graph: Any) -> None:
    """Call the first axis ``batch``; torch numbers it, by another number each time."""
    traced = re.compile(rf"\b{re.escape(graph.input[0].type.tensor_type.shape.dim[0].dim_param)}\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = traced.sub("batch", dim.dim_param)
