"""The commands, through ``swinkit.cli.main``: what they print, write and answer; a few through a real process."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import swinkit
from swinkit import weights
from swinkit.cli import main
from swinkit.embedded import DEFAULT, EMBEDDED, Embedded, embedded_names
from swinkit.models.classifier import SwinClassifier
from swinkit.models.variants import parameter_count
from swinkit.specs import ModelSpec, Preprocessing, Variant

ROOT = Path(__file__).resolve().parents[1]
SHAPE = Variant(embed_dim=12, depths=(1, 1), num_heads=(2, 4), window_size=4, img_size=32, num_classes=3, drop_path=0)
LABELS = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny classifier that tells red, green and blue pictures apart by construction of its head."""
    torch.manual_seed(1)
    spec = ModelSpec(SHAPE, Preprocessing(size=(32, 32)), labels=LABELS, name="tiny", facts={"licence": "CC0"})
    network = SwinClassifier(SHAPE).eval()
    with torch.no_grad():
        images = torch.zeros(3, 3, 32, 32)
        for place in range(3):
            images[place, place] = 2.0
        features = network.pooled_features(images)
        network.head.weight.copy_(20 * (features - features.mean(0)))
        network.head.bias.copy_(-(network.head.weight * features.mean(0)).sum(1))
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    weights.save_native(path, network.state_dict(), spec)
    return str(path)


