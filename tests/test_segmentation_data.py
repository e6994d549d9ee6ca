"""Label maps: every layout, every way to be wrong."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swinkit.data.folders import MissingPart
from swinkit.data.masks import MaskReader, encode_mask, paint, palette_of, read_mask
from swinkit.errors import DatasetError, ImageError, InputError
from swinkit.specs import MaskRules
from swinkit.tasks.segment.data import SegmentationData, open_segmentation

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]


def picture(path: Path, width: int = 12, height: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def mask(path: Path, values: object = 1, width: int = 12, height: int = 8, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.broadcast_to(np.asarray(values), (height, width))
    image = Image.fromarray(array.astype(np.uint16 if array.max() > 255 else np.uint8))
    (image.convert(mode) if mode else image).save(path)


def pairs(root: Path, parts: tuple[str, ...] = ("",), count: int = 3) -> Path:
    for part in parts:
        for number in range(count):
            picture(root / part / "images" / f"{number}.jpg")
            mask(root / part / "masks" / f"{number}.png", number % 3)
    return root


def read_all(data: SegmentationData) -> list[np.ndarray]:
    found = []
    for index in range(len(data)):
        image = data.read(index)
        found.append(data.mask(index, (image.height, image.width)))
    return found


def test_paired_folders_with_and_without_parts(tmp_path: Path) -> None:
    flat = open_segmentation(pairs(tmp_path / "flat"))
    assert (len(flat), flat.classes) == (3, ["0", "1", "2"])
    assert [int(values[0, 0]) for values in read_all(flat)] == [0, 1, 2]
    outer = pairs(tmp_path / "outer", ("train", "val"))
    assert len(open_segmentation(outer, "train")) == len(open_segmentation(outer, "val")) == 3
    inner = tmp_path / "inner"
    for kind in ("images", "masks"):
        for part in ("training", "validation"):
            shutil.copytree(outer / "train" / kind, inner / kind / part)
    assert open_segmentation(inner, "val").name(0).endswith("images/validation/0.jpg")
    with pytest.raises(MissingPart, match="no part 'test'"):
        open_segmentation(inner, "test")


def test_a_zip_of_it(tmp_path: Path) -> None:
    root = pairs(tmp_path / "d", ("train",))
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, path.relative_to(root).as_posix())
    data = open_segmentation(tmp_path / "d.zip", "train")
    assert [int(values[0, 0]) for values in read_all(data)] == [0, 1, 2]


def test_names_and_void_from_classes_txt(tmp_path: Path) -> None:
    root = pairs(tmp_path)
    (root / "classes.txt").write_text("road\nvoid\ncar\n")
    data = open_segmentation(root)
    assert data.classes == ["road", "car"]
    assert [int(values[0, 0]) for values in read_all(data)] == [0, 255, 1]


def test_ade20k_loses_its_zero_once(tmp_path: Path) -> None:
    for part, stem in (("training", "train"), ("validation", "val")):
        picture(tmp_path / "images" / part / f"ADE_{stem}_00000001.jpg")
        mask(tmp_path / "annotations" / part / f"ADE_{stem}_00000001.png", np.arange(96).reshape(8, 12) + 55)
    data = open_segmentation(tmp_path, "train")
    assert (len(data.classes), data.classes[0], data.classes[149]) == (150, "wall", "flag")
    assert read_all(data)[0][0, 0] == 54
    mask(tmp_path / "annotations" / "training" / "ADE_train_00000001.png", [0, 1, 150, 255] * 3)
    assert read_all(data)[0][0, :4].tolist() == [255, 0, 149, 255]


def test_cityscapes_ids_become_training_ids(tmp_path: Path) -> None:
    stem = "train/aachen/aachen_000000_000019"
    picture(tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png")
    mask(tmp_path / "gtFine" / f"{stem}_gtFine_labelIds.png", [0, 7, 8, 11, 26, 33] * 2)
    data = open_segmentation(tmp_path, "train")
    assert read_all(data)[0][0, :6].tolist() == [255, 0, 1, 2, 13, 18]
    mask(tmp_path / "gtFine" / f"{stem}_gtFine_labelTrainIds.png", [0, 18, 255] * 4)
    assert read_all(open_segmentation(tmp_path, "train"))[0][0, :3].tolist() == [0, 18, 255]


def test_coco_polygons_are_drawn_large_to_small(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg", 20, 10)
    square = {"image_id": 1, "category_id": 7, "area": 100, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}
    small = {"image_id": 1, "category_id": 9, "area": 9, "segmentation": [[2, 2, 4, 2, 4, 4, 2, 4]]}
    crowd = {"image_id": 1, "category_id": 7, "area": 5, "iscrowd": 1, "segmentation": {"size": [10, 20], "counts": [190, 10]}}
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}],
        "annotations": [small, square, crowd],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(truth))
    data = open_segmentation(tmp_path)
    assert data.classes == ["background", "cat", "dog"]
    (values,) = read_all(data)
    assert (values[0, 0], values[3, 3], values[9, 12], values[5, 19]) == (1, 2, 0, 255)
    assert (values == 2).sum() == 9


@given(st.sets(st.integers(0, 20), max_size=6), st.integers(1, 12))
def test_classes_are_the_values_that_are_not_void(void: set[int], classes: int) -> None:
    table = MaskReader(MaskRules(tuple(sorted(void))), classes).table()
    by_hand = [value for value in range(60) if value not in void][:classes]
    assert [int(table[value]) for value in by_hand] == list(range(classes))
    assert all(table[value] == 255 for value in (*void, 255))
    assert (table == -1).sum() == 65536 - classes - len({*void, 255})


def test_masks_are_written_as_they_are_read(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    encode_mask(ids, palette_of(None, 3)).save(tmp_path / "m.png")
    values, palette = read_mask(tmp_path / "m.png", "m")
    assert values.tolist() == ids.tolist()
    assert list(palette[:9]) == palette_of(None, 3).ravel().tolist()


def test_painting_mixes_colours_and_spares_void() -> None:
    rng = np.random.default_rng(0)
    picture, ids = rng.integers(0, 256, (600, 5, 3), dtype=np.uint8), rng.choice([0, 1, 255], (600, 5)).astype(np.uint8)
    palette = np.array([[10, 200, 30], [250, 0, 90]], np.uint8)
    found = np.asarray(paint(Image.fromarray(picture), ids, palette, 0.25))
    assert (found[ids == 255] == picture[ids == 255]).all()
    for index in (0, 1):
        expected = 0.75 * picture[ids == index] + 0.25 * palette[index]
        assert np.abs(found[ids == index] - expected).max() <= 0.5001


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data, which is not in the repository")
def test_camvid_counts_are_those_of_its_readme() -> None:
    data = open_segmentation(SHARED / "camvid", "val", CAMVID, MaskRules((11,)))
    counts = np.zeros(256, np.int64)
    for values in read_all(data):
        counts += np.bincount(values.ravel(), minlength=256)
    assert len(data) == 101
    assert (counts[0], counts[3], counts[10], counts[255]) == (1_601_620, 5_053_176, 387_010, 297_271)
    assert data.rules.palette[:6] == (128, 128, 128, 128, 0, 0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data, which is not in the repository")
def test_coco_mini_opens() -> None:
    data = open_segmentation(SHARED / "coco-mini")
    assert data.classes[0] == "background"
    assert read_all(data.subset([0, 1]))[0].max() > 0


def _rgb(root: Path) -> None:
    mask(root / "masks" / "1.png", 1, mode="RGB")


def _jpeg(root: Path) -> None:
    (root / "masks" / "1.png").unlink()
    Image.new("L", (12, 8)).save(root / "masks" / "1.jpg")


def _label_999(root: Path) -> None:
    (root / "classes.txt").write_text("a\nb\nc\n")
    mask(root / "masks" / "1.png", 999)


def _turned(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 8)).save(root / "images" / "1.jpg", exif=exif)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty mask": (lambda r: (r / "masks" / "1.png").write_bytes(b""), "1.png: is empty"),
    "cut mask": (
        lambda r: (r / "masks" / "1.png").write_bytes((r / "masks" / "1.png").read_bytes()[:40]),
        "1.png: is no picture that can be read",
    ),
    "text for a mask": (lambda r: (r / "masks" / "1.png").write_text("no"), "1.png: is no picture that can be read .it is text"),
    "mask of another size": (lambda r: mask(r / "masks" / "1.png", 1, 11, 8), "is 11 x 8, its picture 12 x 8"),
    "mask of a turned picture": (_turned, "turned by its EXIF orientation"),
    "colour mask": (_rgb, "is a colour picture"),
    "mask with alpha": (lambda r: mask(r / "masks" / "1.png", 1, mode="LA"), "is a colour picture"),
    "float mask": (lambda r: Image.new("F", (12, 8)).save(r / "masks" / "1.tiff"), "1.png and .*1.tiff: have one name"),
    "JPEG mask": (_jpeg, "is a JPEG"),
    "label 999": (_label_999, "holds the value 999, which is no class"),
    "label 999 without names": (lambda r: mask(r / "masks" / "1.png", 999), "no classes.txt names the classes"),
    "void only": (lambda r: [mask(p, 255) for p in (r / "masks").iterdir()], "void from edge to edge"),
    "picture without mask": (lambda r: (r / "masks" / "1.png").unlink(), "1 pictures without a mask"),
    "mask without picture": (lambda r: (r / "images" / "1.jpg").unlink(), "1 masks without a picture"),
    "no pictures": (lambda r: shutil.rmtree(r / "images"), "no pictures below a folder 'images'"),
    "no masks": (lambda r: shutil.rmtree(r / "masks"), "no label maps below a folder 'masks'"),
    "broken picture": (lambda r: (r / "images" / "1.jpg").write_bytes(b"\xff\xd8no"), "1.jpg"),
    "empty classes.txt": (lambda r: (r / "classes.txt").write_text("\n"), "holds no class names"),
    "doubled class": (lambda r: (r / "classes.txt").write_text("a\na\nb\n"), "is named twice"),
    "too few classes": (lambda r: (r / "classes.txt").write_text("a\n"), "which is no class"),
    "too many classes": (lambda r: (r / "classes.txt").write_text("\n".join(map(str, range(300)))), "300 classes"),
    "COCO that is no JSON": (lambda r: (r / "annotations.json").write_text("{"), "is not usable JSON"),
    "COCO without pictures": (
        lambda r: (r / "annotations.json").write_text(
            json.dumps({"images": [{"id": 1, "file_name": "x.jpg"}], "categories": [], "annotations": []})
        ),
        "names the picture 'x.jpg', which is not there",
    ),
    "COCO with an unknown category": (
        lambda r: (r / "annotations.json").write_text(
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "1.jpg"}],
                    "categories": [],
                    "annotations": [{"image_id": 1, "category_id": 3}],
                }
            )
        ),
        "'category_id' is 3, which no category has",
    ),
    "COCO with a run-length bomb": (
        lambda r: (r / "annotations.json").write_text(
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "1.jpg"}],
                    "categories": [{"id": 1, "name": "a"}],
                    "annotations": [{"image_id": 1, "category_id": 1, "segmentation": {"size": [8, 12], "counts": [10**12, 5]}}],
                }
            )
        ),
        "does not fill the picture",
    ),
    "link out of the folder": (
        lambda r: (shutil.rmtree(r / "masks"), (r / "masks").symlink_to("/tmp", target_is_directory=True)),
        "is a link",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_wrong_gets_its_sentence(case: str, tmp_path: Path) -> None:
    change, sentence = HOSTILE[case]
    root = pairs(tmp_path / "data")
    change(root)
    with pytest.raises(InputError, match=sentence) as found:
        read_all(open_segmentation(root))
    assert isinstance(found.value, DatasetError | ImageError)
    assert str(tmp_path) in str(found.value)
    assert "\n" not in str(found.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        open_segmentation(tmp_path / "no")
    with pytest.raises(MissingPart, match="not divided into parts"):
        open_segmentation(pairs(tmp_path), "val")


def test_check_data_finds_them_all_at_once(tmp_path: Path) -> None:
    from swinkit.cli import main

    root = pairs(tmp_path / "data", ("train", "val"), 5)
    assert main(["check-data", str(root), "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["counts"]["train"] == {"0": 2, "1": 2, "2": 1}
    (root / "classes.txt").write_text("a\nb\nc\n")
    train = root / "train"
    (train / "masks" / "0.png").write_bytes(b"no")
    mask(train / "masks" / "1.png", 1, 11, 8)
    mask(train / "masks" / "2.png", 77)
    (train / "masks" / "3.png").unlink()
    (root / "val" / "images" / "4.jpg").unlink()
    mask(root / "val" / "masks" / "0.png", 255)
    assert main(["check-data", str(root), "--json", str(tmp_path / "r.json")]) == 1
    report = json.loads((tmp_path / "r.json").read_text())
    said = " | ".join(report["fatal"] + report["warnings"])
    for part in (
        "1 pictures without a mask",
        "1 masks without a picture",
        "1 files cannot be read or used",
        "1 masks have another size",
        "1 values are no class of the 3 (most often 77",
        "1 masks are void from edge to edge",
        "stand in two parts",
    ):
        assert part in said, part


def test_check_data_reads_cityscapes_and_coco_as_label_maps(tmp_path: Path) -> None:
    from swinkit.tasks.segment.check import check_masks, has_masks

    cities = tmp_path / "cities"
    for number, height in enumerate((8, 8, 7)):
        picture(cities / "leftImg8bit" / "train" / "a" / f"a_{number}_leftImg8bit.png", 12 + number)
        mask(cities / "gtFine" / "train" / "a" / f"a_{number}_gtFine_labelIds.png", 7 + number, 12 + number, height)
    assert has_masks(cities)
    report = check_masks(cities)
    assert {name: count for name, count in report.counts["train"].items() if count} == {"road": 1, "sidewalk": 1}
    assert "a_2_gtFine_labelIds.png: is 14 x 7, its picture 14 x 8" in report.fatal[0]
    picture(tmp_path / "coco" / "images" / "a.jpg", 20, 10)
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 7, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 7, "area": 100, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}],
    }
    (tmp_path / "coco" / "annotations.json").write_text(json.dumps(truth))
    assert check_masks(tmp_path / "coco").counts == {"train": {"background": 1, "cat": 1}}
    with pytest.raises(MissingPart, match="of the part 'val'"):  # or the training pictures would judge themselves
        open_segmentation(tmp_path / "coco", "val")
