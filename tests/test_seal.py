"""Seals: this user's processes recognise what they wrote, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swinkit.engines import seal as seals


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWINKIT_CACHE", str(tmp_path / "cache"))
    seals._key.cache_clear()
    return tmp_path / "cache"


def test_a_seal_holds_in_this_and_in_another_process_and_for_these_bytes_only(home: Path) -> None:
    mark = seals.seal(b"data")
    assert len(mark) == 64
    assert seals.is_sealed(b"data", mark)
    assert not seals.is_sealed(b"date", mark)
    assert not seals.is_sealed(b"data", "")
    assert not seals.is_sealed(b"data", "é")
    code = f"from swinkit.engines.seal import is_sealed; assert is_sealed(b'data', {mark!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.iterdir()] == ["key"]


def test_another_secret_makes_another_seal(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark = seals.seal(b"data")
    monkeypatch.setenv("SWINKIT_CACHE", str(tmp_path / "other"))
    assert not seals.is_sealed(b"data", mark)


@pytest.mark.parametrize("kind", ["readable", "link", "short", "long", "pipe", "folder"])
def test_a_secret_that_others_may_know_is_not_used(home: Path, kind: str, tmp_path: Path) -> None:
    home.mkdir(mode=0o700)
    key = home / "key"
    (tmp_path / "planted").write_bytes(bytes(32))
    (tmp_path / "planted").chmod(0o600)
    if kind == "link":
        key.symlink_to(tmp_path / "planted")
    elif kind == "pipe":
        os.mkfifo(key, 0o600)
    elif kind == "folder":
        key.mkdir(mode=0o700)
    else:
        key.write_bytes(bytes({"readable": 32, "short": 31, "long": 33}[kind]))
        key.chmod(0o644 if kind == "readable" else 0o600)
    assert seals.seal(b"data") == ""
    assert not seals.is_sealed(b"data", "")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_a_folder_or_secret_of_somebody_else_is_not_used(home: Path) -> None:
    home.mkdir(mode=0o700)
    os.chown(home, 12345, -1)
    assert not seals.private_folder(home)
    assert seals.seal(b"data") == ""


def test_a_folder_of_ours_is_closed_to_others_and_a_link_is_refused(home: Path, tmp_path: Path) -> None:
    home.mkdir(mode=0o777)
    assert seals.private_folder(home)
    assert home.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(home)
    assert not seals.private_folder(tmp_path / "link")


def test_where_nothing_can_be_kept_nothing_is_sealed(home: Path) -> None:
    home.parent.joinpath("cache").write_text("a file where the folder should be")
    assert seals.seal(b"data") == ""
