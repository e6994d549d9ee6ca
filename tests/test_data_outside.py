"""Files from outside: pipes never block, no other program starts, what is not unique is named, counts are of pictures."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from tests.hostile import encoded, image_folder, one_sentence, photo, picture, png_announcing, png_chunk, two_classes, write
from tests.hostile import zip_of as a_zip
from tests.test_data_traps import hub_folder

from swinkit.data import check_data, containers, open_dataset
from swinkit.data.check import summary
from swinkit.data.check_masks import check_masks
from swinkit.data.images import read_image, to_rgb
from swinkit.data.masks import read_mask
from swinkit.data.segmentation import open_segmentation
from swinkit.errors import DatasetError, ImageError, InputError, SwinkitError
from swinkit.evaluation.classification import read_groups, read_real
from swinkit.evaluation.segmentation import evaluate_predictions

Case = Callable[[Path], Any]


def pairs(root: Path, count: int = 3) -> Path:
    for number in range(count):
        write(root / "images" / f"{number}.png", picture(number))
        write(root / "masks" / f"{number}.png", label_map(number % 3))
    return root


def label_map(value: object, form: str = "PNG") -> bytes:
    return encoded(Image.fromarray(np.broadcast_to(np.asarray(value, np.uint8), (16, 24)).copy()), form)


def pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def read_pairs(root: Path) -> None:
    data = open_segmentation(root)
    for index in range(len(data)):
        data.check(index)


def read_pictures(path: Path) -> None:
    data = open_dataset(path, "train")
    for index in range(len(data)):
        data.check(index)


def with_pipe(make: Callable[[Path], object], name: str, read: Case) -> Case:
    def case(root: Path) -> Any:
        make(root)
        pipe(root / name)
        return read(root)

    return case


def table(root: Path, text: str, name: str = "train.csv") -> Path:
    image_folder(root, ["0.png", "1.png"])
    return write(root / name, text)


def real(root: Path) -> None:
    read_real(root / "real.json", open_dataset(root / "train"))


def groups(root: Path) -> None:
    read_groups(root / "groups.csv", open_dataset(root / "train"))


def answers(root: Path) -> None:
    evaluate_predictions(root / "answers", open_segmentation(root))


def answered(root: Path) -> None:
    pairs(root)
    for number in range(3):
        write(root / "answers" / f"{number}.png", label_map(0))


def classes(root: Path) -> None:
    two_classes(root, "train")


PIPES: dict[str, Case] = {
    "picture": with_pipe(classes, "train/ants/0.png", read_pictures),
    "picture by itself": lambda root: read_image(pipe(root / "a.png")),
    "label map": with_pipe(pairs, "masks/1.png", read_pairs),
    "picture of a pair": with_pipe(pairs, "images/1.png", read_pairs),
    "label map to check": with_pipe(pairs, "masks/1.png", lambda root: _fatal(check_masks(root).fatal)),
    "class list": with_pipe(pairs, "classes.txt", open_segmentation),
    "COCO file": with_pipe(pairs, "annotations.json", open_segmentation),
    "zip": lambda root: open_dataset(pipe(root / "d.zip")),
    "zip in a folder": lambda root: open_dataset(pipe(root / "train.zip").parent, "train"),
    "zips in a folder": lambda root: open_dataset(pipe(root / "train-1.zip").parent, "train"),
    "zip of pairs": lambda root: open_segmentation(pipe(root / "d.zip")),
    "table": lambda root: open_dataset(pipe(root / "t.csv")),
    "table in a folder": lambda root: open_dataset(pipe(root / "train.csv").parent, "train"),
    "metadata": with_pipe(classes, "metadata.csv", open_dataset),
    "metadata in JSON": with_pipe(classes, "train/metadata.jsonl", read_pictures),
    "map": with_pipe(lambda root: a_zip(root / "train.zip", ["n/0.png"]), "train_map.txt", read_pictures),
    "hub description": with_pipe(classes, "dataset_info.json", open_dataset),
    "ReaL": with_pipe(classes, "real.json", real),
    "groups": with_pipe(classes, "groups.csv", groups),
    "answer": with_pipe(answered, "answers/1.png", answers),
}


def _fatal(found: list[str]) -> None:
    if found:
        raise DatasetError(found[0])


@pytest.mark.parametrize("case", PIPES)
def test_a_pipe_is_refused_at_once(case: str, tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def act() -> None:
        try:
            PIPES[case](tmp_path)
        except BaseException as error:  # noqa: BLE001 - judged below
            caught.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for somebody to write"
    assert isinstance(caught[0], SwinkitError), caught
    assert "not a regular file" in one_sentence(caught[0], str(tmp_path))


@pytest.mark.parametrize("name", ["masks/1.png", "images/1.png"])
def test_no_other_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript"))
    write(pairs(tmp_path) / name, encoded(photo(1).convert("L"), "EPS"))
    with pytest.raises(ImageError, match="it is a document") as caught:
        read_pairs(tmp_path)
    one_sentence(caught.value, name)


def tiff(width: int, height: int) -> bytes:
    """Return an uncompressed TIFF of one row of pixels that says it has another size."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (278, 1), (279, 9)]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 18) + bytes(10) + struct.pack("<H", len(tags)) + body + bytes(4)


