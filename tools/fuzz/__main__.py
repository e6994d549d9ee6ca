"""Fuzz a reader of files from outside, or replay what was found.

::

    python -m tools.fuzz pictures --seconds 600    # needs atheris: pip install --group fuzz
    python -m tools.fuzz pictures FILE             # one input again, with its traceback
    python -m tools.fuzz --replay                  # the corpus of every target

An input that does what none may do is saved in ``.fuzz/findings``, one of each kind, and the run goes on; what reaches new
code is kept in ``.fuzz/corpus``. The exit code is 1 when anything was found.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tools.fuzz.cases import NoCase, lay_out, unpack
from tools.fuzz.guard import HANGS, MEMORY, Finding, Room, bound_memory, judged

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".fuzz"
NAMES = ("weights", "exports", "masks", "pictures", "coco", "tables", "states", "recipes")
LARGEST = 1 << 16  # bytes of an input
RESTARTS = 20  # of a process that ended itself
REAL_MEMORY = (MEMORY >> 20) + 1500  # MB, with the libraries: a net below the limit of the system


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description="Fuzz readers, or replay what was found.")
    parser.add_argument("target", nargs="?", choices=NAMES, help="what is read; all when left out")
    parser.add_argument("file", nargs="?", type=Path, help="replay this input")
    parser.add_argument("--seconds", type=int, default=60, help="how long to look, for each target")
    parser.add_argument("--replay", action="store_true", help="replay the corpus instead")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.worker:
        return _look(words.target, Path(words.worker), words.seconds)
    names = [words.target] if words.target else list(NAMES)
    if words.file is not None:
        return _replay({words.target: {str(words.file): words.file.read_bytes()}}, with_traceback=True)
    if words.replay:
        from tools.fuzz.seeds import corpus

        return _replay({name: corpus(name) for name in names})
    return max(_fuzz(name, words.seconds) for name in names)


def _replay(inputs: dict[str, dict[str, bytes]], with_traceback: bool = False) -> int:
    """Read inputs, print a line for each, and return 1 when one of them did what none may do."""
    from tools.fuzz.targets import TARGETS

    room, failed = Room(), 0
    try:
        for target, cases in inputs.items():
            for name, data in cases.items():
                try:
                    lay_out(unpack(data), room.fresh())
                    print(f"{target}/{name}: {judged(room, TARGETS[target])}", flush=True)
                except NoCase:
                    print(f"{target}/{name}: no input of the fuzzer", flush=True)
                except Finding as finding:
                    failed += 1
                    print(f"{target}/{name}: FOUND: {' '.join(str(finding).split())}", flush=True)
                    if with_traceback:
                        traceback.print_exc()
    finally:
        room.remove()
    return int(failed > 0)


def _fuzz(target: str, seconds: int) -> int:
    """Fuzz one target in a process of its own, started again while there is time, and return 1 when anything was found."""
    from tools.fuzz.seeds import corpus

    kept, findings = WORK / "corpus" / target, WORK / "findings"
    for folder in (kept, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for name, data in corpus(target).items():
        (kept / name).write_bytes(data)
    before, ends, runs, ended = set(findings.iterdir()), time.monotonic() + seconds, 0, 0
    while (left := round(ends - time.monotonic())) > 0 and ended <= RESTARTS:
        command = [sys.executable, "-m", "tools.fuzz", target, "--worker", str(kept), "--seconds", str(left)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, errors="replace")
        runs += _followed(process, target, runs, ends)
        if process.wait() == 0:
            break
        ended += 1
    found = sorted(path for path in set(findings.iterdir()) - before if path.name.startswith(f"{target}-"))
    print(f"\n{target}: {runs:,} inputs, {len(found)} findings", flush=True)
    for path in found:
        print(f"  python -m tools.fuzz {target} {path.relative_to(ROOT)}", flush=True)
    return int(bool(found) or ended > 0)


def _followed(process: subprocess.Popen[str], target: str, before: int, ends: float) -> int:
    """Show how a worker goes on until it ends, and return how many inputs it read; its last words when it failed."""
    assert process.stderr is not None
    count, tail, shown = 0, list[str](), 0.0
    for line in process.stderr:
        tail = [*tail[-40:], line]
        if done := re.match(r"(?:#|Done )(\d+)\s", line):
            count = int(done[1])
            if time.monotonic() - shown > 1:
                shown = time.monotonic()
                print(f"\r{target}: {before + count:,} inputs, {max(0, round(ends - shown))} s left  ", end="", flush=True)
        elif line.startswith("FOUND"):
            print(f"\n{line.strip()[:400]}", flush=True)
    if process.wait():
        print(f"\n{target}: the process ended itself\n{''.join(tail)}", flush=True)
    return count


def _look(target: str, kept: Path, seconds: int) -> int:
    """Let atheris make inputs; it ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=["swinkit"]):
        from tools.fuzz.targets import TARGETS
    from tools.fuzz.mutate import Changer
    from tools.fuzz.seeds import corpus

    room, known = Room(clock=False), set[str]()
    findings = WORK / "findings"
    for data in list(corpus(target).values())[:3]:  # what is imported late is imported now, before memory is counted
        lay_out(unpack(data), room.fresh())
        try:
            with atheris.instrument_imports(include=["swinkit"]):
                TARGETS[target](room.input)
        except Exception:  # noqa: BLE001 - judged below
            continue
    bound_memory()

    def look(data: bytes) -> int:
        try:
            lay_out(unpack(data), room.fresh())
        except NoCase:
            return -1
        try:
            judged(room, TARGETS[target])
        except Finding as finding:
            _save(target, data, finding, findings, known)
        return 0

    def change(data: bytes, largest: int, seed: int) -> bytes:
        return Changer(seed, lambda part: atheris.Mutate(part, max(2 * len(part), 16))).case(data)[:largest]

    options = {
        "max_total_time": seconds,
        "max_len": LARGEST,
        "len_control": 0,
        "timeout": HANGS,
        "report_slow_units": 1000,
        "rss_limit_mb": REAL_MEMORY,
        "artifact_prefix": f"{findings}{os.sep}{target}-",
    }
    words = [sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(kept)]
    atheris.Setup(words, look, custom_mutator=change)
    atheris.Fuzz()
    return 0


def _save(target: str, data: bytes, finding: Finding, folder: Path, known: set[str]) -> None:
    """Keep one input of every kind of finding: the kind is where in the package it came from, and what it was."""
    cause: Any = finding.__cause__ or finding
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if "swinkit" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""
    kind = f"{type(cause).__name__} in {where}: {re.sub(r'[^a-z ]', '', str(finding).lower())[:25]}"
    if kind in known:
        return
    known.add(kind)
    path = folder / f"{target}-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"
    if not path.exists():
        path.write_bytes(data)
    line = frames[-1].lineno if frames else 0
    print(f"FOUND {path.name} ({where}, line {line}): {' '.join(str(finding).split())}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
