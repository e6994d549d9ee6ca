"""Every form of data set opens as the same thing; every broken one is refused in a sentence and writes nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import hostile
from tests.hostile import everything_below, image_folder, one_sentence, photo, picture, two_classes, write, zip_of, zipped

from swinkit.data import open_dataset, split_dataset
from swinkit.data.containers import ZipSource
from swinkit.data.folders import ClassificationData, MissingPart
from swinkit.errors import DatasetError, SwinkitError
from swinkit.labels import imagenet_names, imagenet_synsets
from swinkit.tasks.classify.matching import match_classes

NAMES = [f"{c}/{i}.png" for c in ("ants", "bees") for i in range(3)]


def contents(data: ClassificationData) -> list[tuple[str, str]]:
    """Return (end of the name, class) of every picture."""
    return [("/".join(data.name(i).rsplit("/", 2)[1:]), data.classes[data.target(i)]) for i in range(len(data))]


WANTED = [(name, name.split("/")[0]) for name in NAMES]


def same_pictures(data: ClassificationData, first_seed: int = 0) -> None:
    for index in range(len(data)):
        assert np.array_equal(np.asarray(data.read(index)), np.asarray(photo(first_seed + index)))


def test_image_folder_without_parts(tmp_path: Path) -> None:
    two_classes(tmp_path, "")
    data = open_dataset(tmp_path)
    assert data.classes == ["ants", "bees"]
    assert not data.multi_label
    assert contents(data) == WANTED
    same_pictures(data)
    assert data.name(0) == str(tmp_path / "ants/0.png")
    assert contents(open_dataset(tmp_path, "train")) == WANTED
    with pytest.raises(MissingPart, match="val"):
        open_dataset(tmp_path, "val")


@pytest.mark.parametrize("val", ["val", "valid", "validation", "VAL"])
def test_image_folder_with_parts(tmp_path: Path, val: str) -> None:
    two_classes(tmp_path, "train")
    two_classes(tmp_path, val, 2, first_seed=50)
    assert contents(open_dataset(tmp_path, "train")) == WANTED
    held = open_dataset(tmp_path, "val")
    assert len(held) == 4
    same_pictures(held, 50)
    assert len(open_dataset(tmp_path)) == 10
    with pytest.raises(MissingPart, match="no part 'test', only"):
        open_dataset(tmp_path, "test")


def test_a_single_folder_around_everything_is_passed_through(tmp_path: Path) -> None:
    two_classes(tmp_path / "download" / "animals", "train")
    two_classes(tmp_path / "download" / "animals", "val")
    assert contents(open_dataset(tmp_path / "download", "train")) == WANTED
    names = [f"animals/{name}" for name in NAMES]
    assert contents(open_dataset(zip_of(tmp_path / "a.zip", names))) == WANTED


def test_pictures_deeper_in_a_class_belong_to_it(tmp_path: Path) -> None:
    image_folder(tmp_path, ["ants/red/1.png", "ants/0.png", "bees/2.png"])
    assert Counter(name for _, name in contents(open_dataset(tmp_path))) == {"ants": 2, "bees": 1}


def test_what_is_no_picture_is_skipped_and_counted(tmp_path: Path) -> None:
    image_folder(tmp_path, ["ants/0.png", "ants/1.gif", "bees/0.PNG", "loose.png"])
    for name in ("ants/notes.txt", "ants/b.txt", "bees/Thumbs.db", "README", "ants/._0.png", "bees/.hidden.png"):
        write(tmp_path / name, "x")
    write(tmp_path / "__MACOSX/ants/0.png", "x")
    write(tmp_path / ".git/ants/9.png", "x")
    data = open_dataset(tmp_path)
    assert contents(data) == [("ants/0.png", "ants"), ("ants/1.gif", "ants"), ("bees/0.PNG", "bees")]
    assert data.skipped[".txt"] == 2
    assert data.skipped[".db"] == 1
    assert data.skipped["readme"] + data.skipped["README"] == 1
    assert data.skipped["outside a class folder"] == 1
    members = {**{name: picture() for name in NAMES}, "__MACOSX/ants/._0.png": b"x", ".DS_Store": b"x"}
    assert contents(open_dataset(zipped(tmp_path / "mac.zip", members))) == WANTED


@pytest.mark.parametrize("part", ["", "train/"])
def test_zip_of_an_image_folder(tmp_path: Path, part: str) -> None:
    path = zip_of(tmp_path / "data.zip", [part + name for name in NAMES])
    before = everything_below(tmp_path)
    data = open_dataset(path, "train")
    assert contents(data) == WANTED
    same_pictures(data)
    assert data.name(0) == f"{path}/{part}ants/0.png"
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("form", ["{0}/train-[0-2].zip", "{0}/train-0.zip,{0}/train-1.zip, {0}/train-2.zip", "{0}"])
def test_several_zips_are_one_set(tmp_path: Path, form: str) -> None:
    for shard in range(3):
        zip_of(tmp_path / f"train-{shard}.zip", [f"{c}/{shard}-{i}.png" for c in ("ants", "bees") for i in range(2)])
    zip_of(tmp_path / "val.zip", NAMES)
    data = open_dataset(form.format(tmp_path), "train")
    assert len(data) == 12
    assert data.classes == ["ants", "bees"]
    assert Counter(data.target(i) for i in range(12)) == {0: 6, 1: 6}
    assert len({data.name(i) for i in range(12)}) == 12
    assert all(data.read(i).size == (24, 16) for i in range(12))


def test_a_folder_called_like_a_pattern_or_a_list(tmp_path: Path) -> None:
    for name in ("a,b", "shard-[0-3]", "with blank"):
        two_classes(tmp_path / name, "")
        assert len(open_dataset(tmp_path / name)) == 6
        assert len(open_dataset(str(tmp_path / name))) == 6


def authors_layout(root: Path, text: str, prefix: str = "", part: str = "train") -> Path:
    zip_of(root / f"{part}.zip", [prefix + name for name in NAMES])
    write(root / f"{part}_map.txt", text)
    return root


@pytest.mark.parametrize("prefix", ["", "train/"])
@pytest.mark.parametrize("separator", ["\t", " "])
def test_the_authors_zips_and_maps(tmp_path: Path, prefix: str, separator: str) -> None:
    lines = [f"{name}{separator}{index % 4}" for index, name in enumerate(NAMES)]
    authors_layout(tmp_path, "\r\n".join(lines) + "\n\n", prefix)
    authors_layout(tmp_path, f"{NAMES[4]}{separator}3\n", prefix, "val")
    data = open_dataset(tmp_path, "train")
    assert [data.target(i) for i in range(6)] == [0, 1, 2, 3, 0, 1]
    assert data.classes == ["0", "1", "2", "3"]
    same_pictures(data)
    val = open_dataset(tmp_path, "val")
    assert [val.classes[val.target(0)], len(val)] == ["3", 1]
    assert np.array_equal(np.asarray(val.read(0)), np.asarray(photo(4)))


def test_the_authors_list_of_imagenet_has_its_classes(tmp_path: Path) -> None:
    synsets = imagenet_synsets(1000)
    with zipfile.ZipFile(tmp_path / "val.zip", "w") as archive:
        for name in (f"{synsets[281]}/a.jpg", "b.jpg"):
            archive.writestr(name, b"x")
    table = tmp_path / "val_map.txt"
    table.write_text(f"{synsets[281]}/a.jpg\t281\nb.jpg\t999\n")
    data = open_dataset(tmp_path, "val")
    assert data.classes == list(synsets)
    matched = match_classes(data, imagenet_names(1000))
    assert matched.classes[matched.target(0)] == "tabby"
    # Caffe's order has other numbers for the same classes.
    table.write_text(f"{synsets[281]}/a.jpg\t449\nb.jpg\t999\n")
    with pytest.raises(DatasetError, match="281"):
        open_dataset(tmp_path, "val")


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_table_with_one_label(tmp_path: Path, suffix: str) -> None:
    image_folder(tmp_path / "pictures", ["0.png", "1, too.png", "2.png", "3.png"])
    mark = "\t" if suffix == ".tsv" else ","
    rows = [["file", "label", "split"], ["pictures/0.png", "wasp", "train"], ['"pictures/1, too.png"', "ant", "train"]]
    rows += [["pictures/2.png", "bee", " Train "], ["pictures/3.png", "bee", "validation"]]
    text = "\ufeff" + "\r\n".join(mark.join(row) for row in rows) + "\r\n"
    path = write(tmp_path / f"t{suffix}", text)
    train = open_dataset(path, "train")
    assert train.classes == ["ant", "bee", "wasp"]
    assert [train.classes[train.target(i)] for i in range(3)] == ["wasp", "ant", "bee"]
    same_pictures(train)
    assert len(open_dataset(path, "val")) == 1
    assert len(open_dataset(path)) == 4
    with pytest.raises(MissingPart, match="test"):
        open_dataset(path, "test")


def test_numbers_as_labels_are_ordered_as_numbers(tmp_path: Path) -> None:
    image_folder(tmp_path, ["0.png", "1.png", "2.png"])
    path = write(tmp_path / "t.csv", "file,label\n0.png,10\n1.png,9\n2.png,other\n")
    assert open_dataset(path).classes == ["9", "10", "other"]


def test_table_with_several_labels(tmp_path: Path) -> None:
    image_folder(tmp_path, ["0.png", "1.png", "2.png"])
    path = write(tmp_path / "t.csv", "file,labels,split\n0.png,sea; sun,train\n1.png,,train\n2.png,sun;sun,val\n")
    data = open_dataset(path)
    assert data.multi_label
    assert data.classes == ["sea", "sun"]
    assert [data.target(i) for i in range(3)] == [(0, 1), (), (1,)]
    assert data.subset([0]).multi_label


def test_train_csv_and_val_csv_in_a_folder(tmp_path: Path) -> None:
    image_folder(tmp_path, ["x/0.png", "x/1.png", "x/2.png"])
    write(tmp_path / "train.csv", "file,label\nx/0.png,a\nx/1.png,b\n")
    write(tmp_path / "val.csv", "file,label\nx/2.png,a\n")
    assert (len(open_dataset(tmp_path, "train")), len(open_dataset(tmp_path, "val"))) == (2, 1)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_hub_image_folder_with_metadata(tmp_path: Path, form: str) -> None:
    for part, count in (("train", 3), ("validation", 2)):
        image_folder(tmp_path / part, [f"{i}.png" for i in range(count)])
        rows = [{"file_name": f"{i}.png", "label": "ab"[i % 2]} for i in range(count)]
        if form == "jsonl":
            text = "\n".join(json.dumps(row) for row in rows)
        else:
            text = "file_name,label\n" + "\n".join(",".join(row.values()) for row in rows)
        write(tmp_path / part / f"metadata.{form}", text)
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    assert [train.classes[train.target(i)] for i in range(3)] == ["a", "b", "a"]
    assert len(val) == 2
    same_pictures(train)


def test_metadata_with_lists_is_multi_label(tmp_path: Path) -> None:
    image_folder(tmp_path, ["0.png", "1.png"])
    # A raw line separator of Unicode inside a string is no end of line in JSON lines.
    rows = '{"file_name":"0.png","label":["a"],"note":"b\u2028c"}\n{"file_name":"1.png","label":[],"note":""}\n'
    write(tmp_path / "metadata.jsonl", rows)
    data = open_dataset(tmp_path)
    assert (data.multi_label, data.classes, data.target(1)) == (True, ["a"], ())


def saved_by_datasets(root: Path) -> Path:
    library = pytest.importorskip("datasets")
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["ant", "bee"])})

    def part(seeds: list[int]) -> Any:
        rows = {"image": [{"bytes": picture(s), "path": None} for s in seeds], "label": [s % 2 for s in seeds]}
        return library.Dataset.from_dict(rows, features=features)

    library.DatasetDict({"train": part([0, 1, 2]), "validation": part([3, 4])}).save_to_disk(str(root))
    return root


def test_saved_by_the_datasets_library(tmp_path: Path) -> None:
    root = saved_by_datasets(tmp_path / "d")
    train, val = open_dataset(root, "train"), open_dataset(root, "val")
    assert train.classes == ["ant", "bee"]
    assert [train.target(i) for i in range(3)] == [0, 1, 0]
    same_pictures(train)
    same_pictures(val, 3)
    same_pictures(train.subset([1, 2]), 1)
    assert {train.name(i) for i in range(3)}.isdisjoint(val.name(i) for i in range(2))
    for part, data in (("train", train), ("validation", val)):
        assert open_dataset(root / part).fingerprint() == data.fingerprint()
    with pytest.raises(MissingPart, match="test"):
        open_dataset(root, "test")


def test_a_damaged_folder_of_the_datasets_library(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write(tmp_path / "dataset_info.json", "{}")
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path)
    one_sentence(caught.value, str(tmp_path))


def test_split_holds_out_the_same_share_of_each_class(tmp_path: Path) -> None:
    image_folder(tmp_path, [f"a/{i}.png" for i in range(20)] + [f"b/{i}.png" for i in range(10)] + ["c/0.png", "c/1.png"])
    data = open_dataset(tmp_path)
    train, val = split_dataset(data, 0.2, seed=1)
    assert Counter(val.target(i) for i in range(len(val))) == {0: 4, 1: 2, 2: 1}
    assert sorted(train.items + val.items) == sorted(data.items)
    assert train.classes == val.classes == data.classes
    again = split_dataset(open_dataset(tmp_path), 0.2, seed=1)
    assert again[0].items == train.items
    assert again[1].items == val.items
    assert split_dataset(data, 0.2, seed=2)[1].items != val.items
    shutil.rmtree(tmp_path / "c")
    image_folder(tmp_path, ["c/0.png"])
    with pytest.raises(DatasetError, match="'c' has 1 picture"):
        split_dataset(open_dataset(tmp_path), 0.2, seed=1)


@given(sizes=st.lists(st.integers(2, 30), min_size=1, max_size=4), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_split_leaves_each_class_on_both_sides(sizes: list[int], fraction: float, seed: int) -> None:
    items = [(0, f"{c}-{i}", c) for c, size in enumerate(sizes) for i in range(size)]
    data = ClassificationData([str(c) for c in range(len(sizes))], items, [])
    train, val = split_dataset(data, fraction, seed)
    assert sorted(train.items + val.items) == sorted(items)
    held = Counter(target for _, _, target in val.items)
    for target, size in enumerate(sizes):
        assert 1 <= held[target] <= size - 1
        assert abs(held[target] - fraction * size) <= 1


def test_fingerprint_is_of_the_data_not_of_the_place(tmp_path: Path) -> None:
    first = open_dataset(two_classes(tmp_path / "a", ""))
    second = open_dataset(two_classes(tmp_path / "b", ""))
    packed = open_dataset(zip_of(tmp_path / "c.zip", NAMES))
    assert first.fingerprint() == second.fingerprint() == packed.fingerprint()
    assert first.fingerprint() == open_dataset(tmp_path / "a").fingerprint()
    image_folder(tmp_path / "b", ["bees/9.png"])
    assert open_dataset(tmp_path / "b").fingerprint() != first.fingerprint()
    shutil.move(tmp_path / "a" / "ants", tmp_path / "a" / "wasps")
    assert open_dataset(tmp_path / "a").fingerprint() != first.fingerprint()


def _read_all(data: ClassificationData, answers: Any) -> None:
    answers.put([data.read(i).tobytes() for i in range(len(data))])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_read_the_same(tmp_path: Path, packed: bool, start: str) -> None:
    data = open_dataset(zip_of(tmp_path / "a.zip", NAMES) if packed else two_classes(tmp_path, ""))
    wanted = [data.read(i).tobytes() for i in range(6)]  # the parent's handle is open and moved
    context = multiprocessing.get_context(start)
    answers = context.Queue()
    workers = [context.Process(target=_read_all, args=(data, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=60) for _ in workers] == [wanted, wanted]
    for worker in workers:
        worker.join(60)
    assert [data.read(i).tobytes() for i in range(6)] == wanted


def test_a_pickled_zip_carries_no_handle(tmp_path: Path) -> None:
    data = open_dataset(zip_of(tmp_path / "a.zip", NAMES))
    copy = pickle.loads(pickle.dumps(data))
    assert copy.sources[0]._open == {}
    assert copy.fingerprint() == data.fingerprint()
    same_pictures(copy)


def test_threads_share_a_zip(tmp_path: Path) -> None:
    source = ZipSource(zip_of(tmp_path / "a.zip", NAMES))
    wanted, wrong = [picture(i) for i in range(6)], []

    def work() -> None:
        wrong.extend(i for i in list(range(6)) * 20 if source.read(NAMES[i]) != wanted[i])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Hostile data sets: each maker writes below the folder and returns what is opened and, if not None, the part.
Case = Callable[[Path], Any]


def member(name: str) -> Case:
    return lambda root: zipped(root / "d.zip", {name: picture(), "bees/0.png": picture()})


def csv_file(text: str | bytes, name: str = "t.csv") -> Case:
    def make(root: Path) -> Path:
        image_folder(root, ["0.png", "1.png"])
        return write(root / name, text)

    return make


def authors(text: str | bytes) -> Case:
    def make(root: Path) -> tuple[Path, str]:
        authors_layout(root, "")
        write(root / "train_map.txt", text)
        return root, "train"

    return make


def linked(root: Path) -> Path:
    write(root / "secret.png", picture())
    (root / "set").mkdir()
    (root / "set" / "link.png").symlink_to(root / "secret.png")
    return write(root / "set" / "t.csv", "file,label\nlink.png,a\n")


def shards_that_differ(root: Path) -> str:
    zip_of(root / "train-0.zip", ["ants/0.png", "bees/0.png"])
    zip_of(root / "train-1.zip", ["ants/1.png", "wasps/0.png"])
    return f"{root}/train-[01].zip"


def truncated_zip(root: Path) -> Path:
    path = zip_of(root / "d.zip", NAMES)
    return write(path, path.read_bytes()[:-40])


def other_zips(root: Path) -> tuple[Path, str]:
    zip_of(root / "pictures.zip", NAMES)
    return root, "train"


def only_train(root: Path) -> tuple[Path, str]:
    return two_classes(root, "train"), "test"


CASES: dict[str, tuple[Case, str]] = {
    "zip member ../": (member("../../ants/0.png"), "leads out"),
    "zip member inner ..": (member("ants/../../0.png"), "leads out"),
    "zip member absolute": (member("/etc/0.png"), "leads out"),
    "zip member backslash": (member("..\\ants\\0.png"), "leads out"),
    "zip member with a drive": (member("C:/ants/0.png"), "leads out"),
    "zip folder member ../": (
        lambda root: zipped(root / "d.zip", [("../up/", b""), ("ants/0.png", picture())]),
        "leads out",
    ),
    "zip member a link": (lambda root: hostile.zip_with_link(root / "d.zip"), "is a link"),
    "zip encrypted": (lambda root: hostile.zip_encrypted(root / "d.zip"), "encrypted"),
    "zip doubled names": (lambda root: hostile.zip_doubled(root / "d.zip"), "twice"),
    "zip announcing 4 GB": (lambda root: hostile.zip_announcing(root / "d.zip", 0xFFFF_FFF0), "announces"),
    "zip bomb": (lambda root: hostile.zip_bomb(root / "d.zip"), "announces"),
    "not a zip": (lambda root: write(root / "d.zip", "hello"), "no readable zip"),
    "an empty file as zip": (lambda root: write(root / "d.zip", b""), "no readable zip"),
    "truncated zip": (truncated_zip, "no readable zip"),
    "a folder called .zip": (lambda root: write(root / "d.zip" / "x.txt", "x").parent, "no picture"),
    "zip without members": (lambda root: zipped(root / "d.zip", {}), "no picture"),
    "zip without pictures": (lambda root: zipped(root / "d.zip", {"a/b.txt": b"x"}), "no picture"),
    "zip with loose pictures": (lambda root: zip_of(root / "d.zip", ["0.png", "1.png"]), "no picture"),
    "csv ../../etc/passwd": (csv_file("file,label\n../../etc/passwd,a\n"), "leads out"),
    "csv ../ then back": (csv_file("file,label\nx/../../0.png,a\n"), "leads out"),
    "csv absolute": (csv_file("file,label\n/etc/passwd,a\n"), "leads out"),
    "csv link out of the folder": (linked, "leads out"),
    "csv NUL in a name": (csv_file("file,label\n0.png\0,a\n"), "t.csv|file name"),
    "csv very long name": (csv_file(f"file,label\n{'a' * 300}.png,a\n"), "does not exist"),
    "csv missing file": (csv_file("file,label\n0.png,a\nnone.png,b\n"), "line 3"),
    "csv names a folder": (csv_file("file,label\n.,a\n"), "does not exist"),
    "csv missing column label": (csv_file("file,lable\n0.png,a\n"), "no column 'label'"),
    "csv missing column file": (csv_file("picture,label\n0.png,a\n"), "no column 'file_name'"),
    "csv too few columns": (csv_file("file,label\n0.png,a\n1.png\n"), "line 3"),
    "csv too many columns": (csv_file("file,label\n0.png,a,b\n"), "line 2"),
    "csv empty label": (csv_file("file,label\n0.png,a\n1.png, \n"), "line 3.*empty"),
    "csv empty file": (csv_file("file,label\n ,a\n"), "line 2.*empty"),
    "csv without rows": (csv_file("file,label\n"), "no rows"),
    "csv empty": (csv_file(""), "no rows"),
    "csv Latin-1": (csv_file("file,label\n0.png,Bär\n".encode("latin-1")), "UTF-8"),
    "csv UTF-16": (csv_file("file,label\n0.png,a\n".encode("utf-16")), "UTF-8"),
    "csv open quote": (csv_file('file,label\n"0.png,a\n'), "cannot be read"),
    "csv field too large": (csv_file(f"file,label\n0.png,{'x' * 200_000}\n"), "cannot be read"),
    "csv a split nobody has": (lambda root: (csv_file("file,label,split\n0.png,a,train\n")(root), "val"), "no row"),
    "csv no split column": (lambda root: (csv_file("file,label\n0.png,a\n")(root), "val"), "no column 'split'"),
    "metadata no JSON": (lambda root: csv_file("{", "metadata.jsonl")(root).parent, "is not usable JSON"),
    "metadata deep JSON": (lambda root: csv_file("[" * 200_000, "metadata.jsonl")(root).parent, "is not usable JSON"),
    "metadata no object": (lambda root: csv_file("[1]", "metadata.jsonl")(root).parent, "JSON object"),
    "metadata huge number": (
        lambda root: csv_file('{"file_name":"0.png","label":' + "9" * 5000 + "}", "metadata.jsonl")(root).parent,
        "out of range",
    ),
    "metadata lacking a key": (
        lambda root: csv_file('{"file_name":"0.png","label":1}\n{"file_name":"1.png"}', "metadata.jsonl")(root).parent,
        "same keys",
    ),
    "metadata null label": (
        lambda root: csv_file('{"file_name":"0.png","label":null}', "metadata.jsonl")(root).parent,
        "empty",
    ),
    "map huge index": (authors("ants/0.png\t99999999\n"), "too large"),
    "map index of 5000 digits": (authors(f"ants/0.png\t{'9' * 5000}\n"), "line 1"),
    "map negative index": (authors("ants/0.png\t-1\n"), "line 1"),
    "map without index": (authors("ants/0.png\t0\nants/1.png\n"), "line 2"),
    "map naming an absent file": (authors("ants/0.png\t0\nants/77.png\t1\n"), "line 2.*not in train.zip"),
    "map naming a file outside": (authors("../../../etc/passwd\t0\n"), "not in train.zip"),
    "map empty": (authors(""), "no picture"),
    "map in Latin-1": (authors("bär.png\t0\n".encode("latin-1")), "UTF-8"),
    "map without its zip": (lambda root: (write(root / "train_map.txt", "a\t0").parent, "train"), "train.zip"),
    "empty folder": (lambda root: root, "no picture"),
    "folder of loose pictures": (lambda root: image_folder(root, ["0.png", "1.png"]), "no picture"),
    "folder of other zips": (other_zips, "no zip begins with"),
    "part not there": (only_train, "no part 'test', only train"),
    "unknown split": (lambda root: (two_classes(root, "train"), "dev"), "no split 'dev'"),
    "pattern matching nothing": (lambda root: f"{root}/train-[0-3].zip", "nothing matches"),
    "one of a list missing": (lambda root: f"{zip_of(root / 'a.zip', NAMES)},{root}/b.zip", "does not exist"),
    "shards of different classes": (shards_that_differ, "other classes"),
    "missing path": (lambda root: root / "none", "does not exist"),
    "name too long": (lambda root: root / ("x" * 300), "does not exist"),
    "another kind of file": (lambda root: write(root / "a.txt", "x"), "folder, a zip or a CSV"),
}


@pytest.mark.parametrize(("make", "complaint"), CASES.values(), ids=CASES.keys())
def test_hostile_data_sets_are_refused(tmp_path: Path, make: Case, complaint: str) -> None:
    root = tmp_path / "in" / "side"
    root.mkdir(parents=True)
    made = make(root)
    source, split = made if isinstance(made, tuple) else (made, None)
    before = everything_below(tmp_path)
    with pytest.raises(DatasetError, match=complaint) as caught:
        open_dataset(source, split)
    one_sentence(caught.value, str(root))
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("text", ["", "  ", ",", "x," * 3000, "a\0b"])
def test_paths_that_are_none(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two_classes(tmp_path, ""))
    with pytest.raises(DatasetError) as caught:
        open_dataset(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [hostile.zip_bad_crc, hostile.zip_unknown_compression])
def test_a_broken_member_is_a_broken_picture(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "d.zip")
    data = open_dataset(path)
    with pytest.raises(SwinkitError, match="cannot be unpacked") as caught:
        data.read(0)
    assert one_sentence(caught.value, "ants/0.png").startswith(f"{path}/ants/0.png: ")
    assert data.read(1).size == (24, 16)


def test_a_broken_picture_in_a_data_set_names_itself(tmp_path: Path) -> None:
    data = open_dataset(zipped(tmp_path / "d.zip", {"ants/0.png": b"text", "bees/0.png": picture()}))
    with pytest.raises(SwinkitError) as caught:
        data.read(0)
    assert one_sentence(caught.value, "d.zip").startswith(f"{data.name(0)}: ")


@given(data=st.data())
def test_damaged_zips_never_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("zip")
    path = zip_of(root / "d.zip", ["ants/0.png", "bees/0.png"])
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")  # damage in the directory, where names, sizes and places stand
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(start, len(content) - 1))] = data.draw(st.integers(0, 255))
    write(path, bytes(content))
    try:
        opened = open_dataset(path)
        for index in range(len(opened)):
            opened.read(index)
    except SwinkitError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    assert os.listdir(root) == ["d.zip"]  # noqa: PTH208
