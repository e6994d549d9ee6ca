"""The predictor: one photo, many, broken ones, arrays, order, memory, and the way back from a saved directory."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swinkit import weights
from swinkit.data.images import read_image
from swinkit.data.transforms import prepare
from swinkit.errors import CheckpointError, ImageError, InputError
from swinkit.models.classifier import SwinClassifier
from swinkit.prediction import ClassificationResult, Prediction, Predictor, draw_bars, find_images, load
from swinkit.prediction.predictor import pick_device
from swinkit.specs import ModelSpec, Preprocessing, Variant

SHAPE = Variant(embed_dim=12, depths=(1, 1), num_heads=(2, 4), window_size=4, img_size=32, num_classes=7)
LABELS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


def tiny_spec(**changes) -> ModelSpec:
    return ModelSpec(SHAPE, Preprocessing(size=(32, 32)), labels=LABELS, name="tiny").changed(**changes)


def tiny_predictor(**changes) -> Predictor:
    torch.manual_seed(1)
    spec = tiny_spec(**changes)
    model = SwinClassifier(spec.variant)
    torch.nn.init.normal_(model.head.weight)  # far from equal probabilities
    return Predictor(model, spec)


def photo(seed: int = 0, size: tuple[int, int] = (50, 40)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return tiny_predictor()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six photos, one broken file among them, and files that are no images."""
    for number in range(6):
        photo(number).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"not a picture")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    return tmp_path


def test_the_answer_is_the_network_s_softmax(predictor: Predictor) -> None:
    image = photo()
    result = predictor.predict(image, top=7)
    logits = predictor.model(prepare(image, predictor.preprocessing)[None])[0]
    expected = torch.softmax(logits, dim=0)
    assert [p.index for p in result.predictions] == expected.argsort(descending=True).tolist()
    for prediction in result.predictions:
        assert prediction.label == LABELS[prediction.index]
        assert prediction.probability == pytest.approx(float(expected[prediction.index]), abs=1e-6)
    assert sum(p.probability for p in result.predictions) == pytest.approx(1, abs=1e-5)
    assert result.top == result.predictions[0]
    assert result.error is None


def test_the_network_is_in_eval_mode() -> None:
    model = SwinClassifier(SHAPE.changed(drop_path=0.5)).train()
    predictor = Predictor(model, tiny_spec())
    assert not predictor.model.training
    assert predictor.predict(photo()) == predictor.predict(photo())


def test_multi_label_takes_the_sigmoid() -> None:
    predictor = tiny_predictor(multi_label=True)
    result = predictor.predict(photo(), top=7)
    logits = predictor.model(prepare(photo(), predictor.preprocessing)[None])[0]
    for prediction in result.predictions:
        assert prediction.probability == pytest.approx(float(logits[prediction.index].sigmoid()), abs=1e-6)


def test_unknown_names_are_the_indices() -> None:
    predictor = tiny_predictor(labels=())
    assert predictor.labels == ["0", "1", "2", "3", "4", "5", "6"]
    result = predictor.predict(photo())
    assert result.top.label == str(result.top.index)


def test_wrong_number_of_names_and_no_classes_are_refused() -> None:
    with pytest.raises(CheckpointError, match="2 class names were given for 7 outputs"):
        Predictor(SwinClassifier(SHAPE), tiny_spec(labels=("a", "b")))
    headless = SHAPE.changed(num_classes=0)
    with pytest.raises(CheckpointError, match="no classes"):
        Predictor(SwinClassifier(headless), tiny_spec(variant=headless, labels=()))


@pytest.mark.parametrize(("top", "count"), [(1, 1), (3, 3), (7, 7), (10**9, 7)])
def test_top_is_bounded_by_the_classes(predictor: Predictor, top: int, count: int) -> None:
    assert len(predictor.predict(photo(), top=top).predictions) == count


@pytest.mark.parametrize("top", [0, -1, 2.5, True, "3", None])
def test_top_must_be_a_positive_whole_number(predictor: Predictor, top) -> None:
    with pytest.raises(InputError, match="top must be a whole number of at least 1"):
        predictor.predict(photo(), top=top)


