"""From a network to a folder that OpenVINO, onnxruntime or plain torch runs, and the proof that it answers the same.

Why this room lies below prediction: a predictor that is asked for another engine makes its export once and opens that.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import importlib.metadata
import json
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from swinkit.data.transforms import fit_box
from swinkit.engines.exported import (
    CANARY,
    KINDS,
    MANIFEST,
    OPEN_SIZES,
    Engine,
    Manifest,
    Runtime,
    block_mean,
    canary_pixels,
    difference,
    file_hash,
    graph_path,
    open_runtime,
    processor,
    sampled,
)
from swinkit.engines.fast import FromPixels
from swinkit.engines.steps import step
from swinkit.errors import ExportError, InputError, SwinkitError
from swinkit.files import atomic_folder, atomic_write, sweep
from swinkit.models.swin import Block, SwinBackbone
from swinkit.specs import ModelSpec

TOLERANCE = 1e-4
BATCHES = (1, 3)  # of the proof
ROUNDED = 0.01  # of the largest answer: what places in a batch, and processors, may change in eight bits
LIBRARIES = ("swinkit", "torch", "openvino", "nncf", "onnx", "onnxruntime")
Change = Callable[[Path, tuple[int, int]], None]


class _Traced(nn.Module):
    """Pixels -> [the network's answers, then what every block gave]: the form that is written."""

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.pixels = FromPixels(network, spec.preprocessing)
        self.blocks = [name for name, module in self.pixels.network.named_modules() if isinstance(module, Block)]
        self._seen: list[Tensor] = []
        for name in self.blocks:
            self.pixels.network.get_submodule(name).register_forward_hook(self._see)

    def _see(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._seen.append(output)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        self._seen.clear()
        answer = self.pixels(pixels)
        return [*([answer] if isinstance(answer, Tensor) else answer), *self._seen]


def export_network(
    network: nn.Module,
    spec: ModelSpec,
    folder: str | Path,
    to: str,
    sizes: Sequence[tuple[int, int]] = (),
    change: Change | None = None,
    tolerance: float = TOLERANCE,
    facts: dict[str, Any] | None = None,
) -> Manifest:
    """Write an export, prove it, and only then let it appear.

    Args:
        network: classifier, segmenter or pyramid, with its trained weights; left as it is.
        spec: its description.
        folder: to make; must not exist.
        to: row of ``KINDS``: "openvino", "onnx", "torch" or "aotinductor".
        sizes: (height, width) in pixels that it shall take; empty takes the preparation's.
        change: called with a graph's path and size after it is written, to rewrite it (INT8).
        tolerance: largest difference allowed between the export's answers and the network's, over ``BATCHES``; of eight bits,
            between its answers on two machines, where it is at least ``ROUNDED`` of the largest answer.
        facts: for the manifest.

    Returns:
        The manifest, with the largest difference that was found for each size.

    Raises:
        ExportError: it answers otherwise; nothing is left behind.
        InputError: the folder exists, an unknown kind, a size out of bounds.
        MissingExtraError: the library is not installed.
    """
    folder, sizes = Path(folder), [*dict.fromkeys(sizes or [default_size(spec)])]
    if to not in KINDS:
        raise InputError(f"there is no export to {to!r}; choose {', '.join(KINDS)}")
    if folder.exists():
        raise InputError(f"{folder}: exists already; give a name that is free")
    if any(not 1 <= side <= 16384 for size in sizes for side in size):
        raise InputError(f"sizes must be between 1 and 16384 pixels, got {sizes}")
    with contextlib.ExitStack() as stack:
        with _told(f"{folder}: cannot be written"):
            beside = stack.enter_context(_appearing(folder))
        step("reading the network's graph")
        traced, writer = _Traced(network, spec).eval(), importlib.import_module(KINDS[to][0])
        manifest = Manifest(to, spec, _maps(network), sizes, traced.blocks, [], tolerance=tolerance, facts=facts or {})
        if change is not None:
            manifest.precision = "int8"
        canary: dict[str, Tensor] = {}
        for size in sizes:
            path = graph_path(beside, to, size)
            answers = [f"answer{i}" if manifest.maps > 1 else "answer" for i in range(manifest.maps)]
            with _quiet(), _told(f"{folder}: cannot be written for {to}"):
                path.parent.mkdir()
                program = _program(traced, spec, size)
                step(f"writing it for {to}")
                writer.write(program, path, answers, traced.blocks, json.dumps(spec.to_dict()))
                if change is not None:
                    change(path, size)
            step("proving its answers")
            manifest.errors.append(_prove(network, traced, open_runtime(to, path), manifest, size, canary))
        with _told(f"{folder}: cannot be written"):
            save_file(canary, str(beside / CANARY))
            files = sorted(path for path in beside.rglob("*") if path.is_file())
            manifest.files = {path.relative_to(beside).as_posix(): file_hash(path) for path in files}
            manifest.software = versions()
            manifest.facts["made"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            atomic_write(beside / MANIFEST, manifest.to_json())
    return manifest


def default_size(spec: ModelSpec) -> tuple[int, int]:
    """Return the size that a network's pictures usually have; of a preparation that keeps aspects, lying ones of 4 : 3."""
    size = spec.preprocessing.size
    return fit_box(3, 4, size) if spec.preprocessing.resize == "box" else size


def _program(traced: nn.Module, spec: ModelSpec, size: tuple[int, int]) -> torch.export.ExportedProgram:
    pixels = torch.from_numpy(canary_pixels(spec, size, 2))
    with torch.no_grad():
        return torch.export.export(traced, (pixels,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},))


def _prove(
    network: nn.Module, traced: nn.Module, runtime: Runtime, manifest: Manifest, size: tuple[int, int], canary: dict[str, Tensor]
) -> float:
    """Compare answers with the network's own, fill the canary, return the largest difference.

    The canary of an exact export holds the network's answers; a quantised one, whose answers the user has judged by
    accuracy, its own.
    """
    spec, worst = manifest.spec, 0.0
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.preprocessing.mean, spec.preprocessing.std))
    for batch in BATCHES:
        pixels = canary_pixels(spec, size, batch)
        answer = _answer(network, (torch.from_numpy(pixels).float() / 255.0 - mean) / std)
        expected = [map_.numpy() for map_ in ([answer] if isinstance(answer, Tensor) else answer)]
        found = runtime(pixels)
        worst = max(worst, difference(found, expected))
        if manifest.precision != "fp32" and batch > 1:  # exact answers have the network's to be compared with
            turned = [answer[::-1] for answer in runtime(np.ascontiguousarray(pixels[::-1]))]
            moved, allowed = difference(turned, found), ROUNDED * max(float(np.abs(map_).max()) for map_ in expected)
            if not moved <= allowed:
                raise ExportError(
                    f"the export to {manifest.to} answers a picture otherwise in another place of a batch "
                    f"at {size[0]}x{size[1]}: largest difference {moved:.2g}, allowed {allowed:.2g}; nothing was written"
                )
            manifest.tolerance = max(manifest.tolerance, allowed)  # another processor rounds some bytes otherwise
        if batch == 1:
            worst = max(worst, difference(runtime(pixels.astype(np.float32)), expected))
            exact = manifest.precision == "fp32"
            with torch.inference_mode():
                blocks = [b.numpy() for b in traced(torch.from_numpy(pixels))[manifest.maps :]]
            if not exact:
                blocks = runtime.blocks(pixels, manifest.blocks)
            prefix = f"{size[0]}x{size[1]}"
            kept = {f"{prefix}.answer.{i}": sampled(a) for i, a in enumerate(expected if exact else found)}
            kept |= {f"{prefix}.block.{i}": block_mean(b) for i, b in enumerate(blocks)}
            canary |= {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in kept.items()}
    if manifest.precision == "fp32" and not worst <= manifest.tolerance:
        raise ExportError(
            f"the export to {manifest.to} answers otherwise than the network at {size[0]}x{size[1]}: largest difference "
            f"{worst:.2g}, allowed {manifest.tolerance:g}; nothing was written"
        )
    return worst