def picture(place: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[..., place] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, a broken one, a text file and a hidden file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, label in enumerate(LABELS):
        picture(place).save(folder / f"{label}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (folder / "notes.txt").write_text("x")
    (folder / "._ant.png").write_bytes(b"x")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """val/<class>: four ants of which one is painted as a bee, two cats."""
    for label, places in {"ant": (0, 0, 0, 1), "cat": (2, 2)}.items():
        folder = tmp_path / "data" / "val" / label
        folder.mkdir(parents=True)
        for number, place in enumerate(places):
            picture(place).save(folder / f"{number}.png")
    return tmp_path / "data"


# --- predict


def test_predict_shows_bars_counts_and_names_the_broken(model: str, photos: Path, capsys) -> None:
    assert main(["predict", str(photos), "--model", model, "--top", "2", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    blocks = [line for line in out.splitlines() if line.startswith("  ")]
    assert len(blocks) == 3 * 2
    for label, best in zip(LABELS, blocks[::2], strict=True):
        assert best.split()[0] == label
        assert best.endswith("%")
    assert "broken.jpg" in err
    summary = out.splitlines()[-1]
    assert summary.startswith("classified 3 of 4 images in ")
    assert "1 could not be read" in summary
    assert "passed over 2 other files: " in summary
    assert "1 .txt" in summary
    assert "1 hidden" in summary
    assert "Traceback" not in err


def test_predict_writes_json_and_csv(model: str, photos: Path, tmp_path: Path, capsys) -> None:
    as_json, as_csv = tmp_path / "new" / "a.json", tmp_path / "b.csv"
    words = ["predict", str(photos), "--model", model, "--json", str(as_json), "--csv", str(as_csv)]
    assert main(words) == 0
    results = json.loads(as_json.read_text())
    assert [Path(result["source"]).name for result in results] == ["ant.png", "bee.png", "broken.jpg", "cat.png"]
    for result in results:
        if "broken" in result["source"]:
            assert result["predictions"] == []
            assert "broken.jpg" in result["error"]
            continue
        assert result["error"] is None
        assert result["predictions"][0]["label"] == Path(result["source"]).stem
        assert sum(p["probability"] for p in result["predictions"]) == pytest.approx(1, abs=1e-4)
    with as_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 3 + 1
    assert [row["label"] for row in rows if row["rank"] == "1"] == list(LABELS)
    assert [row["error"] != "" for row in rows] == [row["source"].endswith("broken.jpg") for row in rows]
    assert f"wrote {as_json} and {as_csv}" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.part"))


def test_json_on_stdout_is_nothing_but_json(model: str, photos: Path, capsys) -> None:
    assert main(["predict", str(photos / "ant.png"), "--model", model, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["predictions"][0]["label"] == "ant"
    assert "classified 1 of 1" in err


def test_many_images_get_a_line_each(model: str, tmp_path: Path, capsys) -> None:
    for number in range(25):
        picture(number % 3).save(tmp_path / f"{number:02}.png")
    assert main(["predict", str(tmp_path), "--model", model, "--batch", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 26
    assert [line.split("  ")[1] for line in lines[:25]] == [LABELS[number % 3] for number in range(25)]


def test_globs_and_named_files(model: str, photos: Path, capsys) -> None:
    assert main(["predict", str(photos / "[ab]*t.png"), str(photos / "cat.png"), "--model", model]) == 0
    assert "classified 2 of 2 images" in capsys.readouterr().out


def test_all_broken_is_a_failure(model: str, photos: Path, capsys) -> None:
    assert main(["predict", str(photos / "broken.jpg"), str(photos / "none.png"), "--model", model]) == 1
    out, err = capsys.readouterr()
    assert "classified 0 of 2" in out
    assert "none.png" in err


def test_a_name_cannot_disturb_the_terminal(model: str, tmp_path: Path, capsys) -> None:
    picture(0).save(tmp_path / "\x1b[2Jcleared.png")
    name = os.fsdecode(os.fsencode(tmp_path) + b"/not-utf8-\xff.png")
    picture(1).save(name)
    table = tmp_path / "a.csv"
    assert main(["predict", str(tmp_path), "--model", model, "--csv", str(table), "--json", str(tmp_path / "a.json")]) == 0
    out, _ = capsys.readouterr()
    assert "\x1b" not in out
    assert "cleared.png" in out
    assert b"not-utf8-\xff.png" in table.read_bytes()
    assert {result["source"] for result in json.loads((tmp_path / "a.json").read_text())} == {
        str(tmp_path / "\x1b[2Jcleared.png"),
        name,
    }


# --- evaluate


def test_evaluate_matches_classes_by_name(model: str, dataset: Path, tmp_path: Path, capsys) -> None:
    report_file = tmp_path / "report.json"
    assert main(["evaluate", model, "--data", str(dataset), "--json", str(report_file), "--device", "cpu"]) == 0
    report = json.loads(report_file.read_text())
    assert report["top1"] == pytest.approx(5 / 6, abs=1e-6)
    assert report["count"] == 6
    assert 0 <= report["ece"] <= 1
    assert report["top5"] >= report["top1"]
    assert report["per_class"]["ant"]["accuracy"] == pytest.approx(0.75, abs=1e-6)
    assert report["per_class"]["ant"]["count"] == 4
    assert report["per_class"]["cat"]["accuracy"] == pytest.approx(1.0)
    assert "squashed to 32x32" in json.dumps(report)
    out = capsys.readouterr().out
    assert "83.3" in out
    assert "squashed to 32x32" in out


def test_evaluate_names_the_mistakes(model: str, dataset: Path, tmp_path: Path, capsys) -> None:
    as_json, as_csv = tmp_path / "r.json", tmp_path / "m.csv"
    words = ["evaluate", model, "--data", str(dataset), "--json", str(as_json), "--mistakes", str(as_csv)]
    assert main(words) == 0
    report = json.loads(as_json.read_text())
    (wrong,) = report["mistakes"]
    assert wrong["file"].endswith("3.png")  # the ant that is painted as a bee
    assert (wrong["truth"], wrong["answer"]) == ("ant", "bee")
    assert (report["per_class"]["ant"]["precision"], report["per_class"]["ant"]["recall"]) == (1.0, 0.75)
    with as_csv.open(newline="") as file:
        assert list(csv.DictReader(file)) == [{name: str(value) for name, value in wrong.items()}]
    out = capsys.readouterr().out
    assert "1 wrong answers:" in out
    assert "-> bee" in out
    assert "macro f1" in out
    assert main([*words[:-4], "--json", "-", "--mistakes", "-"]) == 1
    assert "cannot share stdout" in capsys.readouterr().err


def test_evaluate_refuses_other_classes(model: str, dataset: Path, capsys) -> None:
    (dataset / "val" / "cat").rename(dataset / "val" / "zebra")
    assert main(["evaluate", model, "--data", str(dataset)]) == 1
    assert "'zebra'" in capsys.readouterr().err


def test_evaluate_takes_all_of_a_set_without_parts(model: str, dataset: Path, tmp_path: Path, capsys) -> None:
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (dataset / "val").rglob("*.png"):
            file.write(path, path.relative_to(dataset / "val"))
    table = dataset / "val" / "all.csv"
    table.write_text("file,label\nant/0.png,ant\ncat/0.png,cat\n")
    for data, count in ((archive, 6), (dataset / "val", 6), (table, 2)):
        assert main(["evaluate", model, "--data", str(data), "--json", "-"]) == 0, data
        assert json.loads(capsys.readouterr().out)["count"] == count
    # Pictures that were trained on are no validation.
    (dataset / "val").rename(dataset / "train")
    assert main(["evaluate", model, "--data", str(dataset)]) == 1
    assert "only train" in capsys.readouterr().err


def test_evaluate_with_several_labels_a_picture(model: str, dataset: Path, tmp_path: Path, capsys) -> None:
    several = str(tmp_path / "several.safetensors")
    start = weights.load_checkpoint(model)
    weights.save_native(several, start.tensors, start.spec.changed(multi_label=True))
    table = dataset / "all.csv"
    rows = [f"val/{label}/0.png,{label};bee" for label in ("ant", "cat")]
    table.write_text("\n".join(["file,labels", *rows]))
    groups = tmp_path / "groups.csv"
    groups.write_text("file,group\n" + "\n".join(f"{row.split(',')[0]},x" for row in rows))

    assert main(["evaluate", several, "--data", str(table)]) == 0
    out = capsys.readouterr().out
    assert "mAP" in out
    assert "f1_macro" in out
    assert main(["evaluate", several, "--data", str(dataset), "--json", "-"]) == 0  # one label is a list of one
    assert json.loads(capsys.readouterr().out)["count"] == 6
    for source, data, further, sentence in (
        (model, table, [], "several labels each, this model gives one"),
        (several, table, ["--groups", str(groups)], "several labels a picture"),
    ):
        assert main(["evaluate", source, "--data", str(data), *further]) == 1
        err = capsys.readouterr().err
        assert sentence in err
        assert "internal" not in err


def test_evaluate_shows_the_real_labels_figure(model: str, dataset: Path, tmp_path: Path, capsys) -> None:
    for path in sorted((dataset / "val" / "cat").iterdir()):
        path.rename(path.with_name(f"9{path.name}"))  # the list goes by names of files, so each has its own
    (tmp_path / "real.json").write_text(json.dumps([[0], [0], [0], [0, 1], [2], [2]]))
    assert main(["evaluate", model, "--data", str(dataset), "--real", str(tmp_path / "real.json")]) == 0
    assert "real_top1" in capsys.readouterr().out


# --- convert, info, models, recipes, check-data


@pytest.mark.parametrize("dialect", ["official", "timm", "hf"])
def test_convert_keeps_the_answer(model: str, photos: Path, tmp_path: Path, dialect: str, capsys) -> None:
    dest = tmp_path / ("there" if dialect == "hf" else "there.safetensors")
    assert main(["convert", model, str(dest), "--to", dialect]) == 0
    assert f"wrote {dest}" in capsys.readouterr().out
    assert main(["predict", str(photos / "bee.png"), "--model", str(dest), "--json", "-"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    if dialect == "hf":
        assert result["predictions"][0]["label"] == "bee"
    assert result["predictions"][0]["index"] == 1


@pytest.mark.parametrize("dialect", ["official", "torchvision"])
def test_convert_says_what_a_pth_cannot_hold(model: str, photos: Path, tmp_path: Path, dialect: str, capsys) -> None:
    dest = tmp_path / "there.pth"
    assert main(["convert", model, str(dest), "--to", dialect]) == 0
    assert "class names and the preparation of photos stayed behind" in capsys.readouterr().out
    # What is assumed instead follows the network's size.
    size = weights.load_checkpoint(dest).spec.preprocessing
    assert size.size == (32, 32)
    assert 32 <= size.resize_to <= 37


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_called_as_the_user_did(model: str, photos: Path, dataset: Path, capsys) -> None:
    for words in (["predict", str(photos / "bee.png"), "--model", model], ["evaluate", model, "--data", str(dataset)]):
        assert main([*words, "--device", "cuda"]) == 1
        assert "'cuda' is not there" in capsys.readouterr().err


def test_convert_overwrites_nothing(model: str, tmp_path: Path, capsys) -> None:
    file = tmp_path / "mine.pth"
    file.write_bytes(b"precious")
    assert main(["convert", model, str(file), "--to", "timm"]) == 1
    assert file.read_bytes() == b"precious"
    assert main(["convert", model, str(tmp_path), "--to", "hf"]) == 1
    assert "exists already" in (err := capsys.readouterr().err)
    assert "files in it" in err


def test_info_names_the_facts(model: str, capsys) -> None:
    assert main(["info", model]) == 0
    out = capsys.readouterr().out
    for fact in ("Swin V1", f"{parameter_count(SHAPE):,}", "ant, bee, cat", "squashed to 32x32", "sha256", "CC0"):
        assert fact in out
    size = Path(model).stat().st_size
    assert f"{size:,} bytes" in out


def test_info_of_a_run_counts_the_weights_alone(model: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "weights").mkdir()
    best = tmp_path / "weights" / "best.safetensors"
    best.write_bytes(Path(model).read_bytes())
    (tmp_path / "state.safetensors").write_bytes(b"x" * 12345)  # what resuming needs
    assert main(["info", str(tmp_path)]) == 0
    assert f"{best.stat().st_size:,} bytes" in capsys.readouterr().out


def test_info_fingerprint_follows_the_weights(model: str, tmp_path: Path, capsys) -> None:
    def fingerprint(path: str) -> str:
        assert main(["info", path]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if "sha256" in line)

    checkpoint = weights.load_checkpoint(model)
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    weights.save_native(same, checkpoint.tensors, checkpoint.spec.changed(name="other name"))
    checkpoint.tensors["head.bias"] = checkpoint.tensors["head.bias"] + 1e-3
    weights.save_native(other, checkpoint.tensors, checkpoint.spec)
    assert fingerprint(str(same)) == fingerprint(model) != fingerprint(str(other))


def test_models_as_json(capsys) -> None:
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    further = [name for name in embedded_names() if name != DEFAULT]
    assert [row["name"] for row in rows] == [*swinkit.list_models(), *further]
    for row in rows:
        assert {"name", "task", "embedded", "licence", "params", "gflops", "aliases"} <= set(row)
        assert (row["licence"] is not None) == row["embedded"]
        if row["published_params"]:
            assert row["params"] == pytest.approx(row["published_params"], rel=0.01)
        if row["published_gflops"]:
            assert row["gflops"] == pytest.approx(row["published_gflops"], rel=0.01)
    assert sum(row["embedded"] for row in rows) == len(embedded_names())


def test_the_embedded_model_loads_by_its_name(capsys, embedded: str) -> None:
    assert main(["models", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out) if row["embedded"]]
    assert names
    for name in names:
        assert main(["info", name]) == 0


def test_an_embedded_segmenter_is_listed_with_its_licence(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    network = swinkit.create_model("upernet", 3, backbone="swin_nano", channels=8, auxiliary_channels=0)
    variant = network.backbone.variant.changed(num_classes=3)
    facts = {"metrics": {"mIoU": 0.5}}
    preprocessing = Preprocessing((48, 64), "box")
    spec = ModelSpec(variant, preprocessing, ("a", "b", "c"), "segment", "s", facts=facts, decoder=network.decoder)
    weights.save_native(tmp_path / "s.safetensors", network.state_dict(), spec)
    monkeypatch.setitem(EMBEDDED, "swin-nano-camvid", Embedded(str(tmp_path / "s.safetensors"), "camvid", "CC-BY-NC-4.0"))
    assert main(["models", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[-1]
    assert (row["name"], row["licence"], row["miou"]) == ("swin-nano-camvid", "CC-BY-NC-4.0", 50.0)
    assert row["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert main(["models"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("CC-BY-NC-4.0")
    assert main(["info", "swin-nano-camvid"]) == 0
    capsys.readouterr()
    monkeypatch.setitem(EMBEDDED, "swin-nano-camvid", Embedded("absent.safetensors", "camvid", "CC-BY-NC-4.0"))
    assert main(["models"]) == 0
    assert "swin-nano-camvid" not in capsys.readouterr().out
    assert main(["info", "swin-nano-camvid"]) == 1
    assert "swinkit train camvid" in capsys.readouterr().err


def test_models_as_a_table(capsys) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len({*swinkit.list_models(), *embedded_names()} - {DEFAULT})
    (small,) = [line for line in lines if line.startswith("swin_small_patch4_window7_224 ")]
    assert "49.606" in small
    assert "83.2" in small


def test_recipes_have_a_purpose(capsys) -> None:
    pytest.importorskip("pydantic")
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {path.stem for path in (ROOT / "src" / "swinkit" / "recipes").glob("*.yaml")}
    assert {line.split()[0] for line in lines} == names
    assert all(len(line.split(maxsplit=1)[1]) > 10 for line in lines)


def test_check_data_reports_and_fails_on_broken_pictures(dataset: Path, tmp_path: Path, capsys) -> None:
    (dataset / "val" / "ant" / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    report = tmp_path / "r.json"
    assert main(["check-data", str(dataset), "--json", str(report)]) == 1
    assert "bad.jpg" in json.dumps(json.loads(report.read_text())["fatal"])
    assert "bad.jpg" in capsys.readouterr().out


# --- hostile calls: each gets its sentence


def folder_of_text(tmp: Path) -> str:
    (tmp / "texts").mkdir()
    (tmp / "texts" / "a.txt").write_text("x")
    return str(tmp / "texts")


def plain_file(tmp: Path) -> str:
    (tmp / "file.txt").write_text("x")
    return str(tmp / "file.txt")


def empty(tmp: Path, name: str) -> str:
    (tmp / name).touch()
    return str(tmp / name)


def a_photo(tmp: Path) -> str:
    picture(0).save(tmp / "photo.png")
    return str(tmp / "photo.png")


HOSTILE = {
    "no such photo": (lambda t, m: ["predict", str(t / "no.jpg"), "--model", m], 1, "no.jpg: does not exist"),
    "a name too long": (lambda t, m: ["predict", "x" * 5000, "--model", m], 1, "xxx"),
    "an empty folder": (lambda t, m: ["predict", str(t), "--model", m], 1, "no images found"),
    "only texts": (lambda t, m: ["predict", folder_of_text(t), "--model", m], 1, "1 .txt"),
    "an empty photo": (lambda t, m: ["predict", empty(t, "e.jpg"), "--model", m], 1, "empty"),
    "a glob without matches": (lambda t, m: ["predict", str(t / "*.jpg"), "--model", m], 1, "*.jpg"),
    "no paths": (lambda t, m: ["predict"], 2, "PATHS"),
    "top 0": (lambda t, m: ["predict", a_photo(t), "--top", "0"], 2, "--top"),
    "top of words": (lambda t, m: ["predict", a_photo(t), "--top", "many"], 2, "--top"),
    "batch 0": (lambda t, m: ["predict", a_photo(t), "--batch", "0"], 2, "--batch"),
    "unknown device": (lambda t, m: ["predict", a_photo(t), "--device", "gpu"], 2, "--device"),
    "misspelt option": (lambda t, m: ["predict", a_photo(t), "--modell", m], 2, "--model"),
    "misspelt command": (lambda t, m: ["predikt", a_photo(t)], 2, "predict"),
    "unknown model": (lambda t, m: ["predict", a_photo(t), "--model", "swin_smal"], 1, "swin_smal"),
    "a model of text": (lambda t, m: ["predict", a_photo(t), "--model", plain_file(t)], 1, "file.txt"),
    "an empty model": (lambda t, m: ["predict", a_photo(t), "--model", empty(t, "m.safetensors")], 1, "m.safetensors"),
    "an empty pickle": (lambda t, m: ["predict", a_photo(t), "--model", empty(t, "m.pth")], 1, "m.pth"),
    "model is an empty folder": (lambda t, m: ["predict", a_photo(t), "--model", str(t)], 1, ""),
    "json below a file": (
        lambda t, m: ["predict", a_photo(t), "--model", m, "--json", plain_file(t) + "/o.json"],
        1,
        "cannot be written",
    ),
    "json is a folder": (lambda t, m: ["predict", a_photo(t), "--model", m, "--json", str(t)], 1, "no regular file"),
    "json is a device": (
        lambda t, m: ["predict", a_photo(t), "--model", m, "--json", "/dev/null"],
        1,
        "no regular file",
    ),
    "two files on stdout": (
        lambda t, m: ["predict", a_photo(t), "--model", m, "--json", "-", "--csv", "-"],
        1,
        "cannot share stdout",
    ),
    "info on nothing": (lambda t, m: ["info", str(t / "no.pth")], 1, "no.pth"),
    "info on a photo": (lambda t, m: ["info", a_photo(t)], 1, "photo.png"),
    "convert without dialect": (lambda t, m: ["convert", m, str(t / "o.pth")], 2, "--to"),
    "convert to nowhere": (lambda t, m: ["convert", m, str(t / "o.pth"), "--to", "mmdet"], 2, "--to"),
    "convert below a file": (lambda t, m: ["convert", m, plain_file(t) + "/o.pth", "--to", "timm"], 1, "file.txt"),
    "check no data": (lambda t, m: ["check-data", str(t / "none")], 1, "none"),
    "check an empty folder": (lambda t, m: ["check-data", str(t)], 1, "no picture found"),
    "evaluate no data": (lambda t, m: ["evaluate", m, "--data", str(t / "none")], 1, "none"),
    "evaluate another split": (lambda t, m: ["evaluate", m, "--data", str(t), "--split", "vall"], 1, "vall"),
    "train an unknown recipe": (lambda t, m: ["train", "finetun", "--data", str(t)], 1, "did you mean 'finetune'"),
    "train an unknown key": (
        lambda t, m: ["train", "finetune", "--data", str(t), "--set", "epoch=3"],
        1,
        "did you mean 'epochs'",
    ),
    "train without data": (lambda t, m: ["train", "finetune"], 2, "--data"),
    "train on nothing": (
        lambda t, m: ["train", "finetune", "--data", str(t / "none"), "--out", str(t / "r")],
        1,
        "none",
    ),
    "resume nothing": (
        lambda t, m: ["train", "finetune", "--data", str(t), "--out", str(t / "r"), "--resume"],
        1,
        "",
    ),
    "models with an argument": (lambda t, m: ["models", "swin"], 2, "swin"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_calls_get_a_sentence(case: str, tmp_path: Path, model: str, capsys) -> None:
    words, code, part = HOSTILE[case]
    if case.startswith(("train", "resume")):
        pytest.importorskip("pydantic")
    line = words(tmp_path, model)
    before = sorted(tmp_path.rglob("*"))
    assert main(line) == code
    err = capsys.readouterr().err
    assert part in err
    assert "Traceback" not in err
    assert "internal error" not in err
    assert err.strip()
    if code == 1:
        assert len(err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before, "something was left behind"


def test_a_huge_top_gives_all_classes(model: str, photos: Path, capsys) -> None:
    assert main(["predict", str(photos / "ant.png"), "--model", model, "--top", "1000000000", "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["predictions"]) == 3


# --- errors


@pytest.mark.parametrize("line", [["--debug", "info", "no.pth"], ["info", "--debug", "no.pth"], ["info", "no.pth", "--debug"]])
def test_debug_anywhere_shows_the_traceback(line: list[str], capsys) -> None:
    assert main(line) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("swinkit: ")


def test_after_two_dashes_debug_is_a_file(model: str, capsys) -> None:
    assert main(["predict", "--model", model, "--", "--debug"]) == 1
    assert "--debug: does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("problem", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ZeroDivisionError("a bug"),
            1,
            "swinkit: internal error: ZeroDivisionError: a bug; run with --debug and report it",
        ),
        (MemoryError(), 1, "out of memory"),
        (OSError(28, "No space left on device", "/there/file"), 1, "swinkit: /there/file: No space left on device"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_unforeseen_ends_are_a_sentence(problem, code, sentence, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def fail(_name: str) -> None:
        raise problem

    monkeypatch.setattr(sys.modules["swinkit.cli.models"], "model_facts", fail)
    assert main(["models"]) == code
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err


def test_help_and_version(capsys) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("predict", "train", "evaluate", "convert", "info", "models", "check-data", "recipes"):
        assert f"  {command} " in out
    assert "--debug" in out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("swinkit ")


# --- real processes


def test_a_closed_pipe_is_no_error(model: str) -> None:
    """``swinkit models | head -1``: the reader goes away early."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from swinkit.cli import main; raise SystemExit(main(['models', '--json']))"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT / "src",
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.wait(timeout=60)


def test_ctrl_c_ends_with_130_and_keeps_the_finished(model: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3000):
        (tmp_path / "in" / f"{number}.png").symlink_to(tmp_path / "a.png")
    picture(0, size=(900, 900)).save(tmp_path / "a.png")
    words = ["predict", str(tmp_path / "in"), "--model", model, "--json", str(tmp_path / "out.json")]
    # A shell's background job ignores the signal, and so would its child.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{heeding}; from swinkit.cli import main; raise SystemExit(main({words!r}))"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT / "src",
        bufsize=0,
    )
    assert process.stdout is not None
    process.stdout.read(1)  # the first answer is there
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().startswith("interrupted: classified ")
    assert 0 < len(json.loads((tmp_path / "out.json").read_text())) < 3000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "in", "out.json"]
