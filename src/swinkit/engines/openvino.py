"""OpenVINO: graphs as its intermediate representation (``model.xml`` and ``model.bin``)."""

from __future__ import annotations

import functools
import math
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


def compiled(model: Any, parts: int = 1) -> Any:
    """Return the model ready to run: exact arithmetic, torch's number of threads.

    Args:
        model: an ``openvino.Model``.
        parts: how many requests run at the same time, each with its share of the threads.
    """
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bf16 where the processor has it
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    settings |= {"PERFORMANCE_HINT": "LATENCY"} if parts == 1 else {"NUM_STREAMS": parts}
    return core().compile_model(model, "CPU", settings)


class Runtime:
    """A graph, compiled for this processor: once for any number of pictures, once for the number that comes again and again.

    Pictures whose number is known are shared out, as many to each thread if that is possible: a thread then waits for the others
    once, not after every layer, and finds what it wrote in its own cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._requests: dict[tuple[Any, int | None], list[Any]] = {
            (np.dtype(np.uint8), None): [compiled(read(path)).create_infer_request()]
        }
        self._latest: tuple[Any, Any] = (None, None)  # kind of number, and pictures, of the latest call
        self._times = 0

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        came = (pixels.dtype, len(pixels))
        self._times = self._times + 1 if came == self._latest else 1
        self._latest = came
        requests = self._requests_for(*came)
        parts = np.split(np.ascontiguousarray(pixels), len(requests))
        for request, part in zip(requests, parts, strict=True):
            request.start_async([part], share_inputs=True)
        for request in requests:
            request.wait()
        answers = zip(*([tensor.data for tensor in request.output_tensors] for request in requests), strict=True)
        return [np.concatenate(answer) for answer in answers]  # a copy: the next call writes into the same memory

    def _requests_for(self, dtype: Any, batch: int) -> list[Any]:
        """Return the graph for so many pictures, or the one for any number, as requests that take a part of them each."""
        wanted = (dtype, batch if (dtype, batch) in self._requests or self._times >= AGAIN else None)
        if wanted not in self._requests:
            if wanted[1] is not None:  # one such graph at a time: each holds the weights
                self._requests = {key: requests for key, requests in self._requests.items() if key[1] is None}
            model = read(self.path)
            if dtype != np.uint8:  # its conversion then does nothing
                model.inputs[0].get_node().set_element_type(need("openvino", EXTRA).Type.f32)
                model.validate_nodes_and_infer_types()
            parts = math.gcd(batch, torch.get_num_threads()) if wanted[1] is not None else 1
            if wanted[1] is not None:
                model.reshape([batch // parts, *list(model.inputs[0].partial_shape)[1:]])
            ready = compiled(model, parts)
            self._requests[wanted] = [ready.create_infer_request() for _ in range(parts)]
        return self._requests[wanted]

    def blocks(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        model = read(self.path)
        model.add_outputs(list(names))
        found = compiled(model)({0: pixels})
        return [np.array(found[name]) for name in names]