BAD_PICTURES = {
    "PNG of 0x0": png_announcing(0, 0),
    "PNG of 5x0": png_announcing(5, 0),
    "PGM of 5x0": b"P5 5 0 255\n",
    "GIF of 5x0": b"GIF89a" + struct.pack("<HH", 5, 0) + bytes(3) + b",\0\0\0\0\5\0\0\0\0\2\2D\1\0;",
    "BMP of 5x0": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 5, 0, 1, 8, 0, 0, 0, 0, 0, 0),
    "TIFF of 0x5": tiff(0, 5),
    "TIFF of 5x0": tiff(5, 0),
    "PNG of 60,000 x 60,000": png_announcing(60_000, 60_000),
    "TIFF of 10^9 x 10^9": tiff(10**9, 10**9),
    "cut in its pixels": encoded(Image.fromarray(np.random.default_rng(0).integers(0, 9, (300, 300), np.uint8)))[:20_000],
    "text that unpacks for ever": encoded(photo(0).convert("L"))[:33]
    + png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 * 2**20)))
    + encoded(photo(0).convert("L"))[33:],
    "PDF": b"%PDF-1.4 " + bytes(100),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + bytes(100),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


@pytest.mark.parametrize("read", [read_image, lambda data, name: read_mask(data, name)], ids=["picture", "label map"])
@pytest.mark.parametrize("case", BAD_PICTURES)
def test_bad_pictures_and_label_maps_get_their_sentence(case: str, read: Callable[[bytes, str], object]) -> None:
    start = time.process_time()
    with pytest.raises(ImageError) as caught:
        read(BAD_PICTURES[case], "a.png")
    assert one_sentence(caught.value, "a.png").startswith("a.png: ")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("size", [(0, 0), (5, 0), (0, 5)])
def test_pictures_in_memory_without_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="without pixels"):
        to_rgb(Image.new("RGB", size))


def test_a_file_is_opened_once_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", picture(1))
    write(tmp_path / "m.png", label_map(1))
    opened: list[str] = []
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda name, *rest, **more: opened.append(str(name)) or real_open(name, *rest, **more))
    read_image(path)
    read_mask(tmp_path / "m.png", "m")
    assert opened == [str(path), str(tmp_path / "m.png")]


# What is not unique.


def _zip_twice(root: Path) -> None:
    path = a_zip(root / "a.zip", ["ants/0.png", "bees/1.png"])
    open_dataset(f"{path},{root}/./a.zip")


def _two_hubs(root: Path) -> None:
    rows = [{"bytes": picture(i), "path": None} for i in range(2)]
    for name in "ab":
        hub_folder(root / name, {"train": rows}, {"train": ["x", "y"]})
    open_dataset(f"{root}/a,{root}/b")


