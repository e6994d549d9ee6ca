"""OpenVINO: graphs as its intermediate representation (``model.xml`` and ``model.bin``)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swinkit.extras import need

EXTRA = "export"
AGAIN = 3  # calls in a row with as many pictures, after which the graph is compiled for that number


def write(
    program: torch.export.ExportedProgram, path: Path, answers: Sequence[str], blocks: Sequence[str], described: str
) -> None:
    """Write a program whose outputs are the answers and then the blocks; the blocks stay inside, under their names.

    Args:
        program: input "pixels".
        path: of ``model.xml``.
        answers, blocks: names of the outputs.
        described: the network's description, JSON, kept in the file.
    """
    ov = need("openvino", EXTRA)
    model = ov.convert_model(program)
    results = model.get_results()
    for name, result in zip((*answers, *blocks), results, strict=True):
        result.input(0).get_source_output().get_tensor().add_names({name})
    for result in results[len(answers) :]:
        model.remove_result(result)
    model.set_rt_info(described, ["swinkit"])
    ov.save_model(model, str(path), compress_to_fp16=False)


@functools.cache
def core() -> Any:
    """Return the process's one ``openvino.Core``, which lives as long as the process.

    Each core's CPU plugin gives the thread a stack for signals and, when it goes, puts back the one it had found. Cores that do
    not go in the reverse order of their coming thus leave a stack that is unmapped already, and the next signal with a handler
    (a data worker that ends, Ctrl-C) is a segmentation fault (OpenVINO 2026.4).
    """
    return need("openvino", EXTRA).Core()


def read(path: Path) -> Any:
    """Return an ``openvino.Model``."""
    return core().read_model(str(path))


def compiled(model: Any) -> Any:
    """Return the model ready to run: exact arithmetic, torch's number of threads, one picture or batch at a time."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bf16 where the processor has it
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return core().compile_model(model, "CPU", settings)


class Runtime:
    """A graph, compiled for this processor: once for any number of pictures, once for the number that comes again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._requests: dict[tuple[Any, int | None], Any] = {
            (np.dtype(np.uint8), None): compiled(read(path)).create_infer_request()
        }
        self._latest: tuple[Any, Any] = (None, None)  # kind of number, and pictures, of the latest call
        self._times = 0

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        came = (pixels.dtype, len(pixels))
        self._times = self._times + 1 if came == self._latest else 1
        self._latest = came
        request = self._request(*came)
        request.infer([np.ascontiguousarray(pixels)], share_inputs=True)
        return [tensor.data.copy() for tensor in request.output_tensors]  # the next call writes into the same memory

    def _request(self, dtype: Any, batch: int) -> Any:
        """Return the graph for so many pictures, or the one for any number."""
        wanted = (dtype, batch if (dtype, batch) in self._requests or self._times >= AGAIN else None)
        if wanted not in self._requests:
            if wanted[1] is not None:  # one such graph at a time: each holds the weights
                self._requests = {key: request for key, request in self._requests.items() if key[1] is None}
            model = read(self.path)
            if dtype != np.uint8:  # its conversion then does nothing
                model.inputs[0].get_node().set_element_type(need("openvino", EXTRA).Type.f32)
                model.validate_nodes_and_infer_types()
            if wanted[1] is not None:
                model.reshape([batch, *list(model.inputs[0].partial_shape)[1:]])
            self._requests[wanted] = compiled(model).create_infer_request()
        return self._requests[wanted]

    def blocks(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        model = read(self.path)
        model.add_outputs(list(names))
        found = compiled(model)({0: pixels})
        return [np.array(found[name]) for name in names]
