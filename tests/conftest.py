from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from swinkit.data.reading import cores

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # they share the cores, and so do the commands they start
    share = max(1, cores() // workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(share))
    torch.set_num_threads(share)

settings.register_profile("swinkit", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("swinkit")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; tests that need it skip without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the ../shared folder of real data beside the repository")
    return SHARED


@pytest.fixture(autouse=True)
def _quiet_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may reach a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def embedded() -> str:
    """The name of the embedded classifier; tests that need its weights skip while the package has none."""
    from swinkit.embedded import DEFAULT, embedded_path

    if embedded_path(DEFAULT) is None:
        pytest.skip(f"the package has no embedded weights of {DEFAULT} yet")
    return DEFAULT
