"""What the benchmarks compute besides calling the package."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from benchmarks import ablation
from benchmarks.sequences import hold_out


def test_the_ablation_s_table_has_means_spreads_and_paired_differences() -> None:
    lines = ablation.table([0, 1, 2], {"moves": [0.50, 0.60, 0.70], "stays": [0.40, 0.55, 0.69]}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells] == ["", "---", "moves", "stays", "difference"]
    assert {len(row) for row in cells} == {6}
    assert cells[2][1:] == ["50.00", "60.00", "70.00", "60.00", "10.00"]
    assert cells[3][4:] == ["54.67", f"{100 * statistics.stdev([0.40, 0.55, 0.69]):.2f}"]
    assert cells[4][1:] == ["+10.00", "+5.00", "+1.00", "+5.33", "4.51"]
    assert ablation.table([7], {"a": [0.5], "b": [0.6]}).splitlines()[-1] == "| difference | -10.00 | -10.00 | - |"


@pytest.mark.parametrize("name", sorted(ablation.STUDIES))
def test_the_ablation_s_arms_differ_in_the_shift_alone(name: str) -> None:
    study = ablation.STUDIES[name]
    recipes = [ablation.load_recipe(study.recipe, ablation.overrides(study, 5, arm, 1)).model_dump() for arm in ablation.ARMS]
    assert [recipe["network"].pop("shift") for recipe in recipes] == [True, False]
    assert recipes[0] == recipes[1]
    assert (recipes[0]["seed"], recipes[0]["iterations"], recipes[0]["from_scratch"]) == (1, 5, True)


def test_a_sequence_is_held_out_whole_or_not_at_all(tmp_path: Path) -> None:
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        (tmp_path / "train" / kind).mkdir(parents=True)
        for stem in ("0001TP_1", "0006R0_1", "0006R0_2"):
            (tmp_path / "train" / kind / f"{stem}.{suffix}").write_text(stem)
    assert hold_out(tmp_path, "0006R0", tmp_path / "held") == {"train": 1, "val": 2}
    assert {path.name for path in (tmp_path / "held" / "val").rglob("*.*")} == {
        "0006R0_1.jpg", "0006R0_2.jpg", "0006R0_1.png", "0006R0_2.png",
    }  # fmt: skip
    (tmp_path / "train" / "masks" / "0006R0_2.png").unlink()
    with pytest.raises(FileNotFoundError):
        hold_out(tmp_path, "0006R0", tmp_path / "other")
    assert not (tmp_path / "other").exists()