DOUBLED: dict[str, tuple[Case, str]] = {
    "two pictures of a pair": (
        lambda root: (write(pairs(root) / "images" / "1.jpg", picture(5, "JPEG")), read_pairs(root)),
        "images/1.jpg and .*images/1.png: have one name",
    ),
    "two label maps of a pair": (
        lambda root: (write(pairs(root) / "masks" / "1.bmp", label_map(1, "BMP")), read_pairs(root)),
        "masks/1.bmp and .*masks/1.png: have one name",
    ),
    "label maps in two folders": (
        lambda root: (write(pairs(root) / "labels" / "1.png", label_map(1)), read_pairs(root)),
        "labels/1.png and .*masks/1.png: have one name",
    ),
    "an empty line among classes": (
        lambda root: (write(pairs(root) / "classes.txt", "a\n\nb\nc\n"), read_pairs(root)),
        "classes.txt, line 2: is empty",
    ),
    "classes in Latin-1": (lambda root: (write(pairs(root) / "classes.txt", b"b\xe4r\n"), read_pairs(root)), "not UTF-8"),
    "a class that forges a line": (
        lambda root: (write(pairs(root) / "classes.txt", "a\nb\x1b[2K\nc"), read_pairs(root)),
        "cannot be shown",
    ),
    "two answers": (
        lambda root: (answered(root), write(root / "answers" / "1.bmp", label_map(1, "BMP")), answers(root)),
        "two answers for a picture, '1.bmp' and '1.png'",
    ),
    "a file with two labels": (
        lambda root: open_dataset(table(root, "file,label\n0.png,a\n1.png,b\n0.png,b\n")),
        "line 4: '0.png' stands in line 2 with another label",
    ),
    "a file twice": (
        lambda root: open_dataset(table(root, "file,label\n0.png,a\n1.png,b\n./0.png,a\n")),
        "line 4: './0.png' stands in line 2 already",
    ),
    "two labels over two parts": (
        lambda root: open_dataset(table(root, "file,label,split\n0.png,a,train\n1.png,b,train\n0.png,b,val\n"), "train"),
        "line 4: '0.png' stands in line 2 with another label",
    ),
    "two columns of one name": (lambda root: open_dataset(table(root, "file,label,Label\n0.png,a,b\n")), "two columns 'label'"),
    "a label that is an object": (
        lambda root: open_dataset(table(root, '{"file_name":"0.png","label":{"a":1}}', "metadata.jsonl").parent),
        "neither text nor a number",
    ),
    "a label that forges a line": (
        lambda root: open_dataset(table(root, 'file,label\n0.png,"a\nok"\n1.png,b\n')),
        "cannot be shown",
    ),
    "a line of a map twice": (
        lambda root: (
            a_zip(root / "train.zip", ["n/0.png", "n/1.png"]),
            write(root / "train_map.txt", "n/0.png\t0\nn/1.png\t1\nn/0.png\t1\n"),
            read_pictures(root),
        ),
        "line 3: 'n/0.png' stands in line 1 already",
    ),
    "a zip twice": (_zip_twice, "twice; name each part once"),
    "two hub folders": (_two_hubs, "cannot be joined"),
    "a group for two pictures": (
        lambda root: (classes(root), write(root / "groups.csv", "file,group\n0.png,a\n1.png,a\n2.png,a\n"), groups(root)),
        "'0.png' may be .*ants/0.png or .*bees/0.png",
    ),
    "a group that forges a line": (
        lambda root: (classes(root), write(root / "groups.csv", 'file,group\nants/0.png,"a\nb"\n'), groups(root)),
        "cannot be shown",
    ),
    "ReaL for pictures of one name": (
        lambda root: (classes(root), write(root / "real.json", json.dumps([[0]] * 6)), real(root)),
        "have one name",
    ),
    "ReaL of a class that is none": (
        lambda root: (classes(root), write(root / "real.json", json.dumps([[7]] * 6)), real(root)),
        "names class 7, there are 2",
    ),
    "ReaL of truth": (
        lambda root: (classes(root), write(root / "real.json", json.dumps([[True]] * 6)), real(root)),
        "list of lists",
    ),
    "ReaL of 900,000 digits": (
        lambda root: (classes(root), write(root / "real.json", f"[[{'9' * 900_000}]]"), real(root)),
        "out of range",
    ),
}


@pytest.mark.parametrize("case", DOUBLED)
def test_what_is_not_unique_or_no_name_is_refused(case: str, tmp_path: Path) -> None:
    act, sentence = DOUBLED[case]
    with pytest.raises(SwinkitError, match=sentence) as caught:
        act(tmp_path)
    assert one_sentence(caught.value, str(tmp_path)).isprintable()


def test_a_file_in_two_parts_with_one_label_is_for_check_data_to_name(tmp_path: Path) -> None:
    path = table(tmp_path, "file,label,split\n0.png,a,train\n1.png,b,train\n0.png,a,val\n1.png,b,val\n")
    assert len(open_dataset(path, "train")) == len(open_dataset(path, "val")) == 2
    assert any("stand in two parts" in text for text in check_data(path).warnings)


def test_classes_of_almost_one_name_are_named(tmp_path: Path) -> None:
    image_folder(tmp_path, [f"{name}/{i}.png" for name in ("Cat", "cat", "dog") for i in range(3)])
    assert open_dataset(tmp_path).classes == ["Cat", "cat", "dog"]
    assert any("'Cat' and 'cat' have almost one name" in text for text in check_data(tmp_path).warnings)


# Zips.


def test_a_zip_with_a_directory_beyond_all_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = a_zip(tmp_path / "d.zip", [f"ants/{i}.png" for i in range(40)])
    monkeypatch.setattr(containers._Archive, "limit", 1000)
    with pytest.raises(DatasetError, match="its directory has .* more than the 1,000 allowed") as caught:
        open_dataset(path)
    one_sentence(caught.value, str(path))


