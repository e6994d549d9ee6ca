"""Traps that real data sets hold and that pass without a word where nobody looks; and what check-data says of each."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.hostile import encoded, image_folder, one_sentence, photo, picture, two_classes, write, zip_of, zipped

from swinkit.data import check_data, open_dataset
from swinkit.data.check import near_pairs
from swinkit.data.folders import MissingPart
from swinkit.data.images import read_image
from swinkit.errors import DatasetError, ImageError


def test_reading_in_threads_leaves_the_warning_filters_alone() -> None:
    short, long = encoded(photo(1, (1200, 1200))), encoded(photo(2, (2600, 2600)))
    before = list(warnings.filters)
    for _ in range(3):
        threads = [threading.Thread(target=read_image, args=(data,)) for data in (short, long)]
        threads[0].start()
        time.sleep(0.01)  # the second begins inside the first and ends after it
        threads[1].start()
        for thread in threads:
            thread.join()
    assert list(warnings.filters) == before


def test_pillow_is_hushed_and_nobody_else(shared: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(shared / "data" / "hostile" / "large_10000x9000_grey.png")
        read_image(shared / "data" / "hostile" / "hopper_bad_exif.jpg")
        assert caught == []
        warnings.warn("mine", UserWarning, stacklevel=1)
    assert [str(entry.message) for entry in caught] == ["mine"]


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    image_folder(tmp_path, ["bus/0.png", "train/0.png", "train/1.png"])
    assert open_dataset(tmp_path, "train").classes == ["bus", "train"]
    with pytest.raises(MissingPart):
        open_dataset(tmp_path, "val")


def test_a_class_called_train_inside_parts(tmp_path: Path) -> None:
    image_folder(tmp_path, ["train/bus/0.png", "train/train/0.png", "val/bus/0.png", "val/train/0.png"])
    assert open_dataset(tmp_path, "train").classes == open_dataset(tmp_path, "val").classes == ["bus", "train"]


def test_parts_without_classes_are_no_classes(tmp_path: Path) -> None:
    image_folder(tmp_path, ["train/0.png", "val/1.png"])
    with pytest.raises(DatasetError, match="no picture found"):
        open_dataset(tmp_path, "train")


def test_a_label_too_rare_for_a_part_keeps_its_index(tmp_path: Path) -> None:
    image_folder(tmp_path, [f"{i}.png" for i in range(4)])
    rows = ["0.png,air;sea,train", "1.png,sky,train", "2.png,sky,val", "3.png,sea,val"]
    path = write(tmp_path / "t.csv", "\n".join(["file,labels,split", *rows]))
    train, val = open_dataset(path, "train"), open_dataset(path, "val")
    assert train.classes == val.classes == ["air", "sea", "sky"]
    assert [val.target(i) for i in range(2)] == [(2,), (1,)]
    assert not any("other classes" in text for text in check_data(path).fatal)


def test_files_of_another_part_need_not_be_here(tmp_path: Path) -> None:
    image_folder(tmp_path, ["0.png", "1.png"])
    path = write(tmp_path / "t.csv", "file,label,split\n0.png,a,train\n1.png,b,train\naway/9.png,a,test\n")
    assert len(open_dataset(path, "train")) == 2
    with pytest.raises(DatasetError, match=r"line 4.*does not exist"):
        open_dataset(path, "test")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_metadata_above_the_parts_does_not_mix_them(tmp_path: Path, form: str) -> None:
    names = ["train/0.png", "train/1.png", "val/2.png", "val/3.png"]
    image_folder(tmp_path, names)
    rows = [{"file_name": name, "label": "ab"[i % 2]} for i, name in enumerate(names)]
    lines = [json.dumps(row) for row in rows] if form == "jsonl" else ["file_name,label", *(",".join(r.values()) for r in rows)]
    write(tmp_path / f"metadata.{form}", "\n".join(lines))
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    assert [train.name(i) for i in range(len(train))] == [str(tmp_path / name) for name in names[:2]]
    assert [val.name(i) for i in range(len(val))] == [str(tmp_path / name) for name in names[2:]]
    assert len(open_dataset(tmp_path)) == 4
    with pytest.raises(MissingPart, match="test"):
        open_dataset(tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("metadata.jsonl", '{"file_name":"0.png","label":"a"}\n\n{"file_name":"no.png","label":"a"}\n', 3),
        ("metadata.jsonl", '{"file_name":"0.png","label":"a"}\n[1]\n', 2),
        ("metadata.csv", 'file_name,label\n0.png,"two\nlines"\nno.png,a\n', 4),
    ],
)
def test_the_line_named_is_the_line_in_the_file(tmp_path: Path, name: str, text: str, line: int) -> None:
    image_folder(tmp_path, ["0.png"])
    write(tmp_path / name, text)
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}, line {line}: ")  # the place once, not wrapped again


def test_the_authors_zip_paths(tmp_path: Path) -> None:
    zip_of(tmp_path / "train.zip", ["n1/0.png", "n2/1.png"])
    write(tmp_path / "train_map.txt", "train.zip@/n1/0.png\t0\n@/n2/1.png\t1\n")
    data = open_dataset(tmp_path, "train")
    assert [data.name(i) for i in range(2)] == [f"{tmp_path}/train.zip/n1/0.png", f"{tmp_path}/train.zip/n2/1.png"]


def test_a_linked_class_folder_is_named_not_lost(tmp_path: Path) -> None:
    two_classes(tmp_path / "far", "")
    two_classes(tmp_path / "set", "")
    (tmp_path / "set" / "wasps").symlink_to(tmp_path / "far" / "ants")
    with pytest.raises(DatasetError, match="link to a folder") as caught:
        open_dataset(tmp_path / "set")
    one_sentence(caught.value, str(tmp_path / "set" / "wasps"))


def latin_1(folder: Path, name: bytes) -> Path:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    try:
        return write(path, picture(9))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")


def test_a_picture_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    two_classes(tmp_path, "")
    latin_1(tmp_path / "ants", b"b\xe4r.png")
    data = open_dataset(tmp_path)
    assert len(data.fingerprint()) == 16
    names = [data.name(i) for i in range(len(data))]
    assert len(set(names)) == 7
    "\n".join(names).encode()  # can be printed and written
    assert all(data.read(i).mode == "RGB" for i in range(7))


def test_a_class_whose_name_cannot_be_shown(tmp_path: Path) -> None:
    two_classes(tmp_path, "")
    latin_1(tmp_path, b"w\xe4sp/0.png")
    with pytest.raises(DatasetError, match="rename") as caught:
        open_dataset(tmp_path)
    one_sentence(caught.value, str(tmp_path)).encode()


def test_control_characters_in_a_name_stay_out_of_the_message(tmp_path: Path) -> None:
    two_classes(tmp_path, "")
    write(tmp_path / "ants" / "x\n\x1b[31mFATAL.png", "text")
    report = check_data(tmp_path)
    assert "x\\n\\x1b[31mFATAL.png" in report.fatal[0]
    assert all(char.isprintable() for text in report.fatal + report.warnings for char in text)
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "ants" / "x\n\x1b[31mFATAL.png")
    one_sentence(caught.value, "FATAL.png")


@pytest.mark.parametrize("size", [5 * 2**20, 30 * 2**20])
def test_zip_bombs_of_any_size(tmp_path: Path, size: int) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("ants/0.bmp", bytes(size))
    with pytest.raises(DatasetError, match="announces") as caught:
        open_dataset(tmp_path / "d.zip")
    one_sentence(caught.value, "ants/0.bmp")


def test_a_flat_picture_in_a_zip_is_no_bomb(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ants/0.bmp", encoded(Image.new("RGB", (1024, 768)), "BMP"))
    assert open_dataset(tmp_path / "d.zip").read(0).size == (1024, 768)


def hub_folder(root: Path, parts: dict[str, list[dict[str, Any]]], classes: dict[str, list[str]]) -> Path:
    """Save rows as the datasets library does, without letting it touch them: only its feature list says "Image"."""
    library = pytest.importorskip("datasets")
    library.disable_progress_bars()
    plain = {"bytes": library.Value("binary"), "path": library.Value("string")}
    made = {}
    for part, rows in parts.items():
        table = {"image": rows, "label": [i % 2 for i in range(len(rows))]}
        features = library.Features({"image": plain, "label": library.ClassLabel(names=classes[part])})
        made[part] = library.Dataset.from_dict(table, features=features)
    library.DatasetDict(made).save_to_disk(str(root))
    for info in root.rglob("dataset_info.json"):
        content = json.loads(info.read_text())
        content["features"]["image"] = {"_type": "Image"}
        info.write_text(json.dumps(content))
    for arrow in root.rglob("*.arrow"):  # the library also keeps the features in the table's own metadata
        import pyarrow as pa

        with pa.OSFile(str(arrow)) as file:
            table = pa.ipc.open_stream(file).read_all()
        with pa.OSFile(str(arrow), "wb") as sink, pa.ipc.new_stream(sink, table.schema.remove_metadata()) as out:
            out.write_table(table.replace_schema_metadata(None))
    return root


def test_hub_rows_go_through_the_one_reader(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    upright = photo(5)
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    script = encoded(photo(1), "EPS")  # Pillow alone would hand this to another program
    secret = write(tmp_path / "secret.png", picture(7))
    rows = [{"bytes": b, "path": p} for b, p in ((turned, None), (script, "a.eps"), (None, str(secret)), (b"text", None))]
    names = ["ant", "bee"]
    data = open_dataset(hub_folder(tmp_path / "d", {"train": rows}, {"train": names}), "train")
    assert np.array_equal(np.asarray(data.read(0)), np.asarray(upright))
    for index, complaint in ((1, "document"), (2, "path instead of a picture"), (3, "it is text")):
        with pytest.raises(ImageError, match=complaint) as caught:
            data.read(index)
        assert one_sentence(caught.value, "d/train").startswith(f"{data.name(index)}: ")


def test_the_same_classes_in_another_order_are_fatal(tmp_path: Path) -> None:
    rows = [{"bytes": picture(i), "path": None} for i in range(2)]
    classes = {"train": ["ant", "bee"], "validation": ["bee", "ant"]}
    report = check_data(hub_folder(tmp_path / "d", {"train": rows, "validation": rows}, classes))
    assert any("another order" in text for text in report.fatal)


# What check-data says.


def good_set(root: Path, count: int = 12) -> Path:
    two_classes(root, "train", count)
    return two_classes(root, "val", count, first_seed=500)


def test_a_good_set_has_nothing_to_complain_about(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = check_data(good_set(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert (report.fatal, report.warnings, report.broken) == ([], [], [])
    assert report.counts == {"train": {"ants": 12, "bees": 12}, "val": {"ants": 12, "bees": 12}}
    assert seen == [(i, 48) for i in range(1, 49)]
    assert json.loads(json.dumps(report.to_dict()))["counts"]["val"]["bees"] == 12


def test_every_broken_picture_is_found_and_named(tmp_path: Path) -> None:
    good_set(tmp_path)
    bad = {
        "train/ants/empty.jpg": b"",
        "train/ants/page.jpg": b"<html>gone</html>",
        "train/bees/cut.jpg": picture(1, "JPEG")[:-150],
        "val/bees/text.png": b"hello",
    }
    for name, data in bad.items():
        write(tmp_path / name, data)
    report = check_data(tmp_path)
    assert len(report.broken) == len(bad)
    for name, text in zip(sorted(bad), sorted(report.broken), strict=True):
        assert text.startswith(f"{tmp_path / name}: ")
    assert report.fatal[0].startswith("4 pictures cannot be read")


def test_side_files_are_counted_once_over_all_parts(tmp_path: Path) -> None:
    good_set(tmp_path)
    for name in ("train/ants/Thumbs.db", "train/bees/a.txt", "val/ants/b.txt"):
        write(tmp_path / name, "x")
    assert check_data(tmp_path).skipped == {".db": 1, ".txt": 2}


def test_duplicates_within_and_between_parts(tmp_path: Path) -> None:
    good_set(tmp_path)
    shutil.copy(tmp_path / "train/ants/0.png", tmp_path / "val/ants/leak.png")
    write(tmp_path / "train/bees/again.png", encoded(photo(500 + 12), "PNG", compress_level=0))  # same pixels, other bytes
    shutil.copy(tmp_path / "train/ants/3.png", tmp_path / "train/ants/twice.png")
    report = check_data(tmp_path)
    groups = [{Path(name).relative_to(tmp_path).as_posix() for name in group} for group in report.exact_duplicates]
    assert {"train/ants/0.png", "val/ants/leak.png"} in groups
    assert {"train/bees/again.png", "val/bees/0.png"} in groups
    assert {"train/ants/3.png", "train/ants/twice.png"} in groups
    assert any(text.startswith("2 pictures stand in two parts") for text in report.warnings)
    assert any(text.startswith("1 pictures stand twice in a part") for text in report.warnings)


def test_near_duplicates_between_parts(tmp_path: Path) -> None:
    good_set(tmp_path)
    write(tmp_path / "train/ants/big.png", encoded(photo(900, (240, 160))))
    write(tmp_path / "val/ants/small.jpg", encoded(photo(900, (240, 160)).resize((120, 80)), "JPEG", quality=60))
    report = check_data(tmp_path)
    [(first, second, bits)] = report.near_duplicates
    assert {Path(first).name, Path(second).name} == {"big.png", "small.jpg"}
    assert 0 <= bits <= 20
    assert any("nearly the same photo" in text for text in report.warnings)


def test_flat_pictures_are_no_near_duplicates_of_each_other(tmp_path: Path) -> None:
    good_set(tmp_path)
    for shade in range(12):
        write(tmp_path / f"train/ants/flat{shade}.png", encoded(Image.new("RGB", (20, 20), (shade * 20, 9, 9))))
    assert check_data(tmp_path).near_duplicates == []


def test_tiny_and_uneven_classes(tmp_path: Path) -> None:
    image_folder(tmp_path, ["a/0.png", *(f"b/{i}.png" for i in range(1, 6)), *(f"c/{i}.png" for i in range(6, 80))])
    report = check_data(tmp_path)
    assert [text for text in report.fatal if "'a' has 1" in text]
    assert [text for text in report.warnings if "'b' has only 5" in text]
    assert [text for text in report.warnings if "largest class has 74" in text]


def test_folders_without_pictures_are_named(tmp_path: Path) -> None:
    good_set(tmp_path)
    (tmp_path / "train" / "wasps").mkdir()
    write(tmp_path / "val" / "hornets" / "clip.mp4", "x")
    [text] = [text for text in check_data(tmp_path).warnings if "no class" in text]
    assert text.startswith("2 folders hold no picture")
    assert str(tmp_path / "train" / "wasps") in text


def test_moving_pictures_are_named(tmp_path: Path) -> None:
    good_set(tmp_path)
    buffer = io.BytesIO()
    photo(700).save(buffer, "GIF", save_all=True, append_images=[photo(701)])
    write(tmp_path / "train/ants/moving.gif", buffer.getvalue())
    write(tmp_path / "train/ants/still.gif", picture(702, "GIF"))
    [text] = [text for text in check_data(tmp_path).warnings if "moving pictures" in text]
    assert text.startswith("1 moving pictures")
    assert "moving.gif" in text


@pytest.mark.parametrize("form", ["zip", "table"])
def test_other_forms_are_checked_too(tmp_path: Path, form: str) -> None:
    names = [f"{c}/{i}.png" for c in ("ants", "bees") for i in range(10)]
    if form == "zip":
        members = {name: picture(seed) for seed, name in enumerate(names)} | {"bees/bad.png": b"x"}
        source = zipped(tmp_path / "d.zip", members)
    else:
        image_folder(tmp_path, names)
        write(tmp_path / "bees/bad.png", "x")
        rows = [f"{name},{name[:4]}" for name in [*names, "bees/bad.png"]]
        source = write(tmp_path / "t.csv", "\n".join(["file,label", *rows]))
    report = check_data(source)
    assert len(report.broken) == 1
    assert "bees/bad.png" in report.broken[0]
    assert sum(next(iter(report.counts.values())).values()) == 21


def test_a_film_of_equal_frames_ends_soon() -> None:
    assert len(near_pairs(np.ones((4000, 32), dtype=np.uint8), most=500)) == 500
