"""Checkpoints of every Swin code base: read without risk, converted by tables, adapted aloud, saved back."""

from __future__ import annotations

from swinkit.embedded import DEFAULT, EMBEDDED, embedded_path
from swinkit.weights.adapt import load_into
from swinkit.weights.checkpoint import Checkpoint, load_checkpoint
from swinkit.weights.convert import Neutral, from_neutral, recognise, to_neutral
from swinkit.weights.read import PICKLED, read_tensors
from swinkit.weights.save import save_dialect, save_folder, save_native, save_pretrained

__all__ = [
    "DEFAULT",
    "EMBEDDED",
    "PICKLED",
    "Checkpoint",
    "Neutral",
    "embedded_path",
    "from_neutral",
    "load_checkpoint",
    "load_into",
    "read_tensors",
    "recognise",
    "save_dialect",
    "save_folder",
    "save_native",
    "save_pretrained",
    "to_neutral",
]
