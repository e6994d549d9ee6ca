"""C memory that stays from one call to the next."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from swinkit.models.classifier import SwinClassifier
from swinkit.prediction import Predictor, predictor
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


def test_torch_on_a_cpu_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    variant, asked = Variant(embed_dim=12, depths=(1, 1), num_heads=(1, 2), num_classes=2), []
    monkeypatch.setattr(predictor, "keep_memory", lambda: asked.append(1))
    Predictor(SwinClassifier(variant), ModelSpec(variant, Preprocessing((32, 32))))
    with torch.device("meta"):
        Predictor(SwinClassifier(variant), ModelSpec(variant, Preprocessing((32, 32))))
    assert asked == [1]