def test_path_pil_array_and_list_agree(predictor: Predictor, tmp_path: Path) -> None:
    image = photo()
    path = tmp_path / "a.png"
    image.save(path)
    array = np.asarray(image)
    answers = [predictor.predict(source).predictions for source in (str(path), path, image, array)]
    answers += [result.predictions for result in predictor.predict([path, image, array])]
    for answer in answers:
        assert [p.index for p in answer] == [p.index for p in answers[0]]
        assert [p.probability for p in answer] == pytest.approx([p.probability for p in answers[0]], abs=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_counts_the_same_for_paths_and_opened_images(predictor: Predictor, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    photo().save(path, exif=exif)
    with Image.open(path) as opened:
        assert predictor.predict(path).predictions == predictor.predict(opened).predictions
    turned = read_image(path)
    assert turned.size == ((40, 50) if orientation >= 5 else (50, 40))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "YCbCr"])
def test_modes_agree_between_paths_and_opened_images(predictor: Predictor, tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray((np.arange(40 * 50, dtype=np.uint16) * 30).reshape(40, 50))
    else:
        image = photo().convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    with Image.open(path) as opened:
        assert predictor.predict(path).predictions == predictor.predict(opened).predictions


@pytest.mark.parametrize(
    "array",
    [
        np.full((40, 50, 3), np.nan),
        np.full((40, 50, 3), 0.5, dtype=np.float32),
        np.zeros((40, 50, 3), dtype=np.int32),
        np.zeros((40, 50, 3), dtype=bool),
        np.zeros((3, 40, 50), dtype=np.uint8),
        np.zeros((40, 50, 2), dtype=np.uint8),
        np.zeros((1, 40, 50, 3), dtype=np.uint8),
        np.zeros((40,), dtype=np.uint8),
        np.zeros((0, 50, 3), dtype=np.uint8),
        np.array("x"),
    ],
    ids=lambda array: f"{array.shape}-{array.dtype}",
)
def test_other_arrays_are_refused_with_a_sentence(predictor: Predictor, array: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"an image array is \(H, W\), .*, got \("):
        predictor.predict(array)


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 4), (1, 1), (1, 300, 3)])
def test_arrays_of_photos_are_taken(predictor: Predictor, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert len(predictor.predict(array).predictions) == 5


@pytest.mark.parametrize("thing", [None, 3, {"path": "a.jpg"}, object()], ids=lambda it: type(it).__name__)
def test_other_things_are_refused_with_a_sentence(predictor: Predictor, thing) -> None:
    with pytest.raises(InputError, match="an image is a path, a PIL image or a uint8 array"):
        predictor.predict(thing)


def test_a_broken_photo_raises_alone_and_keeps_its_place_in_a_list(predictor: Predictor, folder: Path) -> None:
    with pytest.raises(ImageError, match=r"^.*3\.png"):
        predictor.predict(folder / "3.png")
    results = predictor.predict([folder / f"{number}.png" for number in range(6)])
    assert [result.error is None for result in results] == [True, True, True, False, True, True]
    assert results[3].source == str(folder / "3.png")
    assert "3.png" in results[3].error
    assert results[3].predictions == ()
    with pytest.raises(InputError, match=r"3\.png"):
        _ = results[3].top


def test_missing_file_and_folder_are_named(predictor: Predictor, tmp_path: Path) -> None:
    for path in (tmp_path / "no.jpg", tmp_path, Path("x" * 5000)):
        with pytest.raises(ImageError, match=str(path)[:40]):
            predictor.predict(path)


def test_an_empty_list_gives_an_empty_list(predictor: Predictor) -> None:
    assert predictor.predict([]) == []


@given(count=st.integers(0, 20), batch=st.integers(1, 7), workers=st.integers(1, 4), seed=st.integers(0, 99))
def test_stream_keeps_order_and_answers_as_one_by_one(count: int, batch: int, workers: int, seed: int) -> None:
    predictor = tiny_predictor()
    rng = np.random.default_rng(seed)
    sources = [photo(i) if rng.random() < 0.8 else f"missing {i}" for i in range(count)]
    results = list(predictor.stream(sources, batch=batch, workers=workers, top=2))
    assert len(results) == count
    for source, result in zip(sources, results, strict=True):
        if isinstance(source, str):
            assert result.source == source
            assert result.error is not None
        else:
            alone = predictor.predict(source, top=2)
            assert [p.index for p in result.predictions] == [p.index for p in alone.predictions]
            assert result.top.probability == pytest.approx(alone.top.probability, abs=1e-5)


def test_stream_reads_ahead_but_only_two_batches(predictor: Predictor) -> None:
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield photo(asked)

    stream = predictor.stream(endless(), batch=4)
    assert asked == 0
    for taken in range(1, 30):
        next(stream)
        assert asked <= taken + 2 * 4
    stream.close()


@pytest.mark.parametrize("spare", [True, False])
def test_stream_reads_while_the_network_works_where_it_leaves_a_core(spare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of the first batch waits for a picture of the next that is read: it would wait forever without overlap."""
    monkeypatch.setattr("swinkit.data.reading.cores", lambda: torch.get_num_threads() + spare)
    predictor = tiny_predictor()
    read = threading.Event()

    class Late(np.ndarray):
        @property
        def ndim(self):  # met when the picture is looked at, in a reading thread
            read.set()
            return 3

    calls = []

    def wait(*_arguments) -> None:
        calls.append(read.wait(timeout=20 if spare else 0.2))

    predictor.model.register_forward_pre_hook(wait)
    pictures = [np.asarray(photo(i)) for i in range(4 if spare else 6)]  # two batches are read before the network works without
    pictures[-1] = pictures[-1].view(Late)
    list(predictor.stream(pictures, batch=2, workers=1))
    assert calls == ([True, True] if spare else [False, False, True])


def test_stream_has_every_worker_read_where_the_network_has_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of one would be read by one thread, while the other cores wait."""
    monkeypatch.setattr("swinkit.data.reading.cores", torch.get_num_threads)
    predictor = tiny_predictor()
    together = threading.Barrier(3)

    class Met(np.ndarray):
        @property
        def ndim(self):
            together.wait(timeout=20)
            return 3

    results = list(predictor.stream([np.asarray(photo(i)).view(Met) for i in range(3)], batch=1, workers=3))
    assert [result.error for result in results] == [None] * 3


def test_a_stopped_stream_leaves_no_threads(predictor: Predictor) -> None:
    stream = predictor.stream([photo(i) for i in range(40)], batch=2)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("swinkit-read") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("numbers", [{"batch": 0}, {"workers": 0}, {"top": 0}, {"batch": -3}, {"workers": 1.5}], ids=str)
def test_stream_refuses_wrong_numbers_at_once(predictor: Predictor, numbers: dict) -> None:
    with pytest.raises(InputError, match=f"{next(iter(numbers))} must be"):
        predictor.stream([], **numbers)


def test_damaged_weights_are_no_answer() -> None:
    predictor = tiny_predictor()
    torch.nn.init.constant_(predictor.model.head.weight, float("nan"))
    with pytest.raises(CheckpointError, match="no numbers"):
        predictor.predict(photo())


def test_grey_and_many_channels() -> None:
    grey = SHAPE.changed(in_chans=1)
    preprocessing = Preprocessing(size=(32, 32), mean=(0.5,), std=(0.25,))
    spec = ModelSpec(grey, preprocessing, labels=LABELS)
    assert Predictor(SwinClassifier(grey), spec).predict(photo()).error is None
    many = SHAPE.changed(in_chans=5)
    spec = ModelSpec(many, Preprocessing(size=(32, 32), mean=(0.5,) * 5, std=(0.25,) * 5), labels=LABELS)
    with pytest.raises(InputError, match="takes 5 channels"):
        Predictor(SwinClassifier(many), spec).predict(photo())


def test_bfloat16_networks_answer(predictor: Predictor) -> None:
    half = tiny_predictor()
    half.model.to(torch.bfloat16)
    assert half.predict(photo()).top.probability == pytest.approx(predictor.predict(photo()).top.probability, abs=0.05)


def test_devices() -> None:
    assert pick_device(None) == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("gpu", "cuda:99", "tpu9"):
        with pytest.raises(InputError, match=wrong):
            pick_device(wrong)


def test_native_file_gives_the_same_answer_back(tmp_path: Path) -> None:
    predictor = tiny_predictor()
    path = tmp_path / "tiny.safetensors"
    weights.save_native(path, predictor.model.state_dict(), predictor.spec)
    again = load(path)
    assert again.labels == list(LABELS)
    assert again.preprocessing == predictor.preprocessing
    assert again.predict(photo()).predictions == predictor.predict(photo()).predictions


def test_saved_directory_gives_the_same_answer_back(tmp_path: Path) -> None:
    # The layout can hold square windows that divide the maps; this shape is one of them.
    predictor = tiny_predictor()
    predictor.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.labels == list(LABELS)
    for ours, theirs in zip(again.predict(photo()).predictions, predictor.predict(photo()).predictions, strict=True):
        assert (ours.label, ours.index) == (theirs.label, theirs.index)
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-6)


def test_results_are_json_ready_and_drawn_as_bars() -> None:
    result = ClassificationResult("a.jpg", (Prediction("cat", 2, 1.0), Prediction("long dog", 3, 0.0)))
    assert json.loads(json.dumps(result.to_dict())) == {
        "source": "a.jpg",
        "predictions": [
            {"label": "cat", "index": 2, "probability": 1.0},
            {"label": "long dog", "index": 3, "probability": 0.0},
        ],
        "error": None,
    }
    heading, first, second = result.bars().splitlines()
    assert heading == "a.jpg"
    assert first == "  cat       " + "█" * 30 + " 100.0 %"
    assert second == "  long dog  " + " " * 30 + "   0.0 %"
    assert ClassificationResult("b.jpg", error="b.jpg: broken").bars() == "b.jpg: broken"


@given(st.floats(0, 1))
def test_bars_have_one_width_and_grow_with_the_probability(share: float) -> None:
    line = ClassificationResult("a", (Prediction("x", 0, share),)).bars().splitlines()[1]
    assert len(line) == len("  x  ") + 30 + len(" 100.0 %")
    assert abs(line.count("█") - 30 * share) <= 1


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000), (451, 300)])
def test_drawing_takes_any_photo(size: tuple[int, int]) -> None:
    predictions = (Prediction("a very long name of a class that does not fit " * 3, 0, 0.9), Prediction("b", 1, 0.1))
    picture = draw_bars(Image.new("RGB", size, (200, 0, 0)), ClassificationResult("a", predictions))
    assert picture.mode == "RGB"
    assert picture.height == 332
    pixels = np.asarray(picture)
    assert tuple(pixels[150, 30]) == (200, 0, 0)
    # The first bar is nine times as long as the second.
    lengths = [(pixels[16 + 44 * row + 28] == (47, 111, 183)).all(axis=-1).sum() for row in range(2)]
    assert lengths[0] == pytest.approx(9 * lengths[1], rel=0.1)
    picture.save(io.BytesIO(), format="PNG")


