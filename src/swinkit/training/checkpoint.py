"""The state of a run in one file, replaced as a whole: whatever kills the process, the file before it is complete.

A safetensors file: tensors named ``model.*``, ``optimiser.<index>.<slot>``, ``ema.*`` and, as metadata, the counters.
Nothing in it can execute.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from swinkit.errors import RunError
from swinkit.files import atomic_path


@dataclass
class Progress:
    """Where a run stands; everything that must survive a kill besides tensors."""

    step: int = 0
    epoch: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    epoch_loss: float = 0.0
    epoch_steps: int = 0
    best: float | None = None
    best_epoch: int = 0
    since_best: int = 0
    seconds: float = 0.0
    images: int = 0
    kilowatt_hours: float | None = None
    carbon_kg: float | None = None
    started: str = ""
    finished: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    data: str = ""


def save_state(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, ema: dict[str, Tensor] | None, progress: Progress
) -> None:
    """Write the state to ``path``, whole or not at all.

    Raises:
        RunError: the disk is full or cannot be written; what was saved before is untouched.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in (ema or {}).items()}
    for index, slots in optimiser.state_dict()["state"].items():
        for slot, value in slots.items():
            tensors[f"optimiser.{index}.{slot}"] = torch.as_tensor(value)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"progress": json.dumps(dataclasses.asdict(progress))})
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{path}: the state of step {progress.step} could not be saved ({error}); the one saved before is "
            "complete: free some space and run again with --resume"
        ) from error


def read_progress(path: Path) -> Progress:
    """Return the counters of a saved state.

    Raises:
        RunError: no such file, or not one of ours.
    """
    if not path.is_file():
        raise RunError(f"{path.parent} holds no state.safetensors to resume from; start without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})["progress"])
        return Progress(**values)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise RunError(f"{path} is not the state of a run ({error}); remove the folder and start anew") from error


def load_state(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, ema: dict[str, Tensor] | None) -> None:
    """Put the tensors of a saved state back, in place.

    Raises:
        RunError: the file belongs to another network or another optimiser.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{path} holds the state of another network; start anew in another folder") from error
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    for name, value in tensors.items():
        if ema is not None and name.startswith("ema."):
            ema[name.removeprefix("ema.")].copy_(value)
