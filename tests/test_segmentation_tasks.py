"""A segmenter through the same loop: schedules and decays of the originals, a run on made-up scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import swinkit
from swinkit import weights
from swinkit.tasks.recipes import parse_recipe
from swinkit.tasks.segment.data import open_segmentation
from swinkit.tasks.segment.work import median_frequency
from swinkit.training.schedule import decays, rate_at

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "seg"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs ../shared/fixtures/seg, which is not in the repository")
PLAN = {
    "task": "segment",
    "iterations": 160_000,
    "batch_size": 16,
    "optimiser": {"learning_rate": 6e-5, "rate_batch": 16, "weight_decay": 0.01, "no_decay": "norms"},
    "schedule": {"kind": "poly", "warmup_steps": 1500, "warmup_rate": 6e-11, "minimum_rate": 0.0},
}


@needs_fixtures
@pytest.mark.parametrize(("rule", "over"), [("1.x", False), ("2.x", True)])
def test_rates_are_those_of_both_generations(rule: str, over: bool) -> None:
    stored = json.loads((FIXTURES / "recipe.json").read_text())["lr_at_iteration"]
    rates = next(values for name, values in stored.items() if name.startswith(rule))
    plan = parse_recipe({**PLAN, "schedule": {**PLAN["schedule"], "warmup_over_decay": over}}, "test")  # type: ignore[dict-item]
    for step, expected in rates.items():
        assert rate_at(int(step), 160_000, 1263, plan) == pytest.approx(expected, rel=1e-6, abs=1e-16), step


@needs_fixtures
def test_the_authors_decay_biases_and_the_heads_norms() -> None:
    stored = json.loads((FIXTURES / "recipe.json").read_text())["weight_decay_of_mmseg_names"]
    plan = parse_recipe(PLAN, "test")
    model = swinkit.create_model(
        "upernet", 3, backbone="swin_tiny", embed_dim=16, num_heads=(1, 2, 4, 8), channels=8, auxiliary_channels=8
    )
    ours = {True: 0, False: 0}
    for name, parameter in model.named_parameters():
        ours[decays(name, parameter, plan)] += 1
    theirs = {True: sum(v > 0 for v in stored.values()), False: sum(v == 0 for v in stored.values())}
    if len(stored) == sum(ours.values()):  # the same network: count for count
        assert ours == theirs
    for name, expected in (
        ("backbone.layers.0.blocks.0.norm1.weight", False),
        ("backbone.layers.0.blocks.0.attn.qkv.bias", True),
        ("backbone.layers.0.blocks.0.attn.relative_position_bias_table", False),
        ("backbone.patch_embed.norm.weight", False),
        ("backbone.norm2.bias", False),
        ("decode_head.fuse.norm.weight", True),
        ("decode_head.classifier.bias", True),
        ("auxiliary_head.convs.0.norm.bias", True),
    ):
        assert decays(name, model.get_parameter(name), plan) == expected, name


def scenes(root: Path, count: int = 6) -> Path:
    """Red squares on grey (class 1) with a green edge (class 2); the right third is void."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for number in range(count):
            picture = np.full((40, 60, 3), 110, np.uint8)
            values = np.zeros((40, 60), np.uint8)
            top, left = int(rng.integers(0, 20)), int(rng.integers(0, 20))
            picture[top : top + 16, left : left + 16], values[top : top + 16, left : left + 16] = (220, 40, 40), 1
            picture[:4], values[:4] = (40, 200, 60), 2
            values[:, 45:] = 9
            for kind, array in (("images", picture), ("masks", values)):
                (root / part / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / part / kind / f"{number}.png")
    return root


RUN = [
    "epochs=8",
    "batch_size=2",
    "workers=0",
    "precision=fp32",
    "model=swin_nano",
    "from_scratch=true",
    "optimiser.learning_rate=3e-3",
    "optimiser.rate_batch=2",
    "schedule.warmup_epochs=0",
    "scene.crop=[32, 32]",
    "scene.distort=false",
    "decoder.channels=16",
    "data.classes=[ground, square, edge]",
    "data.void=[9]",
    "test.resize=native",
]


