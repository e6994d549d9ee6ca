"""From a photo to its label map: sizes, areas, files, tiles."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import swinkit
from swinkit.cli import main
from swinkit.errors import InputError
from swinkit.models.segmentation import Segmenter
from swinkit.prediction import Predictor
from swinkit.specs import MaskRules, ModelSpec, Preprocessing
from swinkit.tasks.segment.passes import tiled_map
from swinkit.tasks.segment.result import SegmentationResult
from swinkit.weights import save_native

LABELS = ("ground", "sky", "car")


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = swinkit.create_model("upernet", 3, backbone="swin_nano", channels=8, auxiliary_channels=0)
    assert isinstance(model, Segmenter)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    variant = model.backbone.variant.changed(num_classes=3)  # type: ignore[union-attr]
    masks = MaskRules((9,), (10, 20, 30, 40, 50, 60, 200, 0, 0))
    spec = ModelSpec(variant, Preprocessing((48, 64), "box"), LABELS, "segment", "tiny", decoder=model.decoder, masks=masks)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_native(path, model.state_dict(), spec)
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "street.jpg"
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    coarse.resize((150, 100), Image.Resampling.BICUBIC).save(path)
    return path


def test_a_photo_gets_a_map_of_its_size(weights_file: Path, photo: Path) -> None:
    predictor = swinkit.load(weights_file)
    result = predictor.predict(photo)
    assert isinstance(result, SegmentationResult)
    assert result.mask is not None
    assert result.mask.shape == (100, 150)
    assert sum(area.pixels for area in result.areas) == 100 * 150
    assert sum(area.share for area in result.areas) == pytest.approx(1)
    for area in result.areas:
        assert area.pixels == int((result.mask == area.index).sum())
        assert area.label == LABELS[area.index]
    overlay = result.overlay()
    assert overlay.width == 150
    assert overlay.height > 100
    again = predictor.predict([Image.open(photo), np.asarray(Image.open(photo))])
    assert all((item.mask == result.mask).all() for item in again)
    assert again[0].overlay().width == 150
    json.dumps(result.to_dict())


def test_the_written_mask_reads_back(weights_file: Path, photo: Path, tmp_path: Path) -> None:
    result = swinkit.load(weights_file).predict(photo)
    result.save(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P"
        assert (np.asarray(image) == result.mask).all()
        assert image.getpalette()[:9] == [10, 20, 30, 40, 50, 60, 200, 0, 0]  # type: ignore[index]


def test_commands_write_masks_overlays_and_areas(
    weights_file: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8no")
    files = ["--out", str(tmp_path / "out"), "--csv", str(tmp_path / "a.csv"), "--json", str(tmp_path / "a.json")]
    assert main(["predict", str(broken), str(photo), "--model", str(weights_file), *files]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"street.png", "street_overlay.jpg"}
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert rows[0]["error"]
    assert sum(int(row["pixels"]) for row in rows[1:]) == 100 * 150
    assert [row["error"] is None for row in json.loads((tmp_path / "a.json").read_text())] == [False, True]
    assert "segmented 1 of 2 images" in capsys.readouterr().out


def test_info_counts_the_whole_segmenter(weights_file: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["info", str(weights_file)]) == 0
    out = capsys.readouterr().out
    network = swinkit.load(weights_file).model
    assert isinstance(network, Segmenter)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 48, 64))
    said = float(re.search(r"GFLOPs +([\d.]+) \(multiply-adds, one image of 48 x 64 px\)", out)[1])  # type: ignore[index]
    assert said == pytest.approx(counter.get_total_flops() / 2e9, rel=0.1)  # the profiler leaves attention out
    assert "upernet, 8 channels" in out


def test_tiles_blend_and_one_tile_is_the_whole(weights_file: Path, photo: Path) -> None:
    predictor = swinkit.load(weights_file)
    whole = predictor.predict(photo)
    assert (predictor.predict(photo, tile=200).mask == whole.mask).mean() > 0.999
    for tile in (32, 50, 77):
        assert predictor.predict(photo, tile=tile).mask.shape == (100, 150)
    with pytest.raises(InputError, match="a tile is 16 to"):
        predictor.predict(photo, tile=3)


@pytest.mark.parametrize("size", [(100, 150), (33, 47), (20, 130)])
def test_a_network_that_looks_at_its_pixel_only_is_not_changed_by_tiles(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))

    def brightest(images: torch.Tensor) -> torch.Tensor:
        return 50 * images

    answer = tiled_map(brightest, picture, Preprocessing((9, 9), "native", 0, "bicubic", (0.0,) * 3, (1.0,) * 3), 24)
    array = np.asarray(picture)
    ties = (array == array.max(-1, keepdims=True)).sum(-1) > 1
    assert ((answer == array.argmax(-1)) | ties).all()


def test_classifiers_refuse_what_is_for_label_maps(photo: Path, tmp_path: Path) -> None:
    model = swinkit.create_model("swin_nano", num_classes=3)
    spec = ModelSpec(model.variant, Preprocessing((32, 32)), labels=LABELS)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="tile is an option of the task segment, and this is a classifier"):
        Predictor(model, spec).predict(photo, tile=64)
    save_native(tmp_path / "c.safetensors", model.state_dict(), spec)
    assert main(["predict", str(photo), "--model", str(tmp_path / "c.safetensors"), "--tile", "64"]) == 1
    assert main(["evaluate", str(tmp_path / "c.safetensors"), "--data", str(tmp_path), "--flip"]) == 1


def test_evaluation_from_the_command_line(weights_file: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "masks", "answers"):
        (tmp_path / kind).mkdir()
    for number in range(2):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{number}.png")
        values = Image.fromarray(rng.choice([0, 1, 2, 9], (40, 50)).astype(np.uint8))
        values.save(tmp_path / "masks" / f"{number}.png")
        values.point(lambda v: 0 if v == 9 else v).save(tmp_path / "answers" / f"{number}.png")
    common = ["evaluate", str(weights_file), "--data", str(tmp_path), "--json", str(tmp_path / "r.json")]
    assert main(common) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert {"mIoU", "mAcc", "aAcc", "per_class"} <= set(report)
    assert set(report["per_class"]) == set(LABELS)
    assert main([*common, "--scales", "0.5,1", "--flip", "--window", "32"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["passes"] == (
        "windows of 32 every 21 pixels, scales 0.5/1, with mirror images"
    )
    assert main([*common, "--tile", "200"]) == 0
    tiled = json.loads((tmp_path / "r.json").read_text())
    assert tiled["passes"] == "tiles of 200 pixels, seams blended"
    assert tiled["mIoU"] == pytest.approx(report["mIoU"], abs=1e-3)  # one tile covers the picture
    assert main([*common, "--tile", "16"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["confusion"] != report["confusion"]
    assert main([*common, "--tile", "32", "--flip"]) == 1
    assert main([*common, "--tile", "3"]) == 1
    assert main([*common, "--predictions", str(tmp_path / "answers")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["mIoU"] == 1.0
    (tmp_path / "classes.txt").write_text("\n".join([*LABELS, *"345678", "void"]))  # value 9 is void, as the model says
    without_model = [word for word in common if word != str(weights_file)]
    assert main([*without_model, "--predictions", str(tmp_path / "answers")]) == 0
    alone = json.loads((tmp_path / "r.json").read_text())
    assert (alone["mIoU"], alone["classes_averaged"]) == (1.0, 3)
    assert main(without_model) == 1
    assert main([*common, "--window", "32", "--stride", "40"]) == 1
    assert main([*common, "--scales", "zero"]) == 1
    assert main([*common, "--scales", "1,nan"]) == 1
    assert main([*common, "--predictions", str(tmp_path / "answers"), "--flip"]) == 1
    assert main([*common, "--groups", str(tmp_path / "groups.csv")]) == 1
