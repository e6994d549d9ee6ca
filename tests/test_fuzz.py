"""The corpus of every fuzz target comes out as each case says; thirty seconds of new inputs find nothing (slow)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools.fuzz.__main__ import NAMES
from tools.fuzz.cases import NoCase, lay_out, pack, unpack
from tools.fuzz.guard import SECONDS

ROOT = Path(__file__).resolve().parents[1]


def run(*words: str, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tools.fuzz", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, errors="replace")


@pytest.mark.parametrize("target", NAMES)
def test_the_corpus_comes_out_as_it_says(target: str) -> None:
    done = run(target, "--replay")
    outcomes = dict(line.split(": ", 1) for line in done.stdout.splitlines() if line.startswith(f"{target}/"))
    wrong = [f"{name}: {said}" for name, said in outcomes.items() if "FOUND" in said or "no input" in said]
    wrong += [f"{name}: {said}" for name, said in outcomes.items() if "/ok-" in name and said != "answered"]
    wrong += [f"{name}: {said}" for name, said in outcomes.items() if "/bad-" in name and not said.startswith("refused")]
    assert not wrong, "\n".join(wrong)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(outcomes) >= 15


# One that does what none may do; the oracle must see it, also where the reader swallows errors.
HARMS = {
    "no error of ours": "raise KeyError('x')",
    # past the constructor, which keeps messages to one line of a thousand letters
    "two lines": "\nerror = InputError()\nerror.args = ('a\\nb',)\nraise error",
    "printed whole": "\nerror = InputError()\nerror.args = ('x' * 5000,)\nraise error",
    "a process": "subprocess.run(['true'])",
    "a shell, swallowed": "\ntry: os.system('true')\nexcept BaseException: pass",
    "a connection": "socket.create_connection(('127.0.0.1', 9))",
    "a library": "ctypes.CDLL('libm.so.6')",
    "a file outside": "open('/tmp/swinkit-fuzz-outside', 'w')",
    "a file removed outside": "os.remove('/tmp/swinkit-fuzz-outside')",
    "a file beside": "(folder.parent / 'here' / 'x').write_text('')",
    "a file of native code": "ctypes.CDLL(None).creat(str(folder.parent / 'x').encode(), 0o600)",
    "time": f"\nwhile time.process_time() < {SECONDS} + 30: pass",
    "memory": "bytearray(1 << 33)",
}


@pytest.mark.parametrize("harm", HARMS)
def test_the_oracle_sees(harm: str) -> None:
    code = (
        "import ctypes, os, socket, subprocess, time\n"
        "import tools.fuzz.guard as guard\nfrom swinkit.errors import InputError\n"
        "guard.SECONDS = 0.2\n"
        "def read(folder):\n    " + HARMS[harm].replace(f"{SECONDS} + 30", "0.6 + began").replace("\n", "\n    ") + "\n"
        "room = guard.Room()\nroom.fresh()\nguard.bound_memory()\nbegan = time.process_time()\n"
        "try: guard.judged(room, read)\nexcept guard.Finding as finding: print('FOUND', finding)\n"
        "room.remove()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "FOUND" in done.stdout, done.stdout + done.stderr
    assert not Path("/tmp/swinkit-fuzz-outside").exists()


def test_an_error_of_ours_and_success_are_no_findings() -> None:
    code = (
        "import tools.fuzz.guard as guard\nfrom swinkit.errors import InputError\n"
        "def read(folder):\n    (folder.parent / 'tmp' / 'x').write_text('own'); open('/dev/null', 'w').close()\n"
        "def refuse(folder):\n    raise InputError('a sentence')\n"
        "room = guard.Room()\nroom.fresh()\nprint(guard.judged(room, read)); print(guard.judged(room, refuse))\nroom.remove()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "answered\nrefused: InputError: a sentence\n", done.stderr


def test_a_case_lays_out_files_pipes_and_links(tmp_path: Path) -> None:
    data = pack({"a/b": b"text\n", "c": "pipe", "d": "link a/b", "e": b""})
    lay_out(unpack(data), tmp_path)
    assert (tmp_path / "d").read_bytes() == b"text\n"
    assert (tmp_path / "c").is_fifo()
    assert (tmp_path / "e").read_bytes() == b""
    assert pack(unpack(data)) == data


@pytest.mark.parametrize(
    "data", [b"", b"[]\n", b"5\n", b'[["../x", 1]]\nx', b'[["/x", 1]]\nx', b'[["a\\u0000", 1]]\nx', b"[" * 9999]
)
def test_what_is_no_case_is_passed_over(data: bytes) -> None:
    with pytest.raises(NoCase):
        unpack(data)


@pytest.mark.slow
@pytest.mark.parametrize("target", NAMES)
def test_half_a_minute_of_new_inputs_finds_nothing(target: str) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris: pip install --group fuzz")
    done = run(target, "--seconds", "30")
    assert done.returncode == 0, done.stdout[-3000:]
    assert ", 0 findings" in done.stdout
