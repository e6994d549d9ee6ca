"""From a folder of pictures to a run: fine-tuning, holding out, SimMIM, several labels, resuming, errors."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import swinkit
from swinkit.errors import DatasetError, RecipeError, RunError
from swinkit.models.classifier import SwinClassifier
from swinkit.runs.card import validate_card
from swinkit.runs.train import train
from swinkit.specs import ModelSpec, Preprocessing, Variant
from swinkit.weights import save_native

VARIANT = Variant(
    embed_dim=16, depths=(2, 2), num_heads=(1, 2), window_size=4, patch_size=2, img_size=16, num_classes=3, drop_path=0
)
QUICK = ["epochs=2", "batch_size=8", "schedule.warmup_epochs=0", "network.min_img_size=16", "precision=fp32"]


@pytest.fixture
def start(tmp_path: Path) -> str:
    path = tmp_path / "start.safetensors"
    spec = ModelSpec(VARIANT, Preprocessing((16, 16)), ("a", "b", "c"), name="start")
    save_native(path, SwinClassifier(VARIANT).state_dict(), spec)
    return str(path)


def _folder(root: Path, parts: tuple[str, ...] = ("train", "val"), count: int = 12) -> Path:
    rng = np.random.default_rng(0)
    for part in parts:
        for colour, name in enumerate(("red", "green")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
                pixels[..., colour] += 180
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def test_finetune_learns_two_colours_and_fills_its_folder(tmp_path: Path, start: str) -> None:
    data = _folder(tmp_path / "data")
    changes = [*QUICK, "epochs=8", "optimiser.learning_rate=2e-3", "optimiser.rate_batch=8", "class_weights=balanced"]
    folder = train("finetune", data, model=start, out=tmp_path / "run", overrides=changes)
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert float(rows[-1]["top1"]) >= 0.95
    for name in ("curves.png", "confusion_matrix.png", "train_batch.jpg"):
        with Image.open(folder / name) as picture:
            assert picture.width > 100
    card = (folder / "README.md").read_text()
    validate_card(card)
    assert "24 pictures" in card
    assert "unknown, because" in card
    predictor = swinkit.load(folder)
    assert predictor.labels == ["green", "red"]
    assert predictor.predict(Image.new("RGB", (50, 40), (220, 20, 20))).top.label == "red"


def test_holds_out_when_there_is_no_validation_part(tmp_path: Path, start: str) -> None:
    data = _folder(tmp_path / "data", parts=("train",)) / "train"
    folder = train("finetune", data, model=start, out=tmp_path / "run", overrides=QUICK)
    assert "20 pictures, validation: 4" in (folder / "README.md").read_text()


def test_frozen_stages_stay_as_they_were(tmp_path: Path, start: str) -> None:
    data = _folder(tmp_path / "data")
    changes = [*QUICK, "network.freeze_stages=1", "network.activation_checkpointing=true"]
    folder = train("finetune", data, model=start, out=tmp_path / "run", overrides=changes)
    before, after = swinkit.load(start).model.state_dict(), swinkit.load(folder).model.state_dict()
    assert torch.equal(before["layers.0.blocks.0.mlp.fc1.weight"], after["layers.0.blocks.0.mlp.fc1.weight"])
    assert not torch.equal(before["layers.1.blocks.0.mlp.fc1.weight"], after["layers.1.blocks.0.mlp.fc1.weight"])


def test_several_labels_a_picture(tmp_path: Path, start: str) -> None:
    root = _folder(tmp_path / "data") / "train"
    names = [f"{colour}/{n}.png" for colour in ("red", "green") for n in range(12)]
    lines = ["file,labels,split"]
    lines += [f"{name},{name.split('/')[0]};thing,{'val' if n % 4 == 0 else 'train'}" for n, name in enumerate(names)]
    (root / "all.csv").write_text("\n".join(lines))
    folder = train("finetune", root / "all.csv", model=start, out=tmp_path / "run", overrides=QUICK)
    predictor = swinkit.load(folder)
    assert predictor.spec.multi_label
    assert predictor.labels == ["green", "red", "thing"]
    assert "mAP" in (folder / "results.csv").read_text()


@pytest.mark.parametrize("version", [1, 2])
def test_simmim_then_finetuning(tmp_path: Path, version: int) -> None:
    data = _folder(tmp_path / "data")
    name = "swin_nano" if version == 1 else "swinv2_tiny"
    changes = [*QUICK, f"model={name}", "network.img_size=32", "network.window_size=4", "masking.cell=8"]
    changes += ["schedule.milestones=[1]", "masking.normalise_targets=7", "evaluate_every=1"]
    if version == 2:
        pytest.importorskip("timm")
        changes += ["masking.cell=32", "network.img_size=64", "epochs=1"]
    folder = train("simmim_swin_base", data, out=tmp_path / "pre", overrides=changes)
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert float(rows[-1]["negative_loss"]) < 0
    pretrained = str(folder / "weights" / "last.safetensors")
    tuned = train("finetune", data, model=pretrained, out=tmp_path / "fine", overrides=[*QUICK, "epochs=1"])
    assert swinkit.load(tuned).labels == ["green", "red"]


def test_resume_needs_a_run_and_the_same_recipe(tmp_path: Path, start: str) -> None:
    data = _folder(tmp_path / "data")
    with pytest.raises(RunError, match="--out"):
        train("finetune", data, model=start, resume=True)
    with pytest.raises(RunError, match="resume"):
        train("finetune", data, model=start, out=tmp_path / "none", resume=True)
    folder = train("finetune", data, model=start, out=tmp_path / "run", overrides=QUICK)
    with pytest.raises(RunError, match="holds a run already"):
        train("finetune", data, model=start, out=folder, overrides=QUICK)
    assert train("finetune", data, out=folder, resume=True) == folder
    with pytest.raises(RunError, match="seed"):
        train("finetune", data, out=folder, resume=True, overrides=["seed=4"])


def test_broken_pictures_end_a_run_before_it_starts(tmp_path: Path, start: str) -> None:
    data = _folder(tmp_path / "data")
    (data / "train" / "red" / "cut.png").write_bytes((data / "train" / "red" / "0.png").read_bytes()[:200])
    with pytest.raises(DatasetError, match="1 pictures cannot be read .*cut.png"):
        train("finetune", data, model=start, out=tmp_path / "run", overrides=QUICK)
    assert not (tmp_path / "run").exists()


def test_other_classes_in_validation_are_named(tmp_path: Path, start: str) -> None:
    data = _folder(tmp_path / "data")
    (data / "val" / "red").rename(data / "val" / "blue")
    with pytest.raises(DatasetError, match="'blue'"):
        train("finetune", data, model=start, out=tmp_path / "run", overrides=QUICK)


def test_a_recipe_without_a_model_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises((RunError, RecipeError), match="--model"):
        train("simmim_finetune_swin_base", tmp_path)


def test_a_damaged_validation_part_is_no_missing_one(tmp_path: Path, start: str) -> None:
    data = _folder(tmp_path / "data", parts=("train",))
    (data / "val.zip").write_bytes(b"PK damaged")
    with pytest.raises(DatasetError, match=r"val\.zip"):
        train("finetune", data, model=start, out=tmp_path / "run", overrides=QUICK)


def test_a_head_follows_the_names_of_its_classes(tmp_path: Path) -> None:
    data = _folder(tmp_path / "data")
    network, still = SwinClassifier(VARIANT), [*QUICK, "epochs=1", "optimiser.learning_rate=1e-12", "optimiser.weight_decay=0"]
    torch.nn.init.normal_(network.head.weight)
    rows = network.head.weight.detach().clone()
    for labels, expected in (
        (("red", "blue", "green"), rows[[2, 0]]),  # its own rows, in the order of the data
        (("ant", "bee", "cat"), torch.zeros(2, 16 * 2)),
    ):
        path, out = tmp_path / f"{labels[0]}.safetensors", tmp_path / labels[0]
        save_native(path, network.state_dict(), ModelSpec(VARIANT, Preprocessing((16, 16)), labels))
        folder = train("finetune", data, model=str(path), out=out, overrides=still)
        torch.testing.assert_close(swinkit.load(folder).model.head.weight, expected, atol=1e-6, rtol=0)
    # As many classes are not the same classes.
    two, same = VARIANT.changed(num_classes=2), tmp_path / "two.safetensors"
    network = SwinClassifier(two)
    torch.nn.init.normal_(network.head.weight)
    save_native(same, network.state_dict(), ModelSpec(two, Preprocessing((16, 16)), ("ant", "bee")))
    folder = train("finetune", data, model=str(same), out=tmp_path / "other", overrides=still)
    assert float(swinkit.load(folder).model.head.weight.detach().abs().max()) < 1e-6


def test_a_grey_network_trains_on_grey_pictures(tmp_path: Path) -> None:
    data = _folder(tmp_path / "data")
    for channels in (1, 5):
        variant, path = VARIANT.changed(in_chans=channels), tmp_path / f"{channels}.safetensors"
        flat = (0.5,) * channels
        spec = ModelSpec(variant, Preprocessing((16, 16), mean=flat, std=flat), ("a", "b", "c"))
        save_native(path, SwinClassifier(variant).state_dict(), spec)
        out = tmp_path / f"run{channels}"
        if channels == 5:
            with pytest.raises(RunError, match="5 channels"):
                train("finetune", data, model=str(path), out=out, overrides=QUICK)
            with pytest.raises(RunError, match="5 channels"):
                train("simmim_swin_base", data, out=tmp_path / "mim", overrides=[*QUICK, f"model={path}", "from_scratch=false"])
        else:
            folder = train("finetune", data, model=str(path), out=out, overrides=QUICK)
            assert swinkit.load(folder).predict(Image.new("RGB", (20, 20))).top.label in ("green", "red")


def test_what_a_person_says_of_licences_is_in_the_card_and_in_the_weights(tmp_path: Path, start: str) -> None:
    data = _folder(tmp_path / "data")
    said = ["licence=mit", "data.licence=CC BY 4.0, by its author"]
    folder = train("finetune", data, model=start, out=tmp_path / "run", overrides=[*QUICK, "epochs=1", *said])
    card = (folder / "README.md").read_text()
    validate_card(card)
    assert "license: mit" in card
    assert "- data: CC BY 4.0, by its author" in card
    assert swinkit.load(folder).spec.facts["licence of weights"] == "mit"
    with pytest.raises(RecipeError, match="licence"):
        train("finetune", data, model=start, out=tmp_path / "two", overrides=[r'licence="a\nb"'])


def test_a_folder_s_name_is_no_markup(tmp_path: Path, start: str, capsys: pytest.CaptureFixture) -> None:
    data = _folder(tmp_path / "data")
    out = tmp_path / "run [bold] [" / "b]"
    train("finetune", data, model=start, out=out, overrides=[*QUICK, "epochs=1"])
    said = capsys.readouterr().err
    assert f"{out}: loaded" in said
    assert "epoch 1/1" in said


def test_class_weights_and_layer_decay_change_what_is_learnt(tmp_path: Path, start: str) -> None:
    from swinkit.data import open_dataset
    from swinkit.tasks.recipes import load_recipe
    from swinkit.tasks.table import TASKS

    data = _folder(tmp_path / "data")
    for number in range(9):
        (data / "train" / "red" / f"{number}.png").unlink()  # 3 red, 12 green
    parts = [open_dataset(data, split) for split in ("train", "val")]
    spec = ModelSpec(VARIANT.changed(num_classes=2), Preprocessing((16, 16)), ("green", "red"))
    losses = {}
    for kind in ("none", "balanced"):
        network = TASKS["classify"].trainable(load_recipe("finetune", [f"class_weights={kind}"]), spec, parts[0])
        losses[kind] = float(network.losses(torch.zeros(2, 2), torch.eye(2))["cross_entropy"])
    # green weighs 15 / (2 * 12), red 15 / (2 * 3)
    assert losses["none"] == pytest.approx(np.log(2))
    assert losses["balanced"] == pytest.approx(np.log(2) * (15 / 24 + 15 / 6) / 2)

    folder = train(
        "finetune", data, model=start, out=tmp_path / "run", overrides=[*QUICK, "epochs=5", "optimiser.layer_decay=0.1"]
    )
    before, after = (swinkit.load(path).model.state_dict() for path in (start, folder / "weights" / "last.safetensors"))
    low, high = "layers.0.blocks.0.mlp.fc1.weight", "layers.1.blocks.1.mlp.fc1.weight"
    moved = {name: float((before[name] - after[name]).abs().max()) for name in (low, high)}
    assert 0 < moved[low] < 0.1 * moved[high]


def test_the_weights_carry_the_run_s_name_and_the_card_what_it_began_from(tmp_path: Path, start: str) -> None:
    folder = train("finetune", _folder(tmp_path / "data"), model=start, out=tmp_path / "flowers", overrides=[*QUICK, "epochs=1"])
    spec = swinkit.load(folder).spec
    assert spec.name == "flowers"
    assert (spec.facts["started_from"], spec.facts["network"]) == (start, "start")
    assert "A Swin Transformer (start)" in (folder / "README.md").read_text()


def test_the_confusion_matrix_is_that_of_the_weights_that_are_kept(tmp_path: Path, start: str, monkeypatch) -> None:
    from swinkit.tasks.classify import work as works

    scores, drawn = iter([0.4, 0.9, 0.2]), []

    def measured(*_: object, **__: object) -> dict:
        score = next(scores)
        return {"top1": score, "loss": 1.0, "confusion": [[score, 0], [0, score]]}

    monkeypatch.setattr(works, "evaluate_classifier", measured)
    monkeypatch.setattr(works, "draw_confusion", lambda matrix, *_: drawn.append(matrix[0][0]))
    folder = train("finetune", _folder(tmp_path / "data"), model=start, out=tmp_path / "run", overrides=[*QUICK, "epochs=3"])
    assert drawn[-1] == 0.9
    assert "| top1 | 0.9000 |" in (folder / "README.md").read_text()
    assert [row["validation_loss"] for row in csv.DictReader((folder / "results.csv").open())] == ["1.0"] * 3


def test_validation_runs_in_full_precision_on_a_cpu_for_every_task() -> None:
    from swinkit.tasks.classify.work import precision_of
    from swinkit.tasks.recipes import load_recipe

    for name in ("finetune", "finetune_segment"):
        assert load_recipe(name).precision == "bf16"
        assert precision_of(load_recipe(name), torch.device("cpu")) is None
        assert precision_of(load_recipe(name), torch.device("cuda")) is torch.bfloat16


def test_the_validation_loss_is_the_mean_cross_entropy(tmp_path: Path, start: str) -> None:
    from swinkit.data import open_dataset
    from swinkit.data.transforms import prepare

    data = _folder(tmp_path / "data")
    folder = train("finetune", data, model=start, out=tmp_path / "run", overrides=[*QUICK, "epochs=1"])
    (row,) = csv.DictReader((folder / "results.csv").open())
    predictor, pictures = swinkit.load(folder), open_dataset(data, "val")
    terms = []
    for index in range(len(pictures)):
        with torch.inference_mode():
            logits = predictor.model(prepare(pictures.read(index), predictor.preprocessing)[None])[0].double()
        terms.append(float(logits.exp().sum().log() - logits[pictures.target(index)]))
    assert float(row["validation_loss"]) == pytest.approx(np.mean(terms), abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_captions_name_labels_and_shares_whatever_the_smoothing(smoothing: float) -> None:
    from swinkit.tasks.classify.mixing import smooth_targets
    from swinkit.tasks.classify.work import _caption, unsmoothed

    labels = ("rose", "tulip", "daisy")
    rows = smooth_targets(torch.tensor([0, 1]), 3, smoothing)
    mixed = torch.stack([rows[0], 0.63 * rows[0] + 0.37 * rows[1]])
    assert [_caption(row, labels) for row in unsmoothed(mixed, smoothing, False)] == ["rose", "rose 63 %\ntulip 37 %"]
    hot = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    several = hot * (1 - smoothing) + smoothing / 2
    assert [_caption(row, labels) for row in unsmoothed(several, smoothing, True)] == ["rose\ndaisy", "none"]


def test_a_run_says_where_it_goes_on_and_what_comes_next(tmp_path: Path, start: str, capfd, monkeypatch) -> None:
    from swinkit.training import checkpoint, log

    monkeypatch.setattr(log, "QUIET_SECONDS", -1.0)  # where there is no terminal, a line each time
    data, out = _folder(tmp_path / "my data"), tmp_path / "run"
    original, calls = checkpoint.save_state, iter(range(100))

    def stop(*args: object) -> None:
        original(*args)
        if next(calls) == 0:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(checkpoint, "save_state", stop)
    with pytest.raises(KeyboardInterrupt):
        train("finetune", data, model=start, out=out, overrides=QUICK)
    said = capfd.readouterr().err
    assert "checking pictures: 12 of 48" in said
    assert "validation: 24 of 24 pictures" in said
    assert "epoch 1/2  step 1 of 6  loss" in said
    assert "stopped after epoch 1 of 2 (step 3 of 6)" in said
    assert f"go on with: swinkit train finetune --data '{data}' --resume --out {out}" in said
    monkeypatch.setattr(checkpoint, "save_state", original)
    train("finetune", data, out=out, resume=True)
    said = capfd.readouterr().err
    assert "going on from epoch 2 of 2, best" in said
    assert "% at epoch" in said
    assert "epoch 2/2  loss" in said
    assert "(validation " in said
    assert "images/s" in said
    assert f"{out}/weights/best.safetensors" in said
    assert f"swinkit evaluate {out} --data '{data}'" in said
    assert f"swinkit predict PHOTOS --model {out}" in said


@pytest.mark.parametrize("part", ["../../../etc", "/etc", "train/../../x"])
def test_parts_stay_below_the_data(tmp_path: Path, start: str, part: str) -> None:
    data = _folder(tmp_path / "data")
    for recipe in ("finetune", "finetune_segment"):
        with pytest.raises(DatasetError, match="leads out of the folder"):
            train(recipe, data, model=start, out=tmp_path / "run", overrides=[*QUICK, f"data.train={part}"])


@pytest.mark.parametrize("changes", [["test.resize=shorter", "test.resize_to=9"], ["network.patch_size=3", "network.img_size=8"]])
def test_values_that_do_not_fit_the_network_are_a_sentence(tmp_path: Path, start: str, changes: list[str]) -> None:
    from swinkit.errors import SwinkitError

    data = _folder(tmp_path / "data")
    with pytest.raises(SwinkitError) as caught:
        train("finetune", data, model=start, out=tmp_path / "run", overrides=[*QUICK, "network.min_img_size=0", *changes])
    assert len(str(caught.value)) < 700


def test_names_of_classes_are_no_markup_in_a_card(tmp_path: Path, start: str) -> None:
    data = _folder(tmp_path / "data")
    for part in ("train", "val"):
        (data / part / "red").rename(data / part / "a|b <script>x `y` [z](http:")
        (data / part / "green").rename(data / part / "$x^$")
    folder = train("finetune", data, model=start, out=tmp_path / "run_#1", overrides=[*QUICK, "epochs=1"])
    card = (folder / "README.md").read_text()
    validate_card(card)
    body = card.split("\n---\n", 1)[1]
    assert r"a\|b \<script\>x \`y\` \[z\](http:" in body
    assert "<script>" not in body.split("## Data")[1].split("## Training")[0]


def test_a_missing_tensorboard_is_called_that(tmp_path: Path, start: str, monkeypatch) -> None:
    import sys

    from swinkit.errors import MissingExtraError

    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard" or name == "torch.utils.tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"this needs tensorboard, .*swinkit\[train\]"):
        train("finetune", _folder(tmp_path / "data"), model=start, out=tmp_path / "run", overrides=QUICK)