def test_a_zip_that_asks_for_gigabytes_to_unpack_a_byte(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("ants/0.png", picture())
    with pytest.raises(ImageError, match="packed in an unusual way"):
        open_dataset(tmp_path / "d.zip").read(0)


def test_a_zip_s_file_is_closed_with_it(tmp_path: Path) -> None:
    path = a_zip(tmp_path / "d.zip", ["ants/0.png", "bees/1.png"])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(30):
        open_dataset(path).read(0)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3


# Folders of the datasets library.


def hub(root: Path) -> Path:
    rows = [{"bytes": picture(i), "path": None} for i in range(4)]
    return hub_folder(root / "d", {"train": rows}, {"train": ["ant", "bee"]})


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def info(root: Path, **fields: object) -> None:
    change(root / "train" / "dataset_info.json", **fields)


def _labels(root: Path, value: int) -> None:
    import pyarrow as pa

    [file] = (root / "train").glob("*.arrow")
    with pa.OSFile(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all()
    place = table.column_names.index("label")
    changed = table.set_column(place, table.schema.field(place), pa.array([value] * len(table), pa.int64()))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, changed.schema) as out:
        out.write_table(changed)


HUBS: dict[str, tuple[Case, str]] = {
    "a table that is an address": (
        lambda root: change(root / "train" / "state.json", _data_files=[{"filename": "a::https://example.org/x.arrow"}]),
        "does not exist",
    ),
    "parts that are numbers": (lambda root: change(root / "dataset_dict.json", splits=[1]), "names no parts"),
    "a table outside": (
        lambda root: change(root / "train" / "state.json", _data_files=[{"filename": "../../other.arrow"}]),
        "leads out of the folder",
    ),
    "an absolute table": (
        lambda root: change(root / "train" / "state.json", _data_files=[{"filename": "/etc/passwd"}]),
        "leads out of the folder",
    ),
    "no tables": (lambda root: change(root / "train" / "state.json", _data_files=[]), "names no data files"),
    "a table of no name": (lambda root: change(root / "train" / "state.json", _data_files=[{"filename": 5}]), "by no name"),
    "a table twice": (
        lambda root: change(
            root / "train" / "state.json", _data_files=2 * json.loads((root / "train" / "state.json").read_text())["_data_files"]
        ),
        "twice",
    ),
    "columns that are text": (lambda root: info(root, features="x"), "does not say its columns"),
    "no pictures": (lambda root: info(root, features={"a": {"_type": "Value"}}), "needs an Image"),
    "classes that are numbers": (
        lambda root: info(
            root,
            features={"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": [1, 2]}},
        ),
        "does not name its classes",
    ),
    "classes of one name": (
        lambda root: info(
            root,
            features={"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "a"]}},
        ),
        "named twice",
    ),
    "a column that is not there": (
        lambda root: info(
            root,
            features={"image": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["a", "b"]}},
        ),
        "cannot be read",
    ),
    "a label of no class": (lambda root: _labels(root, 2), "row 0 has the label 2"),
    "a negative label": (lambda root: _labels(root, -1), "row 0 has the label -1"),
    "a table that is text": (lambda root: [write(file, "hello") for file in root.rglob("*.arrow")], "cannot be read"),
    "a pipe for a table": (lambda root: [pipe(file) for file in root.rglob("*.arrow")], "not a regular file"),
    "a description of 900,000 digits": (
        lambda root: write(root / "train" / "dataset_info.json", '{"features": ' + "9" * 900_000 + "}"),
        "out of range",
    ),
}


@pytest.mark.parametrize("case", HUBS)
def test_hostile_folders_of_the_datasets_library(case: str, tmp_path: Path) -> None:
    act, sentence = HUBS[case]
    root = hub(tmp_path)
    act(root)
    with pytest.raises(DatasetError, match=sentence) as caught:
        open_dataset(root, "train")
    one_sentence(caught.value, str(root))


def test_a_hub_folder_travels_to_another_process(tmp_path: Path) -> None:
    data = open_dataset(hub(tmp_path), "train")
    first = np.asarray(data.read(0))
    there = pickle.loads(pickle.dumps(data))
    assert np.array_equal(np.asarray(there.read(0)), first)
    assert np.array_equal(np.asarray(there.subset([2]).read(0)), np.asarray(photo(2)))


