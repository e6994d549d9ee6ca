"""One reader for every picture: collections of odd and hostile files, and every mode made by hand."""

from __future__ import annotations

import csv
import io
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.hostile import encoded, one_sentence, photo, picture, png_announcing, write

from swinkit.data.images import MAX_PIXELS, read_image, to_rgb
from swinkit.errors import ImageError, SwinkitError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a shared table; none without it, so the parametrised test is skipped."""
    return list(csv.DictReader(path.open(newline="", encoding="utf-8"))) if path.is_file() else []


HOSTILE = table(DATA / "hostile" / "table.csv")
PHOTOS = table(DATA / "photos" / "expected.csv")


@pytest.mark.parametrize("row", HOSTILE, ids=lambda row: row["file"])
def test_hostile_files(shared: Path, row: dict[str, str]) -> None:
    path = shared / "data" / "hostile" / row["file"]
    assert path.is_file()
    try:
        image = read_image(path)
    except ImageError as error:
        assert row["good_reader"] in ("refuse", "either"), error
        assert one_sentence(error, str(path)).startswith(f"{path}: ")
        return
    assert row["good_reader"] in ("read", "either")
    assert image.mode == "RGB"
    assert np.asarray(image).shape == (image.height, image.width, 3)


@pytest.mark.parametrize("row", PHOTOS, ids=lambda row: row["file"])
def test_photos_in_every_dress(shared: Path, row: dict[str, str]) -> None:
    folder = shared / "data" / "photos"
    image = read_image(folder / row["file"])
    assert image.mode == "RGB"
    assert image.size == (int(row["upright_width"]), int(row["upright_height"]))
    pixels = np.asarray(image, dtype=np.float64)
    assert pixels.mean() == pytest.approx(float(row["mean"]), abs=1.0)
    with Image.open(folder / row["reference"]) as stored:
        reference = stored.convert("RGB").resize(image.size, Image.Resampling.LANCZOS)
    assert np.abs(pixels - np.asarray(reference, dtype=np.float64)).mean() <= float(row["allow"])


def test_photos_whose_range_nobody_knows(shared: Path) -> None:
    with pytest.raises(ImageError, match="32-bit integer"):
        read_image(shared / "data" / "photos" / "camera_int32.tif")


def test_heif_says_what_to_install_or_reads(shared: Path) -> None:
    path = shared / "data" / "photos" / "pillow" / "hopper.heif"
    try:
        image = read_image(path)
    except ImageError as error:
        assert "pillow-heif" in one_sentence(error, str(path))
    else:
        assert image.size == (128, 128)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_is_divided_by_257(form: str) -> None:
    values = np.array([[0, 257, 1000], [40_000, 65_278, 65_535]], dtype=np.uint16)
    out = np.asarray(read_image(encoded(Image.fromarray(values), form)))
    assert (out == np.rint(values / 257)[..., None]).all()


def test_16_bit_pgm() -> None:
    values = np.array([[0, 257], [40_000, 65_535]], dtype=">u2")
    out = np.asarray(read_image(b"P5 2 2 65535\n" + values.tobytes(), grey=True))
    assert out.tolist() == np.rint(values / 257).tolist()


def test_float_between_0_and_1_is_multiplied_by_255() -> None:
    values = np.array([[0.0, 0.25], [0.5, 1.0]], dtype=np.float32)
    out = np.asarray(read_image(encoded(Image.fromarray(values), "TIFF")))
    assert (out == np.rint(values * 255)[..., None]).all()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (np.array([[0.0, 1.5]], dtype=np.float32), "no known range"),
        (np.array([[-0.1, 0.5]], dtype=np.float32), "no known range"),
        (np.array([[0.0, np.nan]], dtype=np.float32), "NaN"),
        (np.array([[0.0, np.inf]], dtype=np.float32), "NaN or infinity"),
        (np.array([[0, 70_000]], dtype=np.int32), "32-bit integer"),
    ],
)
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, values: np.ndarray, complaint: str) -> None:
    path = write(tmp_path / "a.tif", encoded(Image.fromarray(values), "TIFF"))
    with pytest.raises(ImageError, match=complaint) as caught:
        read_image(path)
    assert one_sentence(caught.value, str(path)).startswith(str(path))


def test_grey_with_alpha_keeps_the_grey() -> None:
    values = np.array([[[10, 0], [200, 128]]], dtype=np.uint8)
    out = np.asarray(read_image(encoded(Image.fromarray(values, "LA"))))
    assert out.tolist() == [[[10] * 3, [200] * 3]]


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white(form: str) -> None:
    values = np.array([[[255, 0, 255, 0], [100, 50, 0, 255], [0, 0, 0, 51]]], dtype=np.uint8)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    out = np.asarray(read_image(encoded(Image.fromarray(values), form, **options)), dtype=int)
    alpha = values[..., 3:] / 255
    over = np.rint(values[..., :3] * alpha + 255 * (1 - alpha)).astype(int)
    assert np.abs(out - over).max() <= 1
    assert out[0, 0].tolist() == [255, 255, 255]


def test_transparent_palette_entries_are_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 255, 10, 20, 30])
    image.putdata([0, 1])
    for form in ("PNG", "GIF"):
        out = np.asarray(read_image(encoded(image, form, transparency=0)))
        assert out.tolist() == [[[255, 255, 255], [10, 20, 30]]], form


def test_transparent_colour_of_an_rgb_png_is_white() -> None:
    image = Image.fromarray(np.array([[[255, 0, 255], [10, 20, 30]]], dtype=np.uint8))
    out = np.asarray(read_image(encoded(image, transparency=(255, 0, 255))))
    assert out.tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(form: str) -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow: red
    red, green, blue = np.asarray(read_image(encoded(ink, form)), dtype=int)[8, 8]
    assert red > 220
    assert max(green, blue) < 60


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_mode_gives_rgb_and_grey(mode: str) -> None:
    data = encoded(photo().convert("L").convert(mode) if mode in ("1", "LA", "I;16") else photo().convert(mode))
    assert read_image(data).mode == "RGB"
    assert read_image(data, grey=True).mode == "L"
    assert read_image(data).size == photo().size


# Orientation of the stored picture -> how to make it from the upright one (EXIF 2.32, tag 274).
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [0, *TURNS, 9, 65535])
def test_exif_orientation(orientation: int, form: str) -> None:
    upright = photo(3)
    turn = TURNS.get(orientation)
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(stored, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    assert np.array_equal(np.asarray(read_image(data)), np.asarray(upright))


def test_first_frame_and_first_page() -> None:
    pages = [photo(1), photo(2)]
    stored = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert np.array_equal(np.asarray(read_image(stored)), np.asarray(pages[0]))


def test_paths_bytes_and_files_give_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", picture(4))
    wanted = np.asarray(photo(4))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert np.array_equal(np.asarray(read_image(source)), wanted)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (b"hello", "it is text"),
        (b"<!DOCTYPE html><html>lost</html>", "web page"),
        (b"<svg xmlns='x'/>", "vector drawing"),
        (b"%PDF-1.7 ...", "document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "document"),
        (b"\xff\xd8\xff" + bytes(20), "."),
        (bytes(range(256)), "unknown format"),
        (png_announcing(60_000, 60_000), "pixels"),
        (png_announcing(MAX_PIXELS // 1000 + 1, 1000), "."),
        (picture()[:-30], "."),
        (picture(0, "JPEG")[:-200], "cut off"),
        (picture().replace(b"IDAT", b"IDaT"), "."),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path: Path, data: bytes, complaint: str) -> None:
    path = write(tmp_path / "a.png", data)
    with pytest.raises(ImageError, match=complaint) as caught:
        read_image(path)
    assert one_sentence(caught.value, str(path)).startswith(f"{path}: ")
    with pytest.raises(ImageError, match=r"^picture: "):
        read_image(data)
    with pytest.raises(ImageError, match=r"^shown name: "):
        read_image(data, name="shown name")


def test_folders_and_missing_files(tmp_path: Path) -> None:
    for path, complaint in ((tmp_path, "folder"), (tmp_path / "none.png", "does not exist")):
        with pytest.raises(ImageError, match=complaint) as caught:
            read_image(path)
        one_sentence(caught.value, str(path))
    for odd in ("a" * 300 + ".png", "a\0b.png"):
        with pytest.raises(ImageError):
            read_image(tmp_path / odd)


def test_an_open_picture_over_the_bound_is_refused() -> None:
    image = Image.new("1", (MAX_PIXELS // 8000 + 1, 8000))
    with pytest.raises(ImageError, match=r"^here: .* pixels"):
        to_rgb(image, "here")


def test_several_threads_read_the_same() -> None:
    data, wanted = picture(5), np.asarray(photo(5)).tobytes()
    results: list[bool] = []

    def work() -> None:
        results.extend(read_image(data).tobytes() == wanted for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


@given(form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"]), data=st.data())
def test_damage_never_raises_anything_else(form: str, data: st.DataObject) -> None:
    good = bytearray(picture(1, form))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    broken = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        image = read_image(broken)
    except SwinkitError as error:
        one_sentence(error, "picture")
    else:
        assert image.mode == "RGB"


def test_a_caller_s_picture_stays_as_it_is() -> None:
    exif = Image.Exif()
    exif[274] = 6
    with Image.open(io.BytesIO(encoded(Image.new("RGB", (12, 8), "red"), "PNG", exif=exif))) as picture:
        turned = to_rgb(picture)
        assert (turned.size, picture.size, picture.getexif()[274]) == ((8, 12), (12, 8), 6)
    plain = Image.new("RGB", (4, 4))
    assert to_rgb(plain) is not plain
