"""OpenVINO: graphs as its intermediate representation (``model.xml`` and ``model.bin``)."""

from __future__ import annotations

import collections
import functools
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swinkit.engines.manifest import EXPORT_AGAIN
from swinkit.errors import ExportError
from swinkit.extras import need
from swinkit.files import open_file

EXTRA = "export"
LARGEST_GRAPH = 2**28  # bytes of a graph without its weights
BEGINNING = re.compile(rb"\s*<\?xml[^<>]*\?>\s*<net\s")
AGAIN = 3  # calls in a row with as many pictures, after which the graph is compiled for that number
HELD = 2  # answers whose memory is kept for later calls: a caller often holds the latest while it asks for the next


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
    """Return an ``openvino.Model``, with the weights that lie beside it.

    Raises:
        ExportError: it is something else. OpenVINO looks at what a file holds, not at its name, and reads many kinds, some of
            which fetch their weights from wherever they say.
    """
    with open_file(path, LARGEST_GRAPH, ExportError, fix=EXPORT_AGAIN) as file:
        if not BEGINNING.match(file.read(200)):
            raise ExportError(f"{path}: is no graph of OpenVINO; {EXPORT_AGAIN}")
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


class Answers:
    """Memory that requests write answers into and callers look at; ``free`` when no caller does any more.

    To write into the same memory again saves a copy of the answers, and fetching memory for it from the system: for the maps of a
    large picture both together take as long as several layers.
    """

    def __init__(self, outputs: Sequence[Any], parts: int) -> None:
        """Reserve memory.

        Args:
            outputs: of an ``openvino.CompiledModel`` for a known number of pictures.
            parts: how many requests answer so many pictures each.
        """
        shapes = [(parts * output.shape[0], *list(output.shape)[1:]) for output in outputs]
        self.arrays = [torch.empty(shape).numpy() for shape in shapes]  # torch's memory begins with a cache line
        tensor = need("openvino", EXTRA).Tensor
        self.tensors = [[tensor(part, shared_memory=True) for part in np.split(array, parts)] for array in self.arrays]
        self._own = self._holders()

    def _holders(self) -> list[int]:
        return [sys.getrefcount(array) for array in self.arrays]  # a view of an array, and a tensor made of it, hold the array

    @property
    def free(self) -> bool:
        """Whether only this object holds the arrays."""
        return self._holders() == self._own


class Shared:
    """A graph compiled for one number of pictures, which are shared out: as many to each thread, if that is possible.

    A thread then waits for the others once, not after every layer, and finds what it wrote in its own cache.
    """

    def __init__(self, model: Any, batch: int) -> None:
        parts = math.gcd(batch, torch.get_num_threads())
        model.reshape([batch // parts, *list(model.inputs[0].partial_shape)[1:]])
        self._ready = compiled(model, parts)
        self._requests = [self._ready.create_infer_request() for _ in range(parts)]
        self._answers: collections.deque[Answers] = collections.deque(maxlen=HELD)

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        answers = next((answers for answers in self._answers if answers.free), None)
        if answers is None:
            answers = Answers(self._ready.outputs, len(self._requests))
            self._answers.append(answers)
        parts = np.split(pixels, len(self._requests))
        for i, (request, part) in enumerate(zip(self._requests, parts, strict=True)):
            for output, tensors in zip(self._ready.outputs, answers.tensors, strict=True):
                request.set_tensor(output, tensors[i])
            request.start_async([part], share_inputs=True)
        for request in self._requests:
            request.wait()
        return list(answers.arrays)


class Runtime:
    """A graph, compiled for this processor: once for any number of pictures, once for the number that comes again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._general: dict[Any, Any] = {}  # kind of number -> request
        self._shared: dict[tuple[Any, int], Shared] = {}  # kind of number, and pictures -> graph; one at most
        self._latest: tuple[Any, int] = (np.dtype(np.uint8), 0)
        self._times = 0
        self._general_for(self._latest[0])

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        pixels = np.ascontiguousarray(pixels)
        came = (pixels.dtype, len(pixels))
        self._times = self._times + 1 if came == self._latest else 1
        self._latest = came
        if came not in self._shared and self._times >= AGAIN:
            self._shared.clear()  # each holds the weights
            for request in self._general.values():  # what it computed last is of no more use
                request.get_compiled_model().release_memory()
            self._shared[came] = Shared(self._model(pixels.dtype), len(pixels))
        if came in self._shared:
            return self._shared[came](pixels)
        request = self._general_for(pixels.dtype)
        request.infer([pixels], share_inputs=True, share_outputs=True)
        return [np.array(tensor.data) for tensor in request.output_tensors]  # the next call writes into the same memory

    def _model(self, dtype: Any) -> Any:
        model = read(self.path)
        if dtype != np.uint8:  # its conversion then does nothing
            model.inputs[0].get_node().set_element_type(need("openvino", EXTRA).Type.f32)
            model.validate_nodes_and_infer_types()
        return model

    def _general_for(self, dtype: Any) -> Any:
        if dtype not in self._general:
            self._general[dtype] = compiled(self._model(dtype)).create_infer_request()
        return self._general[dtype]

    def blocks(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        model = read(self.path)
        model.add_outputs(list(names))
        found = compiled(model)({0: pixels})
        return [np.array(found[name]) for name in names]
