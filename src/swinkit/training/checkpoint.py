"""The state of a run in one file, replaced as a whole: whatever kills the process, the file before it is complete.

A safetensors file: tensors named ``model.*``, ``optimiser.<index>.<slot>``, ``ema.*`` and, as metadata, the counters and a
checksum over counters and tensors. Nothing in it can execute, and nothing of it is believed before all of it is verified.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from swinkit.errors import RunError
from swinkit.files import atomic_path, checked_file, parse_json
from swinkit.training.optimiser import slots_of
from swinkit.training.values import echo

LARGEST = 2**37  # bytes of a state
DTYPES = {"BOOL", "U8", "I8", "I16", "I32", "I64", "F16", "BF16", "F32", "F64"}
ANEW = "start anew in another folder"
_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")


@dataclass
class Progress:
    """Where a run stands; everything that must survive a kill besides tensors.

    ``seconds``, ``kilowatt_hours`` and ``carbon_kg`` are those of all parts of a resumed run up to its last save.
    """

    step: int = 0
    epoch: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    epoch_loss: float = 0.0
    epoch_steps: int = 0
    epoch_losses: dict[str, float] = field(default_factory=dict)  # where a step has several
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

    def count(self, losses: dict[str, float]) -> None:
        """Add a step's losses; ``loss`` is the sum of the others, where there are others."""
        self.epoch_loss += losses["loss"]
        for name, value in losses.items():
            if name != "loss":
                self.epoch_losses[name] = self.epoch_losses.get(name, 0.0) + value
        self.epoch_steps += 1

    def mean_losses(self) -> dict[str, float | None]:
        """Return the means of the epoch's losses, as columns of its row, and begin anew."""
        steps = self.epoch_steps
        row: dict[str, float | None] = {"train_loss": self.epoch_loss / steps if steps else None}
        row |= {f"train_{name}": value / steps if steps else None for name, value in self.epoch_losses.items()}
        self.epoch_loss, self.epoch_steps, self.epoch_losses = 0.0, 0, {}
        return row


@dataclass(frozen=True)
class State:
    """A saved state, read and verified.

    Args:
        progress: the counters.
        tensors: all tensors, by their names in the file.
        verified: False for a state of a version that wrote no checksum.
    """

    progress: Progress
    tensors: dict[str, Tensor]
    verified: bool


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
    counters = json.dumps(dataclasses.asdict(progress))
    metadata = {"progress": counters, "checksum": _checksum(counters, tensors)}
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{path}: the state of step {progress.step} could not be saved ({error}); the one saved before is "
            "complete: free some space and run again with --resume"
        ) from error


def read_state(path: Path) -> State:
    """Return a saved state; its tensors are read as they are needed, counters and checksum are checked.

    Raises:
        RunError: no such file, not one of ours, changed since it was saved, or counters that no run has.
    """
    if not path.exists():
        raise RunError(f"{path.parent} holds no state.safetensors to resume from; start without --resume")
    checked_file(path, LARGEST, RunError, fix=ANEW)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            strange = {str(file.get_slice(name).get_dtype()) for name in names} - DTYPES
            tensors = {} if strange else {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise RunError(f"{path} is not the state of a run ({' '.join(str(error).split())[:200]}); {ANEW}") from error
    if strange or "progress" not in metadata:
        reason = f"it holds tensors of type {min(strange)}" if strange else "it holds no counters"
        raise RunError(f"{path} is not the state of a run ({reason}); {ANEW}")
    checksum = metadata.get("checksum")
    if checksum is not None and checksum != _checksum(metadata["progress"], tensors):
        raise RunError(f"{path} was damaged or changed since it was saved: its checksum differs; put a good copy back or {ANEW}")
    return State(_progress(metadata["progress"], path), tensors, checksum is not None)


def read_progress(path: Path) -> Progress:
    """Return the counters of a saved state. Errors as for ``read_state``."""
    return read_state(path).progress


def load_state(
    state: State, path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, ema: dict[str, Tensor] | None
) -> None:
    """Put the tensors of a state back, in place, once all of them are known to fit.

    Raises:
        RunError: names, shapes or types are not those of this network and this optimiser; ``path`` names the file.
    """
    _refuse_foreign(state, path, model, optimiser, ema)
    tensors = state.tensors
    model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value.clone()  # the file's own pages would change with the file
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    for name, target in (ema or {}).items():
        target.copy_(tensors[f"ema.{name}"])


def _refuse_foreign(
    state: State, path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, ema: dict[str, Tensor] | None
) -> None:
    """Compare every tensor with what this network and this optimiser would have written."""
    needed = {f"model.{name}": value for name, value in model.state_dict().items()}
    needed |= {f"ema.{name}": value for name, value in (ema or {}).items()}
    known = dict(needed)
    index = 0
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            names = {f"optimiser.{index}.{slot}": value for slot, value in slots_of(optimiser, group, parameter).items()}
            known |= names
            if names.keys() & state.tensors.keys():  # a parameter that never had a gradient has no slots
                needed |= names
            index += 1
    for odd, verb in ((state.tensors.keys() - known.keys(), "unknown"), (needed.keys() - state.tensors.keys(), "missing")):
        if odd:
            raise RunError(
                f"{path} holds the state of another network: {len(odd)} tensors are {verb} (first: {echo(min(odd))}); {ANEW}"
            )
    for name, value in state.tensors.items():
        if (value.shape, value.dtype) != (known[name].shape, known[name].dtype):
            raise RunError(
                f"{path} holds the state of another network: {name} is {_form(value)} instead of {_form(known[name])}; {ANEW}"
            )
        if name.startswith("optimiser.") and name.endswith(".step") and not 0 <= float(value) <= state.progress.step:
            raise RunError(f"{path}: {name} counts {float(value):g} steps, the run has done {state.progress.step}; {ANEW}")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _checksum(counters: str, tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the counters and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(counters.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {_form(tensor)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _progress(text: str, path: Path) -> Progress:
    """Return the counters, each of its type and in its range."""

    def refused(word: str) -> None:
        if word != "NaN":
            raise ValueError(f"the number {word} is out of range")

    # Versions before checksums wrote NaN as the loss of an epoch without a finite step; what else is wrong is said below.
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text, parse_constant=refused)) if "NaN" in text else text
    values = parse_json(text, f"{path}, counters", RunError, ANEW)
    if not isinstance(values, dict):
        raise RunError(f"{path}: the counters are no table; {ANEW}")
    fields = {item.name: str(item.type) for item in dataclasses.fields(Progress)}
    for name, value in values.items():
        if name not in fields:
            raise RunError(f"{path}: {echo(name)} is no counter of a run; a newer version wrote it, or {ANEW}")
        if not _fits(value, fields[name]):
            raise RunError(f"{path}: the counter {name} is {echo(value)}, which no run has; {ANEW}")
    return Progress(**values)


def _fits(value: Any, kind: str) -> bool:
    """Say whether a value is of a counter's kind, the annotation in ``Progress``."""
    if value is None:
        return "None" in kind
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if kind.startswith("float"):
        return _is_number(value)
    if kind == "str":
        return isinstance(value, str) and len(value) <= 1000
    if kind.startswith("list"):
        return isinstance(value, list) and all(map(_is_row, value))
    return isinstance(value, dict)


def _is_row(row: Any) -> bool:
    """Say whether this is an epoch's row: safe names, numbers or nothing."""
    if not isinstance(row, dict):
        return False
    return all(_COLUMN.fullmatch(key) and (item is None or _is_number(item)) for key, item in row.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
