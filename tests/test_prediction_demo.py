"""``swinkit demo``: the cat is a cat."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from swinkit.cli import main


def test_the_demo_s_cat_is_a_cat(tmp_path: Path, capsys: pytest.CaptureFixture[str], embedded: str) -> None:
    pytest.importorskip("skimage")
    out = tmp_path / "demo.png"
    assert main(["demo", "--out", str(out)]) == 0
    first = capsys.readouterr().out.splitlines()[1]
    assert first.split()[0] == "cat"
    with Image.open(out) as picture:
        assert picture.size == (451 + 340 + 48, 332)
