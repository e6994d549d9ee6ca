"""Every python block of the documentation runs; the cards are valid; links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from swinkit.runs.card import validate_card

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), (200, 30, 30)).save("photo.jpg")
    names: dict = {}
    for number, (info, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        compiled = compile(code, f"{page.name}, block {number}", "exec")
        if "no-run" not in info:
            exec(compiled, names)
    assert page.is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("card", sorted((ROOT / "docs" / "model-cards").glob("*.md")), ids=lambda card: card.name)
def test_model_cards_are_valid(card: Path) -> None:
    validate_card(card.read_text(encoding="utf-8"))


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("predict", "train", "evaluate", "convert", "export", "benchmark", "check-data", "info", "models", "recipes"):
        assert f"swinkit {command}" in text
