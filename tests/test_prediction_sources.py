"""What may be called an image, what a result keeps of it, and predictors in forked processes."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.test_prediction import photo, tiny_predictor

import swinkit
from swinkit.errors import ImageError, InputError, RunError, SwinkitError
from swinkit.prediction import Predictor
from swinkit.specs import ModelSpec, Preprocessing

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return tiny_predictor()


@pytest.fixture(scope="module")
def segmenter() -> Predictor:
    torch.manual_seed(0)
    model = swinkit.create_model("unet", 3, backbone="swin_nano", channels=8)
    variant = model.backbone.variant.changed(num_classes=3)  # type: ignore[union-attr]
    spec = ModelSpec(variant, Preprocessing((48, 64), "box"), ("a", "b", "c"), "segment", "tiny", decoder=model.decoder)
    return Predictor(model, spec)


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def test_every_form_of_a_picture_gets_the_answer_of_its_file(predictor: Predictor, tmp_path: Path) -> None:
    image = photo()
    data = encoded(image)
    (tmp_path / "a.png").write_bytes(data)
    expected = predictor.predict(tmp_path / "a.png").predictions
    letters = base64.b64encode(data).decode()
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    alpha = torch.cat([tensor, torch.full_like(tensor[:1], 255)])
    with (tmp_path / "a.png").open("rb") as opened, (tmp_path / "a.png").open("rb", buffering=0) as raw:
        forms = [
            data, bytearray(data), memoryview(data), io.BytesIO(data), opened, raw, tensor, tensor.contiguous(), alpha,
            f"data:image/png;base64,{letters}", f"DATA:;base64,{letters.replace('+', '%2B').replace('=', '%3D')}",
        ]  # fmt: skip
        results = [predictor.predict(form) for form in forms[:3]] + predictor.predict(forms[3:])
    assert [result.error for result in results] == [None] * len(forms)
    for result in results:
        assert [one.index for one in result.predictions] == [one.index for one in expected]
        assert result.top.probability == pytest.approx(expected[0].probability, abs=1e-5)  # batches round otherwise
    assert len(results[-1].source) < 100  # not the whole URL
    assert results[4].source == str(tmp_path / "a.png")


class Refusing(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: object) -> int:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (torch.zeros(3, 8, 8), "tensor is .* uint8 .* got \\(3, 8, 8\\) of torch.float32"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "tensor is"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), "tensor is"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "tensor is"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8, device="meta"), "tensor is"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8).to_sparse(), "tensor is"),
        (torch.zeros(1, 1, 1, dtype=torch.uint8).expand(3, 60_000, 60_000), "more than 178,956,970 pixels"),
        (np.broadcast_to(np.zeros((1, 1), np.uint8), (60_000, 60_000)), "more than 178,956,970 pixels"),
        (np.zeros((0, 0), np.uint8), "an image array is"),
        (Image.new("RGB", (0, 5)), "has 0x5 pixels"),
        (Image.new("L", (5, 0)), "has 5x0 pixels"),
        (b"", "empty"),
        (b"text", "no picture"),
        (io.BytesIO(), "empty"),
        (io.StringIO("text"), "mode 'rb'"),
        (Refusing(), "cannot be read"),
        ("http://there/a.png", "nothing is fetched"),
        ("https://there/a.png", "download it"),
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64,@@@@", "no base64"),
        ("data:image/png;base64,é", "no base64"),
        ("data:image/png;base64,", "empty"),
        (object(), "an image is a path"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:24],
)
def test_what_is_no_picture_gets_a_sentence(predictor: Predictor, source: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        predictor.predict(source)  # type: ignore[call-overload]
    (result,) = predictor.predict([source])
    assert result.error
    assert result.predictions == ()


def test_a_closed_file_is_named(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photo()))
    with (tmp_path / "a.png").open("rb") as closed:
        pass
    with pytest.raises(ImageError, match=r"a\.png: cannot be read"):
        predictor.predict(closed)


@pytest.mark.parametrize("kind", ["endless", "url"])
def test_sources_are_bounded(predictor: Predictor, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swinkit.prediction.pictures.MAX_BYTES", 10_000)
    monkeypatch.setattr("swinkit.data.images.MAX_BYTES", 10_000)
    taken = 0

    class Endless:
        def read(self, count: int) -> bytes:
            nonlocal taken
            taken += count
            return bytes(min(count, 100))

    with pytest.raises(ImageError, match="10,000 bytes"):
        predictor.predict(Endless() if kind == "endless" else "data:;base64," + "A" * 30_000)  # type: ignore[call-overload]
    assert taken <= 2**22


@given(st.one_of(st.binary(max_size=64), st.text(max_size=64).map("data:image/png;base64,".__add__)))
def test_no_bytes_and_no_url_bring_anything_but_an_answer_or_a_sentence(source: bytes | str) -> None:
    try:
        tiny_predictor().predict(source)
    except InputError as error:
        assert "\n" not in str(error)


def test_the_overlay_is_of_the_picture_that_was_answered(segmenter: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo(1, (400, 300)).save(path)
    opened = Image.open(path)
    opened.thumbnail((100, 100))
    array = np.asarray(photo(2, (60, 40))).copy()
    results = segmenter.predict([opened, array, path.read_bytes()])
    expected = [np.asarray(opened.convert("RGB")).copy(), array.copy(), np.asarray(photo(1, (400, 300)))]
    array[:] = 0
    opened.paste((0, 0, 0), (0, 0, *opened.size))
    path.unlink()
    for result, pixels in zip(results, expected, strict=True):
        assert np.array_equal(np.asarray(result.picture), pixels)
        assert result.overlay(strength=0.5).width == pixels.shape[1]


def test_an_overlay_notices_that_the_file_is_another(segmenter: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo(1, (400, 300)).save(path)
    result = segmenter.predict(path)
    assert result.picture is None  # a thousand results hold no photos
    assert result.overlay().width == 400
    photo(1, (40, 30)).save(path)
    with pytest.raises(InputError, match="is 40x30 now, and was 400x300"):
        result.overlay()


def test_what_a_network_raises_becomes_a_sentence() -> None:
    def fails(*_arguments: object) -> None:
        raise AssertionError("Input height (50) doesn't match\nmodel (224)")

    predictor = tiny_predictor()
    predictor.model.register_forward_pre_hook(fails)
    with pytest.raises(RunError, match=r"1 images of 32x32: the network fails \(Input height \(50\) doesn't match model"):
        predictor.predict(photo())
    full = tiny_predictor()

    def no_room(*_arguments: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1e12 bytes")

    full.model.register_forward_pre_hook(no_room)
    with pytest.raises(RunError, match="too large for the memory of cpu"):
        full.predict(photo())
    with pytest.raises(SwinkitError, match="use a batch of 2"):
        list(full.stream([photo()] * 4, batch=4))


FORK = """
import os, signal, sys, time
import numpy as np
import torch
torch.set_num_threads(2)
import swinkit
from swinkit.errors import RunError
engine, = sys.argv[1:]
predictor = swinkit.load("swin-nano-cifar10", engine=engine)
image = np.zeros((300, 300, 3), np.uint8)
before = predictor.predict(image).top
stream = predictor.stream([image] * 50, batch=2)
next(stream)
child = os.fork()
if child == 0:
    code = 1
    try:
        if engine == "torch":
            assert abs(predictor.predict(image).top.probability - before.probability) < 1e-4
            assert len(list(predictor.stream([image] * 20))) == 20
            assert swinkit.load("swin-nano-cifar10").predict(image).top.label == before.label
        else:
            for ask in (lambda: predictor.predict(image), lambda: predictor.stream([image])):
                try:
                    ask()
                except RunError as error:
                    assert "spawn" in str(error)
                else:
                    raise AssertionError("it answered")
        try:
            list(stream)
        except RunError as error:
            assert "fork" in str(error)
        code = 0
    finally:
        os._exit(code)
deadline = time.monotonic() + 90
while time.monotonic() < deadline:
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        break
    time.sleep(0.05)
else:
    os.kill(child, signal.SIGKILL)
    raise SystemExit("the child hangs")
assert predictor.predict(image).top.label == before.label
assert torch.get_num_threads() == 2
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_after_a_fork_a_predictor_answers_or_says_what_to_do(engine: str, embedded: str, tmp_path: Path) -> None:
    assert embedded == "swin-nano-cifar10"
    if engine != "torch":
        pytest.importorskip(engine)
    done = subprocess.run([sys.executable, "-c", FORK, engine], cwd=ROOT / "src", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