def test_drawing_grows_with_the_bars() -> None:
    many = tuple(Prediction(str(i), i, 0.05) for i in range(20))
    assert draw_bars(photo(), ClassificationResult("a", many)).height == 20 * 44 + 32


def test_images_are_found_in_folders_globs_and_by_name(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    photo().save(folder / "deep" / "er" / "z.JPG", format="JPEG")
    (folder / ".git").mkdir()
    photo().save(folder / ".git" / "a.png")
    (folder / "fifo.png").symlink_to(folder / "nowhere")
    names = lambda found: [Path(path).name for path in found.images]  # noqa: E731

    found = find_images([folder])
    assert names(found) == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "z.JPG"]
    assert dict(found.skipped) == {"hidden": 2, ".txt": 1, "no regular file": 1}
    assert names(find_images([str(folder / "[0-2].png")])) == ["0.png", "1.png", "2.png"]
    assert names(find_images([str(folder / "**" / "*.JPG")])) == ["z.JPG"]
    assert names(find_images([str(folder / "de*")])) == ["z.JPG"]
    # Named files are taken as they are; what is not there stays in its place.
    assert names(find_images([folder / "notes.txt", folder / "no.jpg", folder / "*.bmp"])) == [
        "notes.txt",
        "no.jpg",
        "*.bmp",
    ]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    for name in ("[ab].png", "a.png", "b.png"):
        photo().save(tmp_path / name)
    assert find_images([tmp_path / "[ab].png"]).images == [str(tmp_path / "[ab].png")]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(find_images([tmp_path]).images) == 1