def _answer(network: nn.Module, images: Tensor) -> Tensor | list[Tensor]:
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.inference_mode():
            return network.eval()(images)
    finally:
        for module, training in modes.items():
            module.training = training


def _maps(network: nn.Module) -> int:
    return len(network.channels) if isinstance(network, SwinBackbone) else 1


def versions() -> dict[str, str]:
    """Return the versions of all that an export's answers may hang on."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | {"torch": torch.__version__, "processor": processor()}


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Yield a folder beside, which becomes this one when all went well."""
    sweep(folder.parent)  # what a killed export left
    try:
        with atomic_folder(folder) as beside:
            yield beside
    except FileExistsError as error:
        if not folder.exists():  # a file stands where a folder above it should
            raise
        raise InputError(f"{folder}: exists already; give a name that is free") from error


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what a library says when it cannot write, mostly because the disk is full, into a sentence."""
    try:
        yield
    except SwinkitError:
        raise
    except Exception as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())[:200]
        raise ExportError(f"{what} ({reason}); make room on that disk, or choose another place or kind") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters' notes to their developers away from users."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class CompiledEngine(Engine):
    """The folded network compiled by torch for an accelerator; every new size and batch is compiled when it comes.

    Args:
        network: with its weights, on the device where it shall run.
        spec: its description.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__("compile", spec)
        self.network = FromPixels(network, spec.preprocessing)
        self._graphs: OrderedDict[tuple[int, ...], Callable[..., Any]] = OrderedDict()  # by (batch, C, H, W)

    def run(self, pixels: Tensor) -> Tensor | list[Tensor]:
        """Answer (B, C, H, W) pixels of 0..255 of any size."""
        pixels, count = pixels.to(next(self.parameters()).device).float(), pixels.shape[0]
        larger = [shape[0] for shape in self._graphs if shape[1:] == pixels.shape[1:] and shape[0] > count]
        if larger and tuple(pixels.shape) not in self._graphs:  # the last batch of many: cheaper to fill up than to compile for
            pixels = torch.cat((pixels, pixels.new_zeros(min(larger) - count, *pixels.shape[1:])))
        shape = tuple(pixels.shape)
        with torch.no_grad(), _quiet():
            if shape not in self._graphs:
                # Through an export, so that the tables of positions are constants of the graph.
                program = torch.export.export(self.network, (pixels,)).module(check_guards=False)
                self._graphs[shape] = torch.compile(program, dynamic=False, options={"freezing": True})
                if len(self._graphs) > OPEN_SIZES:
                    self._graphs.popitem(last=False)
            self._graphs.move_to_end(shape)
            answer = self._graphs[shape](pixels)
        return answer[:count] if isinstance(answer, Tensor) else [map_[:count] for map_ in answer]
