"""The door for files from outside, files written whole, and what killed processes leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.hostile import one_sentence

from swinkit.errors import CheckpointError, InputError
from swinkit.files import (
    atomic_folder,
    atomic_path,
    atomic_write,
    checked_file,
    open_file,
    parse_json,
    read_file,
    read_text,
    sweep,
)


def test_a_regular_file_is_read_through_links_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbftext")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_file(tmp_path / "b", 7) == b"\xef\xbb\xbftext"
    assert read_text(tmp_path / "b", 7) == "text"
    assert checked_file(tmp_path / "b", 7) == 7


@pytest.mark.parametrize("kind", ["missing", "below a file", "folder", "pipe", "device", "large", "zero byte"])
def test_what_is_no_bounded_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "below a file":
        path.write_text("")
        path = path / "y"
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "large":
        path.write_bytes(bytes(11))
    elif kind == "zero byte":
        path = Path(str(path) + "\0")
    began = time.monotonic()
    for read in (open_file, read_file, checked_file, read_text):
        with pytest.raises(CheckpointError) as caught:
            read(path, 10, CheckpointError, "this file")
        one_sentence(caught.value, "this file")
    assert time.monotonic() - began < 1


def test_text_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc\xff")
    with pytest.raises(InputError, match="byte 3"):
        read_text(tmp_path / "x", 10)


@pytest.mark.parametrize(
    "text", ['{"a": [1, -2.5e300, "NaN", null, true, 1e-999]}', "[]", "5", '"1e999"', "[9223372036854775807]"]
)
def test_json_within_bounds_is_what_the_standard_library_reads(text: str) -> None:
    assert parse_json(text, "x") == json.loads(text)
    assert parse_json(text.encode("utf-16"), "x") == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "1e999",
        "[-1E+400]",
        "NaN",
        '{"a": -Infinity}',
        "9223372036854775808",
        "1" * 900_000,
        "1" * 400 + ".0",
        "[" * 101 + "]" * 101,
        "[" * 100_000,
        '{"a":' * 100_000,
        "{",
        "",
        b"\xff\xfe\x00",
    ],
    ids=range(13),
)
def test_json_out_of_bounds_is_refused_in_a_sentence(text: str | bytes) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_json(text, "some file", CheckpointError)
    one_sentence(caught.value, "some file")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", "one")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text(f"two {1 // 0}")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "one"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "a") as temporary:
        (temporary / "x").write_text("one")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "deep" / "b") as temporary:
        (temporary / f"x{1 // 0}").write_text("two")
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "deep" / "a") as temporary:
        (temporary / "x").write_text("two")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a"]
    assert (tmp_path / "deep" / "a" / "x").read_text() == "one"
    assert (tmp_path / "deep" / "a").stat().st_mode & 0o777 == 0o777 & ~_umask()


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import sys, time; from swinkit.files import atomic_folder, atomic_path\n"
        "with atomic_path(sys.argv[1] + '/file') as a, atomic_folder(sys.argv[1] + '/folder') as b:\n"
        "    (b / 'x').write_text('x'); print('ready', flush=True); time.sleep(60)\n"
    )
    strange = [tmp_path / name for name in ("a.part", ".x.part", ".x.ABCDEFGH.part", ".x.abcdefgh.part2")]
    for path in strange:
        path.write_text("a stranger's")
    (tmp_path / ".x.abcdefgh.part").symlink_to(strange[0])
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert sweep(tmp_path) == 0  # held by a living process
    assert len(list(tmp_path.iterdir())) == 7
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert sweep(tmp_path) == 2
    assert sorted(tmp_path.iterdir()) == sorted([*strange, tmp_path / ".x.abcdefgh.part"])
    assert sweep(tmp_path / "missing") == 0


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
