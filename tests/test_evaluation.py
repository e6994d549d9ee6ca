"""Figures against counts by hand; every picture once, on one process and on two."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.two_processes import in_two_processes

from swinkit.errors import DatasetError, InputError
from swinkit.runs.card import SECTIONS, EnergyMeter, RunFacts, run_card, validate_card
from swinkit.specs import Preprocessing
from swinkit.tasks.classify.metric import ClassificationEvaluation, read_groups, read_real
from swinkit.tasks.classify.metric import evaluate_classifier as evaluate
from swinkit.tasks.segment.task import Segment


class Made:
    """Seven pictures whose brightness is their class."""

    classes = ["dark", "middle", "bright"]  # noqa: RUF012

    def __len__(self) -> int:
        return 7

    def name(self, index: int) -> str:
        return f"root/{self.classes[index % 3]}/{index}.png"

    def target(self, index: int) -> int:
        return index % 3

    def read(self, index: int, grey: bool = False) -> Image.Image:
        return Image.new("RGB", (8, 8), (100 * (index % 3) + index,) * 3)


class Bright(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = images.mean((1, 2, 3)) * 255
        return -(level[:, None] - torch.tensor([0.0, 110.0, 200.0])).abs() / 20


PLAIN = Preprocessing((8, 8), "squash", mean=(0, 0, 0), std=(1, 1, 1))


def test_figures_equal_a_count_by_hand() -> None:
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(200, 8)).astype(np.float32), rng.integers(0, 7, 200)  # class 7 is absent
    evaluation = ClassificationEvaluation([f"c{i}" for i in range(8)])
    evaluation.update(torch.from_numpy(logits), truth.tolist(), list(range(200)))
    evaluation.update(torch.from_numpy(-logits[:50]), truth[:50].tolist(), list(range(50)))  # repeated: must not count
    report = evaluation.compute()
    order = np.argsort(-logits, axis=1)
    assert report["count"] == 200
    assert report["top1"] == pytest.approx((order[:, 0] == truth).mean())
    assert report["top5"] == pytest.approx((order[:, :5] == truth[:, None]).any(1).mean())
    confusion = np.zeros((8, 8), int)
    for t, a in zip(truth, order[:, 0], strict=True):
        confusion[t, a] += 1
    assert report["confusion"] == confusion.tolist()
    absent = report["per_class"]["c7"]
    assert (absent["accuracy"], absent["recall"], absent["count"]) == (None, None, 0)
    assert report["per_class"]["c2"]["accuracy"] == pytest.approx(confusion[2, 2] / confusion[2].sum())
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    sure, right = shares.max(1), order[:, 0] == truth
    ece = 0.0
    for low in np.arange(15) / 15:
        inside = (sure > low) & (sure <= low + 1 / 15)
        if inside.any():
            ece += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
    assert report["ece"] == pytest.approx(ece, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_rates_and_mistakes_equal_a_count_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, truth = rng.normal(size=(60, 6)).astype(np.float32), rng.integers(0, 4, 60)
    logits[:, 5] = -9  # classes: 0..3 with pictures, 4 answered only, 5 neither
    evaluation = ClassificationEvaluation(list("abcdef"), names=lambda i: f"{i}.png")
    evaluation.update(torch.from_numpy(logits), truth.tolist(), list(range(60)))
    report, answers = evaluation.compute(), logits.argmax(1)
    totals = {"precision": [], "recall": [], "f1": []}
    for number, label in enumerate("abcdef"):
        right = sum(1 for t, a in zip(truth, answers, strict=True) if t == a == number)
        called, there = list(answers).count(number), list(truth).count(number)
        row = report["per_class"][label]
        assert row["precision"] == (pytest.approx(right / called) if called else None)
        assert row["recall"] == row["accuracy"] == (pytest.approx(right / there) if there else None)
        assert row["f1"] == (pytest.approx(2 * right / (called + there)) if called + there else None)
        if called + there:
            for name, values in totals.items():
                values.append(row[name] or 0)
    assert report["macro"] == {name: pytest.approx(sum(values) / len(values)) for name, values in totals.items()}
    sure = np.exp(logits).max(1) / np.exp(logits).sum(1)
    wrong = sorted((i for i in range(60) if truth[i] != answers[i]), key=lambda i: -sure[i])
    assert [row["file"] for row in report["mistakes"]] == [f"{i}.png" for i in wrong]
    for i, row in zip(wrong, report["mistakes"], strict=True):
        assert (row["truth"], row["answer"]) == ("abcdef"[truth[i]], "abcdef"[answers[i]])
        assert row["probability"] == pytest.approx(sure[i], abs=1e-5)


def test_several_labels_equal_a_count_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0], [1.0, 3.0], [-2.0, 0.5]])
    evaluation = ClassificationEvaluation(["a", "b"], multi_label=True)
    evaluation.update(logits, [(0,), (1,), (0, 1)], [0, 1, 2])
    report = evaluation.compute()
    # a: ranked right, wrong, right -> (1 + 2/3) / 2; b: right, right, wrong -> 1
    assert report["per_class"]["a"]["average_precision"] == pytest.approx(5 / 6)
    # above a half: a is answered for the first two (one right of two there), b for the last two (both right)
    assert [report["per_class"]["a"][name] for name in ("precision", "recall", "f1")] == [0.5, 0.5, 0.5]
    assert [report["per_class"]["b"][name] for name in ("precision", "recall", "f1")] == [1, 1, 1]
    assert report["macro"] == {"precision": 0.75, "recall": 0.75, "f1": 0.75}
    assert report["mAP"] == pytest.approx((5 / 6 + 1) / 2)


@pytest.mark.filterwarnings("error")
def test_classes_that_no_picture_has_do_not_count_and_do_not_warn() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.3], [1.0, 3.0, 0.2], [-2.0, 0.5, 0.1]])
    for truth, expected in (([(0,), (), (0,)], 5 / 6), ([(), (), ()], 0.0)):
        evaluation = ClassificationEvaluation(["a", "b", "c"], multi_label=True)
        evaluation.update(logits, truth, [0, 1, 2])
        report = evaluation.compute()
        assert report["mAP"] == pytest.approx(expected)
        absent = report["per_class"]["c"]
        assert (absent["average_precision"], absent["recall"], absent["count"]) == (None, None, 0)
        assert absent["precision"] == 0  # it was answered, and wrongly


def test_a_model_stays_in_its_mode_and_the_preparation_is_named() -> None:
    model = Bright().train()
    report = evaluate(model, Made(), PLAIN, batch=3)
    assert model.training
    assert (report["top1"], report["top5"], report["count"]) == (1.0, 1.0, 7)
    assert report["preprocessing"] == PLAIN.describe()


def test_groups_and_real_labels(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("file,group\n" + "\n".join(f"{n}.png,{'odd' if n % 2 else 'even'}" for n in range(7)))
    (tmp_path / "real.json").write_text(json.dumps([[0], [0, 1], [], [1], [1], [2], [0]]))
    report = evaluate(Bright(), Made(), PLAIN, groups=tmp_path / "groups.csv", real=tmp_path / "real.json", workers=0)
    assert report["groups"] == {"even": {"accuracy": 1.0, "count": 4}, "odd": {"accuracy": 1.0, "count": 3}}
    assert report["real_count"] == 6
    assert report["real_top1"] == pytest.approx(5 / 6)  # picture 3 is dark, its list says middle


@pytest.mark.parametrize(
    "text", ["", "file\n1.png", "file,group\n1.png,a\n1.png,b", "file,group\n0.png,", "file,group\n0.png,a", "\x00"]
)
def test_wrong_group_tables(tmp_path: Path, text: str) -> None:
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(DatasetError, match=r"groups\.csv"):
        read_groups(tmp_path / "groups.csv", Made())


@pytest.mark.parametrize("text", ["", "{}", "[[1e999]]", "[" * 999, "[[" + "9" * 5000 + "]]", "[1, 2]", "[[0]]", '[["a"]]'])
def test_wrong_real_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "real.json").write_text(text)
    with pytest.raises(DatasetError, match=r"real\.json"):
        read_real(tmp_path / "real.json", Made())


def test_no_picture_is_an_error() -> None:
    with pytest.raises(DatasetError, match="empty"):
        ClassificationEvaluation(["a"]).compute()


def test_two_processes_evaluate_seven_as_seven(tmp_path: Path) -> None:
    code = (
        "from tests.test_evaluation import Bright, Made, PLAIN;"
        "from swinkit.tasks.classify.metric import evaluate_classifier as evaluate;"
        "report = evaluate(Bright(), Made(), PLAIN, batch=2)"
    )
    reports = in_two_processes(code, tmp_path)
    assert reports[0] == reports[1]
    assert (reports[0]["count"], reports[0]["top1"]) == (7, 1.0)


def _facts() -> RunFacts:
    return RunFacts(
        name="x",
        description="A test.",
        preprocessing="squashed",
        dataset="made",
        recipe="epochs: 1",
        data=["seven pictures"],
        metrics={"top1": 0.5},
        intended=["tests"],
        out_of_scope=["all else"],
        limits=["many"],
        licences={"code": "apache-2.0", "weights": None, "data": None},
        pipeline="image-classification",
        unknown={"carbon_kg": "no country was given"},
    )


def test_a_card_is_valid_and_says_why_it_does_not_know() -> None:
    text = run_card(_facts())
    validate_card(text)
    assert "Carbon: unknown, because no country was given" in text
    assert "weights: unknown, because" in text


def test_a_short_run_has_a_duration() -> None:
    short = run_card(dataclasses.replace(_facts(), seconds=9.4))
    assert "duration: 0.00261 hours" in short


def test_the_head_of_a_card_names_its_task() -> None:
    facts = _facts()
    facts.pipeline, facts.use, facts.licences["weights"] = Segment.pipeline, Segment.use, "cc-by-nc-4.0"
    text = run_card(facts)
    assert "pipeline_tag: image-segmentation" in text
    assert "license: cc-by-nc-4.0" in text
    assert 'print(predictor.predict("photo.jpg").areas)' in text


@pytest.mark.parametrize("section", SECTIONS)
def test_a_card_without_a_section_is_refused(section: str) -> None:
    text = run_card(_facts()).replace(f"\n## {section}\n", f"\n### {section}\n")
    with pytest.raises(InputError, match=section):
        validate_card(text)


@pytest.mark.parametrize("change", [("---\n", ""), ("license:", "licens:"), ("A test.", "More Information Needed")])
def test_a_bad_card_is_refused(change: tuple[str, str]) -> None:
    with pytest.raises(InputError):
        validate_card(run_card(_facts()).replace(*change))


def test_the_meter_measures_or_says_why_not() -> None:
    with EnergyMeter() as meter:
        sum(range(100_000))
    assert meter.kilowatt_hours is not None or meter.reason
    assert meter.carbon_kg is not None or meter.reason
