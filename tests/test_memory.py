"""C memory that stays from one call to the next."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import swinkit
from swinkit.cli import common
from swinkit.engines import memory
from swinkit.models.classifier import SwinClassifier
from swinkit.prediction import Predictor
from swinkit.specs import ModelSpec, Preprocessing, Variant

MEMORY = """
import resource, sys, torch
from swinkit.engines.memory import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [torch.empty(size << 18).fill_(1) for size in (40, 9, 40)]  # MiB, as the maps of a batch
    del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(10)))  # the first calls find their places
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_the_memory_of_one_call_serves_the_next() -> None:
    def faults(how: str, **settings: str) -> int:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))} | settings
        done = subprocess.run([sys.executable, "-c", MEMORY, how], env=env, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < 500
    assert faults("given back") > 10_000  # 4 KiB each
    assert faults("kept", MALLOC_TRIM_THRESHOLD_="131072") > 10_000  # a user's own setting stays


def test_the_commands_ask_for_it_and_the_library_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    variant, asked = Variant(embed_dim=12, depths=(1, 1), num_heads=(1, 2), num_classes=2), []
    monkeypatch.setattr(memory, "keep_memory", lambda: asked.append(1))
    predictor = Predictor(SwinClassifier(variant), ModelSpec(variant, Preprocessing((32, 32))))
    predictor.predict(np.zeros((32, 32, 3), np.uint8))
    with torch.device("meta"):
        elsewhere = Predictor(SwinClassifier(variant), ModelSpec(variant, Preprocessing((32, 32))))
    assert asked == []
    common.keep_memory_of(elsewhere)
    assert asked == []
    common.keep_memory_of(predictor)
    assert asked == [1]


def test_only_the_command_line_names_it() -> None:
    """It holds for the whole process, which is not the library's."""
    source = Path(swinkit.__file__).parent
    users = {path.relative_to(source).parts[0] for path in source.rglob("*.py") if "import keep_memory" in path.read_text()}
    assert users == {"cli"}
