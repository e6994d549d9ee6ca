"""Names from outside: parts that stay in their folder, labels of one line, cells that no spreadsheet runs, messages of one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swinkit.data.names import MAX_LABEL, checked_labels, part_path
from swinkit.data.tables import spreadsheet_safe
from swinkit.errors import DatasetError, MissingExtraError, SwinkitError, shown


@pytest.mark.parametrize("name", ["../x", "../../../etc", "/etc", "a/../../x", "..\\x", "..", "", "  ", "a\0b", "a.zip,/etc/x.zip"])
def test_a_part_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError) as caught:
        part_path(tmp_path, name)
    assert str(tmp_path) in str(caught.value)


def test_parts_are_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("train", "train-[0-3].zip", "a/b..c/d.csv"):
        assert part_path(tmp_path, name) == tmp_path / name
    (tmp_path / "a,b").mkdir()
    assert part_path(tmp_path, "a,b") == tmp_path / "a,b"


@given(st.text(st.sampled_from("./\\a,"), max_size=8))
def test_no_name_leads_out(name: str) -> None:
    root = Path("/nowhere/data")
    try:
        path = part_path(root, name)
    except DatasetError:
        return
    assert Path("/nowhere/data") in [path.resolve(), *path.resolve().parents]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["a", "b\x1b[31m"], "cannot be shown"),
        (["a", "b\nc"], "cannot be shown"),
        (["a\u202eb"], "cannot be shown"),
        (["a" * (MAX_LABEL + 1)], "shorten it"),
        (["a", " "], "has no name"),
        (["a", "b", "a"], "'a' is named twice"),
        (["a"] * 100_001, "more than 100,000"),
    ],
)
def test_labels_that_are_none(names: list[str], complaint: str) -> None:
    with pytest.raises(DatasetError, match=complaint) as caught:
        checked_labels(names, "classes.txt")
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_labels_stay_as_they_are() -> None:
    names = ["Ameise", "bee (Apis)", "猫", "a=b", "-1"]
    assert checked_labels(names, "here") == names


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+2", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "  =1", "＝1", "\n=1"])
def test_what_begins_like_a_formula_is_none(text: str) -> None:
    assert spreadsheet_safe(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "cat", "-1.5", "+2e-7", "-inf", "a=b", "0.25", "'=1"])
def test_numbers_and_words_stay(text: str) -> None:
    assert spreadsheet_safe(text) == text


@given(st.text())
def test_a_message_is_one_line_that_can_be_printed(text: str) -> None:
    for error in (SwinkitError(text), MissingExtraError(text)):
        assert str(error).isprintable()
    assert shown(shown(text)) == shown(text)
    str(SwinkitError(text)).encode()
