"""What the benchmarks compute besides calling the package."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import ablation, contenders, processor, turns
from benchmarks.sequences import hold_out

from swinkit.models import windows


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


def makers(kinds: tuple[str, ...]) -> turns.Makers:
    """Say which process answers, and how often it was asked."""

    def made(kind: str) -> turns.Call | dict[str, turns.Call]:
        if kind == "pair":
            return {"first": made("a"), "second": made("b")}  # type: ignore[dict-item]
        count = itertools.count(1)
        if kind == "cannot be made":
            raise ValueError("no such engine")
        return lambda: (time.sleep(turns.STEADY), torch.tensor([os.getpid(), next(count)]))[1] if kind != "dies" else os._exit(3)

    return {kind: lambda kind=kind: made(kind) for kind in kinds}  # type: ignore[misc]


@pytest.mark.parametrize("where", ["near", "first far", "first one", "changing"])
def test_contenders_take_turns_in_processes_of_their_own(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = itertools.count()

    def place() -> str:
        number = next(asked)  # two for a turn, two turns a round
        if where.startswith("first") and number < 4:
            return where.removeprefix("first ")
        return "far" if where == "changing" and number % 2 else "near"

    monkeypatch.setattr(turns, "place_of_cores", place)
    found = turns.take_turns(makers, (("a", "b"),), rounds=2, patience=0 if where == "changing" else 60, lives=1)
    rounds = 3 if where.startswith("first") else 2
    (process, calls), (other, _) = (found[name].answer for name in "ab")
    assert process != other
    assert os.getpid() not in (process, other)
    assert calls == turns.WARMUP + 2 * rounds
    for contender in found.values():
        assert (len(contender.near), len(contender.far), len(contender.other)) == {
            "near": (2, 0, 0), "first far": (2, 1, 0), "first one": (2, 0, 1), "changing": (0, 0, 2),
        }[where]  # fmt: skip
        assert len(contender.turns("")) == rounds
        assert contender.ms("") > 0
        assert sorted(contender.order) == sorted(contender.turns(""))
        assert contender.part(contender) == 1


def test_what_is_a_part_of_another_s_work_shares_its_process() -> None:
    found = turns.take_turns(makers, (("pair", "a"),), rounds=2, patience=0, lives=1)
    assert list(found) == ["first", "second", "a"]
    (process, calls), (same, own_calls), (other, _) = (found[name].answer for name in found)
    assert process == same != other
    assert [contender.alone for contender in found.values()] == [False, False, True]
    assert calls == own_calls == turns.WARMUP + 2 * 2
    assert all(len(found[name].order) == 2 for name in found)


def test_contenders_have_several_processes_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "place_of_cores", lambda: "near")
    asked: list[tuple[str, Any]] = []
    ask = turns._asked

    def recorded(line: Any, name: str, *question: str) -> Any:
        if question[:1] == ("turn",):
            asked.append((name, line))
        return ask(line, name, *question)

    monkeypatch.setattr(turns, "_asked", recorded)
    found = turns.take_turns(makers, (("a", "b"),), rounds=5, lives=2)
    assert [name for name, _ in asked] == ["a", "b"] * 5
    lines = [line for _, line in asked]
    assert len(set(lines[:4])) == len(set(lines[4:])) == 2  # a process for two turns, the next for three
    assert len(set(lines)) == 4
    assert found["a"].answer[1] == turns.WARMUP + 2 * 3


def test_a_part_of_another_s_time_is_of_the_same_round() -> None:
    slow, quick = turns.Contender(order=[2.0, 20.0, 4.0]), turns.Contender(order=[1.0, 12.0, 2.0])
    assert quick.part(slow) == 0.5


@pytest.mark.parametrize(("kind", "words"), [("cannot be made", "no such engine"), ("dies", "without a word")])
def test_a_contender_that_fails_is_named(kind: str, words: str) -> None:
    with pytest.raises(SystemExit, match=rf"(?s){kind}: .*{words}"):
        turns.take_turns(makers, ((kind,),), rounds=1)


def test_an_engine_is_made_with_the_padded_rows_its_row_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[float] = []
    monkeypatch.setattr(windows, "PADDING_PAYS", usual := windows.PADDING_PAYS)
    monkeypatch.setattr(contenders, "our_engine", lambda *_: seen.append(windows.PADDING_PAYS))
    made = contenders.pyramid_makers(tmp_path)
    made["swinkit compile"]()
    made["swinkit openvino, no padded rows computed"]()
    assert seen == [usual, 0]


def test_the_processor_is_asked_where_there_is_a_compiler() -> None:
    known = processor._library() is not None
    assert (processor.peak() > 1e8) == known
    assert (0 < processor.distance() < 1e-3) == (known and len(os.sched_getaffinity(0)) > 1)
    assert processor.place() in ("near", "far", "one")


def test_fewer_threads_than_cores_do_less(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(processor, "_cores", lambda: [0, 1, 2])
    monkeypatch.setattr(processor, "_peak", lambda cores, *_: asked.append(cores) or 1.0)
    monkeypatch.setattr(processor.torch, "get_num_threads", lambda: 2)
    processor.peak()
    assert asked == [[0, 1]]


@pytest.mark.parametrize(("both", "distance", "place"), [(1.1, 25e-9, "one"), (1.9, 90e-9, "near"), (2.0, 300e-9, "far")])
def test_two_cores_that_do_as_much_as_one_are_one(
    both: float, distance: float, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_cores", lambda: [0, 1])
    monkeypatch.setattr(processor, "_peak", lambda cores, *_: both if len(cores) == 2 else 1.0)
    monkeypatch.setattr(processor, "distance", lambda: distance)
    assert processor.place() == place
