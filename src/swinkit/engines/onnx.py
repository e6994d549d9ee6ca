"""ONNX, run by onnxruntime: ``model.onnx``, ``floats.onnx`` (the same for float pixels), both on ``model.onnx.data``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swinkit.extras import need

EXTRA = "export"
FLOATS = "floats.onnx"


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
    onnx.helper.set_model_props(model, {"swinkit": described})
    onnx.save(model, str(path))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(model, str(path.with_name(FLOATS)))


class Runtime:
    """A graph in an onnxruntime session on the CPU."""

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
    ort = need("onnxruntime", EXTRA)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
