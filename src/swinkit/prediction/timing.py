"""The engines beside one another on one checkpoint."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch

from swinkit.engines.exported import ENGINES, canary_pixels, fastest
from swinkit.engines.kernels import compiler
from swinkit.engines.timing import interleaved
from swinkit.export.write import default_size
from swinkit.prediction.predictor import load

_NEEDS = {"openvino": "openvino", "onnxruntime": "onnxruntime"}


def installed() -> list[str]:
    """Return the engines that can run here: their library is installed; "compile" needs a C++ compiler."""
    there = {name: importlib.util.find_spec(module) is not None for name, module in _NEEDS.items()}
    return [name for name in ENGINES if there.get(name, name == "torch" or compiler() is not None)]


def time_engines(
    source: str, engines: Sequence[str], batches: Sequence[int], rounds: int, trust: bool = False
) -> list[dict[str, Any]]:
    """Return a row an engine and batch.

    ``engine``, ``batch``, ``ms`` (median of a call), ``images_per_second``, ``speedup`` over torch, ``error``: the largest
    difference from torch's answers.

    Args:
        source: as for ``load``.
        engines: names; empty means all that are installed, "auto" is the one it stands for. torch comes first.
        batches: pictures at once.
        rounds: calls of each, in turn.
        trust: as for ``load``.
    """
    here = fastest(torch.device("cpu"))
    names = list(dict.fromkeys(["torch", *(here if name == "auto" else name for name in engines or installed())]))
    predictors = {name: load(source, engine=name, trust=trust) for name in names}
    spec = predictors["torch"].spec
    rows: list[dict[str, Any]] = []
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.preprocessing.mean, spec.preprocessing.std))
    for batch in batches:
        images = (torch.from_numpy(canary_pixels(spec, default_size(spec), batch)).float() / 255.0 - mean) / std
        with torch.inference_mode():
            calls = {name: functools.partial(predictor.model, images) for name, predictor in predictors.items()}
            answers = {name: call() for name, call in calls.items()}
            seconds = interleaved(calls, rounds)
        rows += [
            {
                "engine": name,
                "batch": batch,
                "ms": 1e3 * seconds[name],
                "images_per_second": batch / seconds[name],
                "speedup": seconds["torch"] / seconds[name],
                "error": float((answers[name] - answers["torch"]).abs().max()),
            }
            for name in names
        ]
    return rows
