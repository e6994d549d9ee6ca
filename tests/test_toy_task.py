"""A task that only this file knows, regression of one number a picture, through everything a task goes through."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import swinkit
from swinkit.cli import main
from swinkit.data.transforms import prepare
from swinkit.runs.card import validate_card
from swinkit.tasks.base import PictureWork, Task
from swinkit.tasks.table import TASKS
from swinkit.training.log import Metric
from swinkit.training.recipe import Recipe

METRICS = (Metric("closeness", share=False),)
PLAN = {
    "task": "score", "model": "swin_nano", "from_scratch": True, "epochs": 4, "batch_size": 8, "precision": "fp32", "workers": 0,
    "network": {"img_size": 32, "patch_size": 8}, "schedule": {"warmup_epochs": 0}, "test": {"resize": "squash"},
    "optimiser": {"learning_rate": 1e-3, "rate_batch": 8},
}  # fmt: skip


class ScoreRecipe(Recipe):
    task: Literal["score"] = "score"
    highest: float = 1.0


@dataclass(frozen=True)
class Score:
    columns: ClassVar = ("score",)
    suffix: ClassVar = ".txt"
    source: str
    score: float = float("nan")
    error: str | None = None
    picture: Image.Image | None = field(default=None, repr=False)

    def to_dict(self):
        return {name: value for name, value in asdict(self).items() if name != "picture"}

    def rows(self):
        return [(f"{self.score:.4f}",)]

    def line(self):
        return f"{self.source}  {self.score:.3f}"

    def text(self):
        return [self.line()]

    def draw(self):
        return self.picture or Image.open(self.source)

    def save(self, path):
        Path(path).write_text(self.line())


class Scores:
    classes: ClassVar = ["score"]

    def __init__(self, root, indices=None):
        self.root = Path(root)
        rows = list(csv.DictReader((self.root / "scores.csv").open()))
        self.items = [rows[i] for i in (range(len(rows)) if indices is None else indices)]

    def __len__(self):
        return len(self.items)

    def read(self, index, grey=False):
        return Image.open(self.root / self.items[index]["file"]).convert("RGB")

    check = read

    def fingerprint(self):
        return "-".join(row["file"] for row in self.items)


class ScoreWork(PictureWork):
    def sample(self, index, rng):
        image = prepare(self.train.read(index), self.spec.preprocessing) + float(rng.normal(0, 0.01))
        return image, torch.tensor([float(self.train.items[index]["score"])])

    def evaluate(self, model, device, progress=None):
        return TASKS["score"].evaluate(model, self.val, self.spec, None, device=device)


class SquaredError(nn.Module):
    def forward(self, outputs, targets):
        return {"squared": (outputs.float() - targets).square().mean(), "absolute": 0.1 * (outputs - targets).abs().mean()}


class ScoreTask(Task):
    name, noun, verb, pipeline = "score", "scorer", "scored", "image-feature-extraction"
    result, recipe, use = Score, ScoreRecipe, ('print(swinkit.load("weights/best.safetensors").predict("photo.jpg").score)',)

    def metrics(self, spec):
        return METRICS

    def open_parts(self, data, plan):
        return Scores(data, range(16)), Scores(data, range(16, 24))

    def open_part(self, data, split, spec):
        return Scores(data, range(16, 24) if split == "val" else None)

    def trainable(self, plan, spec, data):
        network = self.network(spec)
        network.losses = SquaredError()
        return network

    def work(self, plan, spec, train, val):
        return ScoreWork(METRICS, spec, train, val)

    def decode(self, outputs, photo, spec, options):
        return Score(photo.name, float(outputs[0]), picture=photo.kept)

    def evaluate(self, model, data, spec, options, *, device="cpu", precision=None, progress=None):
        images = torch.stack([prepare(data.read(i), spec.preprocessing) for i in range(len(data))]).to(device)
        truth = torch.tensor([float(row["score"]) for row in data.items])
        with torch.inference_mode():
            error = (model.eval()(images)[:, 0].float().cpu() - truth).square().mean()
        return {"closeness": 1.0 / (1.0 + float(error)), "loss": float(error), "count": len(data)}


# From here on: its life.


def pictures(root: Path) -> Path:
    root.mkdir()
    with (root / "scores.csv").open("w") as file:
        file.write("file,score\n")
        for number in range(24):
            level = (number * 37 % 24) * 10
            Image.fromarray(np.full((40, 30, 3), level, np.uint8)).save(root / f"{number}.png")
            file.write(f"{number}.png,{level / 255:.4f}\n")
    return root


@pytest.fixture
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "score", ScoreTask())


@pytest.mark.usefixtures("_known")
def test_a_task_of_one_s_own_lives_a_whole_life(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, plan, run, best = (
        pictures(tmp_path / "data"),
        tmp_path / "p.json",
        tmp_path / "run",
        tmp_path / "run/weights/best.safetensors",
    )
    plan.write_text(json.dumps(PLAN))  # JSON is YAML
    torch.set_num_threads(1)  # as the other process: the same bits
    words = ["train", str(plan), "--data", str(data), "--out", str(run)]
    root = Path(__file__).parents[1]
    killed = subprocess.Popen(
        [sys.executable, __file__, *words],
        stderr=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (run / "state.safetensors").exists() and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    said = killed.communicate()[1].decode()
    assert (run / "state.safetensors").exists(), said
    assert main([*words, "--resume"]) == 0
    assert main([*words[:-1], str(tmp_path / "whole")]) == 0
    one, other = (swinkit.weights.load_checkpoint(str(folder)).tensors for folder in (run, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)  # killed and resumed: the same bits
    rows = list(csv.DictReader((run / "results.csv").open()))
    assert float(rows[-1]["train_squared"]) < float(rows[0]["train_squared"])
    assert float(rows[-1]["train_loss"]) == pytest.approx(
        float(rows[-1]["train_squared"]) + float(rows[-1]["train_absolute"]), abs=1e-5
    )
    validate_card((run / "README.md").read_text())
    assert 'predict("photo.jpg").score' in (run / "README.md").read_text()

    assert main(["evaluate", str(run), "--data", str(data)]) == 0
    assert swinkit.evaluate(str(run), str(data))["closeness"] > 0.5
    capsys.readouterr()
    assert main(["predict", str(data / "3.png"), "--model", str(run), "--csv", "-", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.split("\n")[0].strip() == "source,score,error"
    assert (tmp_path / "out" / "3.txt").read_text().startswith(str(data / "3.png"))
    assert main(["predict", str(data / "3.png"), "--model", str(run), "--top", "3"]) == 1
    assert "top is an option of the task classify, and this is a scorer" in capsys.readouterr().err
    assert main(["info", str(best)]) == 0
    assert main(["export", str(best), str(tmp_path / "onnx"), "--to", "onnx"]) == 0
    exact, exported = (swinkit.load(str(source)).predict(data / "5.png").score for source in (best, tmp_path / "onnx"))
    assert exported == pytest.approx(exact, abs=1e-4)


if __name__ == "__main__":
    TASKS["score"] = ScoreTask()
    raise SystemExit(main(sys.argv[1:]))