def test_a_run_learns_made_up_scenes_and_comes_back(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("task: segment\n")
    folder = swinkit.train(str(recipe), scenes(tmp_path / "data"), None, tmp_path / "run", RUN)
    rows = (folder / "results.csv").read_text().splitlines()
    assert len(rows) == 9
    names = rows[0].split(",")
    assert float(rows[-1].split(",")[names.index("mIoU")]) > 0.45  # the ground alone gives 0.24
    assert all(float(row.split(",")[names.index("validation_loss")]) > 0 for row in rows[1:])
    pictures = ("curves.png", "confusion_matrix.png", "train_batch.jpg", "validation.jpg")
    for name in (*pictures, "README.md", "weights/best.safetensors"):
        assert (folder / name).stat().st_size > 0
    checkpoint = weights.load_checkpoint(folder / "weights" / "last.safetensors")
    assert checkpoint.spec.task == "segment"
    assert checkpoint.spec.labels == ("ground", "square", "edge")
    assert checkpoint.spec.masks is not None
    assert checkpoint.spec.masks.void == (9,)
    assert checkpoint.spec.decoder is not None
    assert checkpoint.spec.decoder.channels == 16


def test_a_run_with_batch_one_dice_and_class_weights(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("task: segment\nloss: {dice: 1.0, divide: all}\nclass_weights: balanced\n")
    changes = [*RUN, "epochs=1", "batch_size=1", "decoder.kind=unet", "ema_decay=0.9"]
    folder = swinkit.train(str(recipe), scenes(tmp_path / "data", 3), None, tmp_path / "run", changes)
    assert (folder / "weights" / "best.safetensors").is_file()


def test_runs_of_a_number_of_steps_end_there(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("task: segment\n")
    folder = swinkit.train(str(recipe), scenes(tmp_path / "data"), None, tmp_path / "run", [*RUN, "iterations=4"])
    rows = (folder / "results.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["3", "4"]  # an epoch of 3 steps, and the last step


def test_the_seed_decides_the_first_weights_too(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("task: segment\n")
    scenes(tmp_path / "data", 2)
    found = []
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        torch.rand(len(name))  # what a process did before must not count
        changes = [*RUN, "iterations=1", f"seed={seed}"]
        folder = swinkit.train(str(recipe), tmp_path / "data", None, tmp_path / name, changes)
        found.append(weights.load_checkpoint(folder / "weights" / "last.safetensors").tensors["layers.0.blocks.0.mlp.fc1.weight"])
    assert torch.equal(found[0], found[1])
    assert (found[0] - found[2]).abs().max() > 0.02  # a step of 3e-3 alone would not do that


def test_median_frequencies_are_those_of_a_count(tmp_path: Path) -> None:
    data = open_segmentation(scenes(tmp_path), "train", ("ground", "square", "edge"), swinkit.specs.MaskRules((9,)))
    counts = sum(np.bincount(data.mask(i).ravel(), minlength=256)[:3] for i in range(len(data)))
    frequency = counts / (len(data) * 40 * 60)
    torch.testing.assert_close(
        median_frequency(data), torch.tensor(np.median(frequency) / frequency, dtype=torch.float32), rtol=1e-5, atol=0
    )


def test_a_segmenters_classifier_follows_the_names_of_its_classes(tmp_path: Path) -> None:
    data, recipe = scenes(tmp_path / "data", 2), tmp_path / "own.yaml"
    recipe.write_text("task: segment\n")
    first = swinkit.train(str(recipe), data, None, tmp_path / "first", [*RUN, "epochs=1"])
    rows = weights.load_checkpoint(first).tensors["decode_head.classifier.weight"]
    own = ("model", "from_scratch", "data.classes", "optimiser.learning_rate")
    still = [change for change in RUN if not change.startswith(own)]
    still += ["epochs=1", "optimiser.learning_rate=1e-12", "optimiser.weight_decay=0"]
    for number, (names, kept) in enumerate({"edge, ground, square": [2, 0, 1], "road, sky, car": None}.items()):
        changes = [*still, f"data.classes=[{names}]"]
        second = swinkit.train(str(recipe), data, str(first), tmp_path / str(number), changes)
        found = weights.load_checkpoint(second).tensors["decode_head.classifier.weight"]
        if kept is not None:
            torch.testing.assert_close(found, rows[kept], atol=1e-6, rtol=0)
        else:
            assert float((found - rows).abs().max()) > 1e-3