def test_damaged_tables_never_crash(tmp_path: Path) -> None:
    root = hub(tmp_path)
    [file] = (root / "train").glob("*.arrow")
    good, rng = file.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad), 6):
            bad[place] ^= int(rng.integers(1, 256))
        file.unlink()  # a mapped file that is written over would crash whoever holds it
        file.write_bytes(bytes(bad))
        try:
            data = open_dataset(root, "train")
            for index in range(len(data)):
                data.read(index)
        except SwinkitError:
            refused += 1
    assert refused


# What check-data counts.


def test_camvid_is_counted_as_its_readme_does(shared: Path) -> None:
    report = check_masks(shared / "data" / "camvid", void=[11])
    assert report.pictures == {"train": 367, "val": 101}
    train = [366, 365, 366, 367, 349, 319, 351, 173, 360, 317, 201]
    assert [*report.counts["train"].items()] == [(str(value), count) for value, count in enumerate(train)]
    assert report.void["train"] == 367
    assert summary(report)[0].startswith("train: 367 in 11 classes (0 366, 1 365, 2 366,")
    assert summary(report)[0].endswith("; void in 367")


def test_label_maps_are_counted_in_the_order_of_the_classes(tmp_path: Path) -> None:
    root = pairs(tmp_path, 4)
    write(root / "masks" / "0.png", label_map([3] * 23 + [255]))
    write(root / "masks" / "1.png", label_map([0, 1] * 12))
    report = check_masks(root)
    assert (report.pictures, report.counts, report.void) == (
        {"all": 4}, {"all": {"0": 2, "1": 1, "2": 1, "3": 1}}, {"all": 1}
    )  # fmt: skip
    write(root / "classes.txt", "sky\nvoid\nroad\ncar\ndog\n")
    report = check_masks(root)
    assert [*report.counts["all"].items()] == [("sky", 2), ("road", 1), ("car", 1), ("dog", 0)]
    assert report.void == {"all": 2}
    assert report.fatal == []


def test_ade20k_s_zero_is_void_when_checked_too(tmp_path: Path) -> None:
    write(tmp_path / "images/training/ADE_train_00000001.jpg", picture(1, "JPEG"))
    write(tmp_path / "annotations/training/ADE_train_00000001.png", label_map([0, 1, 150] * 8))
    report = check_masks(tmp_path)
    assert {name: count for name, count in report.counts["train"].items() if count} == {"wall": 1, "flag": 1}
    assert report.void == {"train": 1}


def test_pictures_of_several_labels_are_counted_once(tmp_path: Path) -> None:
    path = table(tmp_path, "file,labels\n0.png,a;b\n1.png,a;b;c\n", "t.csv")
    report = check_data(path)
    assert (report.pictures, report.counts) == ({"train": 2}, {"train": {"a": 2, "b": 2, "c": 1}})
    assert summary(report)[0] == "train: 2 in 3 classes (a 2, b 2, c 1)"


def test_void_is_an_option_of_label_maps(tmp_path: Path) -> None:
    from swinkit.cli import main

    root = pairs(tmp_path / "pairs")
    assert main(["check-data", str(root), "--void", "2", "--json", str(tmp_path / "r.json")]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["counts"], report["void"]) == ({"all": {"0": 1, "1": 1}}, {"all": 1})
    assert main(["check-data", str(two_classes(tmp_path / "set", "train")), "--void", "2"]) == 1
    coco = {"images": [], "categories": [], "annotations": []}
    write(root / "annotations.json", json.dumps(coco))
    with pytest.raises(InputError, match="leave out --void"):
        check_masks(root, void=[2])


def test_doubled_names_are_in_the_report(tmp_path: Path) -> None:
    write(pairs(tmp_path) / "images" / "1.jpg", picture(5, "JPEG"))
    assert any("1 names stand twice" in text for text in check_masks(tmp_path).fatal)


def test_a_suffix_cannot_forge_a_line(tmp_path: Path) -> None:
    two_classes(tmp_path, "train", 12)
    write(tmp_path / "train" / "ants" / "x.y\nFATAL all is lost\x1b[2K", "x")
    assert all(line.isprintable() for line in summary(check_data(tmp_path)))


def test_memory_for_a_large_label_map_stays_bounded() -> None:
    """A map of the largest size: its values, its class ids, and no third copy of four bytes a pixel."""
    side = 8000
    data = encoded(Image.new("L", (side, side), 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values, _ = read_mask(io.BytesIO(data).getvalue(), "large.png")
    assert (values.dtype, values.shape) == (np.uint8, (side, side))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 5 * side**2
    assert Counter(values[::100, ::100].ravel().tolist()) == {1: 6400}
