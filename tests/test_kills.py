"""SIGKILL at seeded moments of training, export, cache and predict: the next start answers as if nothing had been."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.hostile import image_folder
from tests.test_engines import tiny
from tests.test_export import described, small

from swinkit.weights import save_native

ROOT = Path(__file__).resolve().parents[1]


class Killer:
    """A process that runs jobs and lets them die (``killer.py``)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
        command = [sys.executable, "-m", "tests.killer"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, words: list[str], at: int | None = None, delay: float = 0.0) -> int:
        """Run a command line and return its exit code, negative for a signal.

        Args:
            words: of ``swinkit``, or "tiny" and a folder for a training run.
            at: die after so many changes of files below the root; None lives.
            delay: seconds between that change and death.
        """
        job = {"words": words, "at": at, "delay": delay, "watched": str(self.root), "cache": str(self.root / "cache")}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(job | {"log": f"{self.root}.log"}), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def whole(self, words: list[str]) -> int:
        """Run a command line to its end and return how many changes it made."""
        code = self.run(words)
        assert code == 0, self.said()
        return int(Path(f"{self.root}.log.count").read_text())

    def said(self) -> str:
        return Path(f"{self.root}.log").read_text()[-2000:]


@pytest.fixture
def killer(tmp_path: Path) -> Iterator[Killer]:
    pytest.importorskip("openvino")
    (tmp_path / "files").mkdir()
    found = Killer(tmp_path / "files")
    yield found
    assert found.process.stdin is not None
    found.process.stdin.close()
    found.process.wait(30)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "photos", [f"{number}.png" for number in range(6)])


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    network, spec = small()
    save_native(tmp_path / "classifier.safetensors", network.state_dict(), spec)
    save_native(tmp_path / "segmenter.safetensors", tiny("upernet").state_dict(), described("upernet"))
    return {name: tmp_path / f"{name}.safetensors" for name in ("classifier", "segmenter")}


def hashes(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.part*") if path.name.startswith(".")]


def die_and_go_on(
    killer: Killer, words: Callable[[str], list[str]], kills: int, check: Callable[[Path], None], seed: int
) -> None:
    """Kill a command at moments spread over all it does, start it again, and check what is there then.

    Args:
        words: of the command, for a place of its own.
        kills: how many.
        check: of what it has made at its place, once undisturbed, then after every second start.
        seed: of the moments.
    """
    changes = killer.whole(words("whole"))
    check(killer.root / "whole")
    moments, died = random.Random(seed), 0
    for number in range(kills):
        name = f"killed{number}"
        first, last = 1 + number * changes // kills, 1 + (number + 1) * changes // kills
        at = moments.randrange(first, max(first + 1, last))
        died += killer.run(words(name), at, moments.choice([0.0, 0.0, moments.uniform(0, 0.05)])) == -signal.SIGKILL
        code = killer.run(words(name))
        # A command that had finished its file before it died may say so: nothing is written over.
        assert code == 0 or "exists already" in killer.said(), killer.said()
        check(killer.root / name)
        assert not left_over(killer.root), (number, at)
    assert died >= kills - max(1, kills // 4)  # a delayed death may come after the end


def kill_training(killer: Killer, kills: int) -> None:
    changes = killer.whole(["tiny", str(killer.root / "whole")])
    moments, at_once = random.Random(5), 4  # so many deaths in one run
    names = ("weights/last.safetensors", "weights/best.safetensors", "results.csv")
    for life in range(0, kills, at_once):
        folder = killer.root / f"killed{life}"
        for _ in range(min(at_once, kills - life)):
            code = killer.run(["tiny", str(folder)], moments.randrange(1, changes // at_once), moments.choice([0.0, 0.02]))
            assert code == -signal.SIGKILL, killer.said()
        killer.whole(["tiny", str(folder)])
        assert not left_over(folder)
        for name in names[:2]:
            assert (folder / name).read_bytes() == (killer.root / "whole" / name).read_bytes(), name
        rows = [
            [{key: row[key] for key in row if "second" not in key} for row in csv.DictReader((place / names[2]).open())]
            for place in (folder, killer.root / "whole")
        ]
        assert rows[0] == rows[1]


def kill_export(killer: Killer, to: str, kills: int, model: Path, photos: Path) -> None:
    answers: list[object] = []

    def check(folder: Path) -> None:
        out = killer.root / "answers.json"
        killer.whole(["predict", str(photos), "--model", str(folder), "--json", str(out)])
        answers.append(json.loads(out.read_text()))
        assert answers[-1] == answers[0]

    die_and_go_on(killer, lambda name: ["export", str(model), str(killer.root / name), "--to", to], kills, check, seed=7)


def kill_predict(killer: Killer, kills: int, words: list[str], photos: Path, folder: bool) -> None:
    """Kill ``predict``, which writes JSON, CSV and, where ``folder``, label maps."""
    made: list[dict[str, str]] = []

    def check(place: Path) -> None:
        made.append(hashes(place))
        # A second start finds the maps of the first, and numbers its own.
        assert made[0].keys() == {name.replace("_2", "") for name in made[-1]}
        for name, digest in made[-1].items():
            assert digest == made[0][name.replace("_2", "")], name

    def line(name: str) -> list[str]:
        place = killer.root / name
        place.mkdir(exist_ok=True)
        more = ["--out", str(place / "maps")] if folder else []
        return ["predict", str(photos), *words, "--json", str(place / "a.json"), "--csv", str(place / "a.csv"), *more]

    die_and_go_on(killer, line, kills, check, seed=11)


def kill_cache(killer: Killer, kills: int, model: Path, photos: Path) -> None:
    """Kill the start that builds a cache: what it leaves is swept, and never used."""
    answers: list[object] = []
    for number in range(kills + 1):
        cache, out = killer.root / "cache", killer.root / "cached.json"
        if cache.exists():
            cache.rename(killer.root / f"cache-{number}")
        words = ["predict", str(photos), "--model", str(model), "--engine", "openvino", "--json", str(out)]
        if number == 0:
            changes, moments = killer.whole(words), random.Random(13)
        else:
            first = 1 + (number - 1) * changes // kills
            killer.run(words, moments.randrange(first, first + max(1, changes // kills)))
            killer.whole(words)
        answers.append(json.loads(out.read_text()))
        assert answers[-1] == answers[0]
        assert not left_over(killer.root), number


def slowly(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


# The slow ones are thirty in all.


@pytest.mark.parametrize("kills", [3, slowly(10)])
def test_a_killed_training_resumes_to_the_same_bits(killer: Killer, kills: int) -> None:
    kill_training(killer, kills)


@pytest.mark.parametrize(("to", "kills"), [("openvino", 1), slowly("openvino", 3), slowly("onnx", 3)])
def test_a_killed_export_is_there_whole_or_not_at_all(
    killer: Killer, to: str, kills: int, models: dict[str, Path], photos: Path
) -> None:
    for module in ("onnxruntime", "onnxscript") if to == "onnx" else ():
        pytest.importorskip(module)
    kill_export(killer, to, kills, models["classifier"], photos)


@pytest.mark.parametrize("kills", [1, slowly(6)])
def test_a_killed_cache_is_built_again(killer: Killer, kills: int, models: dict[str, Path], photos: Path) -> None:
    kill_cache(killer, kills, models["classifier"], photos)


@pytest.mark.parametrize("kills", [2, slowly(8)])
def test_a_killed_predict_answers_again(killer: Killer, kills: int, models: dict[str, Path], photos: Path) -> None:
    kill_predict(killer, kills, ["--model", str(models["segmenter"])], photos, folder=True)
