"""COCO annotations: whatever is wrong gets its sentence when the file is read; distinct entries are distinct pictures."""

from __future__ import annotations

import copy
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.hostile import one_sentence

from swinkit.data.coco import Drawing, read_coco
from swinkit.errors import DatasetError, ImageError, SwinkitError
from swinkit.tasks.segment.data import open_segmentation

TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}, {"id": 2, "file_name": "b.png"}],
    "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "area": 100, "iscrowd": 0, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]},
        {"id": 2, "image_id": 1, "category_id": 9, "segmentation": {"size": [10, 20], "counts": [190, 10]}},
    ],
}


def photo(path: Path, value: int = 90, width: int = 20, height: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


def data_set(root: Path, truth: object = TRUTH) -> Path:
    for name in ("a.png", "b.png"):
        photo(root / "images" / name)
    (root / "annotations.json").write_text(truth if isinstance(truth, str) else json.dumps(truth))
    return root


def text(change: Callable[[dict[str, Any]], object]) -> str:
    truth = copy.deepcopy(TRUTH)
    change(truth)
    return json.dumps(truth)


def field(name: str, value: object, row: int = 0, kind: str = "annotations") -> str:
    return text(lambda truth: truth[kind][row].__setitem__(name, value))


def raw(name: str, value: str) -> str:
    """A field of the first annotation whose value is not for json to write."""
    return field(name, "HERE").replace('"HERE"', value)


RUNS = {"size": [10, 20], "counts": [190, 10]}
HOSTILE: dict[str, tuple[str, str]] = {
    "no object": ("[]", "no object"),
    "nothing": ("", "not usable JSON"),
    "no images": (text(lambda t: t.pop("images")), "no list 'images'"),
    "annotations are a number": (text(lambda t: t.update(annotations=5)), "no list 'annotations'"),
    "an annotation is a list": (text(lambda t: t["annotations"].__setitem__(1, [])), r"annotations\[1\]: is \[\], not an object"),
    "deep": ('{"images":' + "[" * 5000 + "]" * 5000 + "}", "nested too deeply"),
    "id 1e400": (raw("id", "1e400"), "out of range"),
    "id of 900,000 digits": (raw("id", "9" * 900_000), "out of range"),
    "id of 19 digits": (raw("id", "9" * 19), "out of range"),
    "NaN in a polygon": (raw("segmentation", "[[0,0,9,NaN,9,9]]"), "NaN is not a number"),
    "infinity in a polygon": (raw("segmentation", "[[0,0,9,-Infinity,9,9]]"), "-Infinity is not a number"),
    "1e999 in a polygon": (raw("segmentation", "[[0,0,9,1e999,9,9]]"), "out of range"),
    "image id is text": (field("image_id", "1"), r"annotations\[0\]: 'image_id' is '1', not a whole number"),
    "image id is true": (field("image_id", True), "'image_id' is True, not a whole number"),
    "image id is missing": (text(lambda t: t["annotations"][0].pop("image_id")), "'image_id' is None"),
    "image id is unknown": (field("image_id", 3), "'image_id' is 3, which no image has"),
    "category id is text": (field("category_id", "7"), "'category_id' is '7'"),
    "category id is a fraction": (field("category_id", 7.0), "'category_id' is 7.0"),
    "category id is a list": (field("category_id", [7]), r"'category_id' is \[7\]"),
    "category id is unknown": (field("category_id", 8), "'category_id' is 8, which no category has"),
    "category's id is text": (field("id", "7", kind="categories"), r"categories\[0\]: 'id' is '7'"),
    "category's id twice": (field("id", 9, kind="categories"), "the id 9 stands twice"),
    "category's name twice": (field("name", "dog", kind="categories"), "'dog' is named twice"),
    "category is the background": (field("name", "background", kind="categories"), "'background' is named twice"),
    "category without a name": (field("name", "", kind="categories"), "'name' is '', not a name"),
    "category's name is a number": (field("name", 3, kind="categories"), "'name' is 3, not a name"),
    "category's name forges a line": (field("name", "cat\n\x1b[31mFATAL", kind="categories"), "cannot be shown"),
    "category's name turns round": (field("name", "cat\u202etac", kind="categories"), "cannot be shown"),
    "category's name is a book": (field("name", "x" * 100_000, kind="categories"), "shorten it to 200"),
    "image's id twice": (field("id", 2, kind="images"), "the id 2 stands twice"),
    "annotation's id twice": (field("id", 2), "the id 2 stands twice"),
    "image twice": (field("file_name", "b.png", kind="images"), "means 'images/b.png', as 'b.png' does"),
    "image by two paths": (field("file_name", "images/b.png", kind="images"), "means 'images/b.png', as"),
    "file name is a number": (field("file_name", 5, kind="images"), "'file_name' is 5, not a name"),
    "file name leads out": (field("file_name", "../../etc/passwd", kind="images"), "which is not there"),
    "file name is a dot": (field("file_name", ".", kind="images"), "which is not there"),
    "width is negative": (field("width", -20, kind="images"), "-20 x 10 pixels"),
    "width is huge": (field("width", 10**12, kind="images"), "1000000000000 x 10 pixels"),
    "width is text": (field("width", "20", kind="images"), "'width' is '20'"),
    "height is missing": (text(lambda t: t["images"][0].pop("height")), "'height' is None"),
    "iscrowd is text": (field("iscrowd", "0"), "'iscrowd' is '0', not 0 or 1"),
    "iscrowd is 2": (field("iscrowd", 2), "'iscrowd' is 2"),
    "area is text": (field("area", "big"), "'area' is 'big'"),
    "area is negative": (field("area", -1), "'area' is -1"),
    "area is true": (field("area", True), "'area' is True"),
    "segmentation is text": (field("segmentation", "0,0"), "neither polygons nor runs"),
    "segmentation is a number": (field("segmentation", 5), "neither polygons nor runs"),
    "polygon without its list": (field("segmentation", [0, 0, 9, 0, 9, 9]), "polygon 0: is 0, not a list of numbers"),
    "polygon of text": (field("segmentation", [["0", 0, 9, 0, 9, 9]]), "not a list of numbers"),
    "polygon of points": (field("segmentation", [[[0, 0], [9, 0], [9, 9]]]), "not a list of numbers"),
    "polygon of null": (field("segmentation", [[0, 0, 9, None, 9, 9]]), "not a list of numbers"),
    "polygon of truth": (field("segmentation", [[0, 0, 9, True, 9, 9]]), "not a list of numbers"),
    "odd polygon": (field("segmentation", [[0, 0, 9, 0, 9, 9, 0]]), "a number without its partner"),
    "polygon far away": (field("segmentation", [[0, 0, 1e18, 0, 9, 9]]), "beyond 1,000,000 pixels"),
    "polygon of a million points": (field("segmentation", [[1] * 2_000_000]), "more than 50,000 points"),
    "boxes alone": (text(lambda t: [row.pop("segmentation") for row in t["annotations"]]), "boxes are no label maps"),
    "runs compressed, another size": (field("segmentation", {"size": [20, 10], "counts": "n5:"}), "is 10 x 20, its picture"),
    "runs compressed, empty": (field("segmentation", {"size": [10, 20], "counts": ""}), "is damaged"),
    "runs compressed, cut": (field("segmentation", {"size": [10, 20], "counts": "n"}), "is damaged"),
    "runs compressed, too few": (field("segmentation", {"size": [10, 20], "counts": "n5"}), "does not fill the picture"),
    "runs compressed, negative": (field("segmentation", {"size": [10, 20], "counts": "b6F"}), "does not fill the picture"),
    "runs compressed, no such letter": (field("segmentation", {"size": [10, 20], "counts": "n5~"}), "is damaged"),
    "runs compressed, below": (field("segmentation", {"size": [10, 20], "counts": "n5\u0000"}), "is damaged"),
    "runs compressed, no ASCII": (field("segmentation", {"size": [10, 20], "counts": "n5\u0430"}), "is damaged"),
    "runs compressed, endless": (field("segmentation", {"size": [10, 20], "counts": "o" * 3_000_000}), "is damaged"),
    "runs compressed, a long number": (field("segmentation", {"size": [10, 20], "counts": "o" * 7 + "0"}), "is damaged"),
    "runs compressed, huge": (field("segmentation", {"size": [10, 20], "counts": "o" * 6 + "?"}), "does not fill the picture"),
    "runs compressed, many": (field("segmentation", {"size": [10, 20], "counts": "0" * 3_000_000}), "is damaged"),
    "runs of text": (field("segmentation", {"size": [10, 20], "counts": ["190", 10]}), "no list of whole numbers"),
    "runs of lists": (field("segmentation", {"size": [10, 20], "counts": [[190], [10]]}), "no list of whole numbers"),
    "runs of fractions": (field("segmentation", {"size": [10, 20], "counts": [190.0, 10]}), "no list of whole numbers"),
    "runs missing": (field("segmentation", {"size": [10, 20]}), "no list of whole numbers"),
    "runs empty": (field("segmentation", {"size": [10, 20], "counts": []}), "does not fill the picture"),
    "runs negative": (field("segmentation", {"size": [10, 20], "counts": [210, -10]}), "does not fill the picture"),
    "runs too long": (field("segmentation", {"size": [10, 20], "counts": [10**12, 5]}), "does not fill the picture"),
    "runs of another size": (field("segmentation", {"size": [20, 10], "counts": [190, 10]}), "is 10 x 20, its picture 20 x 10"),
    "runs' size is text": (field("segmentation", {**RUNS, "size": "10x20"}), "not .height, width."),
    "runs' size is of three": (field("segmentation", {**RUNS, "size": [10, 20, 3]}), "not .height, width."),
    "runs' size is huge": (field("segmentation", {"size": [10**9, 10**9], "counts": [10**18]}), "not possible here"),
    "300 categories": (text(lambda t: t["categories"].extend({"id": 99 + i, "name": str(i)} for i in range(300))), "303 classes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_wrong_is_said_when_the_file_is_read(case: str, tmp_path: Path) -> None:
    truth, sentence = HOSTILE[case]
    root = data_set(tmp_path, truth)
    start = time.process_time()
    with pytest.raises(DatasetError, match=sentence) as caught:
        open_segmentation(root)
    assert time.process_time() - start < 5
    assert one_sentence(caught.value, str(tmp_path / "annotations.json")).isprintable()


def test_the_good_file_is_good(tmp_path: Path) -> None:
    data = open_segmentation(data_set(tmp_path))
    values = data.mask(0)
    assert (data.classes, len(data)) == (["background", "cat", "dog"], 2)
    assert (values[0, 0], values[9, 19], values[9, 12], data.mask(1).max()) == (1, 2, 0, 0)


def compressed(mask: np.ndarray) -> str:
    """COCO's text of a mask, written number by number as ``maskApi.c`` describes it."""
    flat = mask.T.reshape(-1).tolist()
    runs, value = [0], 0
    for one in flat:
        if one != value:
            runs.append(0)
            value = one
        runs[-1] += 1
    text = ""
    for number, run in enumerate(runs):
        x, more = run - (runs[number - 2] if number > 2 else 0), True
        while more:
            low, x = x & 31, x >> 5
            more = x != (-1 if low & 16 else 0)
            text += chr(48 + low + 32 * more)
    return text


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
def test_compressed_runs_are_drawn_as_the_mask_they_were(seed: int, height: int, width: int, share: float) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    if share == 0.5:  # long runs, whose differences have both signs
        mask = np.repeat(np.repeat(mask, 30, 0), 3, 1)
    size, text = [*mask.shape], compressed(mask)
    truth = {**TRUTH, "images": [{"id": 1, "file_name": "a.png"}], "annotations": []}
    truth["annotations"] = [{"image_id": 1, "category_id": 7, "segmentation": {"size": size, "counts": text}}]
    _, drawn = read_coco(json.dumps(truth).encode(), "x.json", "x.json", ["a.png"])
    assert np.array_equal(drawn["a.png"].draw(mask.shape, "a.png"), mask)
    if importlib.util.find_spec("pycocotools"):
        from pycocotools import mask as theirs

        assert theirs.encode(np.asfortranarray(mask))["counts"].decode() == text
        assert np.array_equal(theirs.decode({"size": size, "counts": text.encode()}), mask)


@given(st.text(alphabet=[chr(code) for code in range(46, 114)], max_size=40))
def test_any_compressed_text_is_drawn_or_refused(text: str) -> None:
    truth = copy.deepcopy(TRUTH)
    truth["annotations"][1]["segmentation"]["counts"] = text
    try:
        _, drawn = read_coco(json.dumps(truth).encode(), "x.json", "x.json", ["images/a.png", "images/b.png"])
    except DatasetError as error:
        assert str(error).startswith("x.json: annotations[1]")
        return
    drawn["images/a.png"].draw((10, 20), "a.png")


def test_a_polygon_of_two_points_covers_nothing(tmp_path: Path) -> None:
    assert open_segmentation(data_set(tmp_path, field("segmentation", [[0, 0, 9, 9], []]))).mask(0).max() == 2


def test_a_picture_of_another_size_than_the_file_says(tmp_path: Path) -> None:
    data = open_segmentation(data_set(tmp_path))
    photo(tmp_path / "images" / "a.png", width=10, height=20)
    with pytest.raises(ImageError, match="is 10 x 20, its annotations are of 20 x 10 .it is turned"):
        data.mask(0)


def test_polygons_that_would_take_minutes_are_refused() -> None:
    drawing = Drawing(None, [(1, [np.zeros((50_000, 2))] * 40)])
    with pytest.raises(ImageError, match="2,000,000 points"):
        drawing.draw((10_000, 10), "a.png")


def test_the_same_name_in_two_parts(tmp_path: Path) -> None:
    for part, value in (("train", 10), ("val", 200)):
        photo(tmp_path / "images" / f"{part}2017" / "a.jpg", value)
        one = {**TRUTH, "images": [{"id": 1, "file_name": "a.jpg"}]}
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(one))
    for part, value in (("train", 10), ("val", 200)):
        data = open_segmentation(tmp_path, part)
        assert data.name(0).endswith(f"{part}2017/a.jpg")
        assert abs(np.asarray(data.read(0)).mean() - value) < 5
    (tmp_path / "images" / "val2017" / "a.jpg").unlink()
    with pytest.raises(DatasetError, match="not there in the part 'val'"):
        open_segmentation(tmp_path, "val")


def test_a_name_that_fits_two_pictures_is_refused(tmp_path: Path) -> None:
    root = data_set(tmp_path)
    photo(root / "more" / "a.png")
    with pytest.raises(DatasetError, match="may be 'images/a.png' or 'more/a.png'; write more of the path"):
        open_segmentation(root)
    (root / "annotations.json").write_text(field("file_name", "more/a.png", kind="images"))
    assert open_segmentation(root).name(1).endswith("more/a.png")


def test_two_annotation_files_of_a_part_are_refused(tmp_path: Path) -> None:
    root = data_set(tmp_path)
    for name in ("instances_train.json", "instances_train_2.json"):
        (root / name).write_text(json.dumps(TRUTH))
    with pytest.raises(DatasetError, match="two annotation files of the part 'train'"):
        open_segmentation(root, "train")


FOLDERS = st.sampled_from(["", "images/", "train/", "val/", "images/train2017/", "images/val2017/", "old/images/"])
FILES = st.builds("{}{}".format, FOLDERS, st.sampled_from(["a.jpg", "b.jpg", "c.jpg"]))


@given(
    st.lists(FILES, unique=True, max_size=9),
    st.lists(FILES, max_size=4),
    st.sampled_from(["annotations.json", "annotations/instances_train2017.json", "val/annotations.json"]),
)
def test_distinct_entries_are_distinct_pictures(pictures: list[str], entries: list[str], file: str) -> None:
    truth = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(entries)],
        "categories": [{"id": 0, "name": "cat"}],
        "annotations": [
            {"image_id": number, "category_id": 0, "area": number, "segmentation": [[0, 0, 1, 0, number, 9]]}
            for number in range(len(entries))
        ],
    }
    try:
        _, drawn = read_coco(json.dumps(truth).encode(), file, file, pictures)
    except DatasetError:
        return
    assert len(drawn) == len(entries)
    assert set(drawn) <= set(pictures)
    for picture, drawing in drawn.items():
        [(_, [ring])] = drawing.shapes
        entry = entries[int(ring[2, 0])]
        assert entry.rsplit("/", 1)[-1] == picture.rsplit("/", 1)[-1]
        others = {"train": "val", "val": "train"}
        for part, other in others.items():
            said = part in entry or (other not in entry and part in file)
            assert not (said and other in picture and entry != picture), (entry, picture)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_any_value_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    truth = copy.deepcopy(TRUTH)
    place: Any = truth
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    place[key] = data.draw(JSON)
    try:
        _, drawn = read_coco(json.dumps(truth).encode(), "x.json", "x.json", ["images/a.png", "images/b.png"])
        for drawing in drawn.values():
            if drawing.size is None or drawing.size[0] * drawing.size[1] < 10**6:
                drawing.draw(drawing.size or (10, 20), "a.png")
    except SwinkitError as error:
        assert str(error).startswith(("x.json", "a.png"))
