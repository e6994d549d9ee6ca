"""Checkpoints made to harm: each is refused in one sentence, at once, and in little memory; real ones pass the same checks."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.hostile import one_sentence

from swinkit.errors import CheckpointError, SwinkitError, UnsafeFile
from swinkit.models.classifier import SwinClassifier
from swinkit.specs import Variant
from swinkit.weights import load_checkpoint, read_tensors

TINY = Variant(embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=4, img_size=32, num_classes=3)


@pytest.fixture
def bounded() -> Iterator[None]:
    """A test that takes longer than five seconds of processor time, or 2 GB more than it began with, fails.

    Coverage counts every line, which triples the time of code that goes through instructions one by one.
    """
    seconds = 15 if "coverage" in sys.modules else 5
    began, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - began < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2 << 20  # kB


def doubled(times: int = 45, start: bytes = b"K\x01") -> bytes:
    """Return pickle instructions for a tuple of itself twice, so often."""
    return start + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(times))


def doubled_lists(times: int = 45) -> bytes:
    """The same of lists that are put into one another while they are empty and filled afterwards."""
    made = b"".join(b"]q" + bytes([i]) + b"0" for i in range(times))
    return made + b"".join(b"h" + bytes([i]) + b"(h" + bytes([i + 1]) + b"h" + bytes([i + 1]) + b"e0" for i in range(times - 1))


def doubled_lists_kept(times: int = 45) -> bytes:
    """The same without the instruction POP, all of them in one list."""
    made = b"](" + b"".join(b"]q" + bytes([i]) for i in range(times)) + b"e"
    filled = b"".join(b"h" + bytes([i]) + b"(h" + bytes([i + 1]) + b"h" + bytes([i + 1]) + b"e" for i in range(times - 1))
    return b"](" + made + filled + b"e"


PICKLES = {
    "a doubled tuple": b"\x80\x02}X\x01\x00\x00\x00a" + doubled() + b"s.",
    "a doubled tuple as a name": b"\x80\x02}" + doubled() + b"K\x01s.",
    "a doubled tuple alone": b"\x80\x02" + doubled() + b".",
    "doubled lists": b"\x80\x02" + doubled_lists() + b"h\x00.",
    "doubled lists, kept": b"\x80\x02" + doubled_lists_kept() + b".",
    "a set of a doubled tuple": b"\x80\x02cbuiltins\nset\n](" + doubled() + b"e\x85R.",
    "a counter of doubled tuples": b"\x80\x02ccollections\nCounter\n](" + doubled() + b"e\x85R.",
    "bytes by the terabyte": b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (2**41).to_bytes(6, "little") + b"\x85R.",
    "a tensor by the terabyte": b"\x80\x02ctorch\nTensor\n\x8a\x06" + (2**41).to_bytes(6, "little") + b"\x85R.",
    "nested deeply": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "many instructions": b"\x80\x02]" + b"K\x01a" * 2_000_000 + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "names that collide": b"\x80\x02}("
    + b"".join(b"\x8a\x20" + (k * (2**61 - 1)).to_bytes(32, "little") + b"N" for k in range(1, 100_000))
    + b"u.",
    "a codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00idna\x86R.",
    "empty stack": b"\x80\x02\x86.",
    "unknown memo": b"\x80\x02h\x05.",
    "no end": b"\x80\x02}",
}


def as_zip(data: bytes, path: Path, *more: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (("archive/data.pkl", data), ("archive/version", b"3\n"), *more):
            archive.writestr(name, content)
    return path


def as_legacy(data: bytes, path: Path) -> Path:
    start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    path.write_bytes(start + data + pickle.dumps([], 2))
    return path


@pytest.mark.parametrize("form", [as_zip, as_legacy])
@pytest.mark.parametrize("case", sorted(PICKLES))
@pytest.mark.usefixtures("bounded")
def test_pickles_that_unfold(case: str, form: Callable[[bytes, Path], Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(form(PICKLES[case], tmp_path / "x.pth"))
    one_sentence(caught.value, "x.pth")


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def rebuilt(numbers: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Return the pickle of one float32 tensor, on a storage that announces so many numbers."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + number(numbers) + b"tQ"
    sides = [b"(" + b"".join(map(number, side)) + b"t" for side in (size, stride)]
    arguments = storage + number(offset) + b"".join(sides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


@pytest.mark.parametrize(
    "tensor",
    [
        (2**40, 0, (2**40,), (1,)),
        (4, 0, (2**33,), (1,)),
        (4, 2**40, (4,), (1,)),
        (4, 0, (2, 2), (2**40, 1)),
        (4, 0, (-4,), (1,)),
        (4, -1, (4,), (1,)),
        (4, 0, (4,), (-1,)),
    ],
)
@pytest.mark.usefixtures("bounded")
def test_tensors_that_reach_beyond_their_values(tensor: tuple, tmp_path: Path) -> None:
    data = rebuilt(*tensor)
    with pytest.raises(UnsafeFile):
        read_tensors(as_zip(data, tmp_path / "x.pth", ("archive/data/0", bytes(16))))
    with pytest.raises(CheckpointError):
        read_tensors(as_legacy(data, tmp_path / "y.pth"))


def test_the_made_up_tensor_is_a_good_one_when_it_fits(tmp_path: Path) -> None:
    path = as_zip(rebuilt(4, 0, (2, 2), (2, 1)), tmp_path / "x.pth", ("archive/data/0", bytes(16)))
    assert read_tensors(path)[0]["a"].shape == (2, 2)


def test_real_checkpoints_pass(tmp_path: Path) -> None:
    """What trainings leave behind: both forms of file, optimiser, schedule, parameters, plain values of every kind."""
    model = SwinClassifier(TINY)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [3, 5])  # holds a Counter
    content = {
        "model": model.state_dict(),
        "optimizer": optimiser.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 3,
        "best": 0.5,
        "large": 2**70,
        "raw": b"bytes",
        "size": torch.Size((3, 4)),
        "device": torch.device("cpu"),
        "kind": torch.float16,
        "parameter": torch.nn.Parameter(torch.zeros(2)),
        "nothing": [None, True, False, (), (1, 2, 3, 4)],
    }
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        checkpoint = load_checkpoint(path)
        assert checkpoint.spec.variant.depths == (1, 1)
        for name, value in model.state_dict().items():
            assert torch.equal(checkpoint.tensors[name], value)


def test_archives_of_another_make(tmp_path: Path) -> None:
    good = b"\x80\x02}."
    twice = as_zip(good, tmp_path / "twice.pth", ("archive/DATA.pkl", good))
    with pytest.raises(UnsafeFile, match="two members"):
        load_checkpoint(twice)
    with zipfile.ZipFile(tmp_path / "none.pth", "w") as archive:
        archive.writestr("photo.jpg", b"x" * 100)
    with pytest.raises(CheckpointError, match=r"torch\.save did not write"):
        load_checkpoint(tmp_path / "none.pth")
    script = as_zip(good, tmp_path / "script.pt", ("archive/constants.pkl", good))
    with pytest.raises(UnsafeFile, match="TorchScript"):
        load_checkpoint(script)


def header(entries: object, body: bytes = bytes(64)) -> bytes:
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def entry(kind: object = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict:
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": offsets}}


HEADERS = {
    "an offset beyond all numbers": header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,1e999]}}'),
    "an offset of many digits": header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,' + b"9" * 900_000 + b"]}}"),
    "a shape beyond all numbers": header(b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,16]}}'),
    "NaN": header(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}'),
    "float8": header(entry("F8_E4M3", (16,))),
    "float4": header(entry("F4", (32,))),
    "complex": header(entry("C64", (2,))),
    "a kind that is none": header(entry(["F32"])),
    "a fraction": header(entry(offsets=(0, 16.0))),
    "true": header(entry(shape=(True, 4))),
    "negative": header(entry(shape=(-4, -1))),
    "a shape too large": header(entry(shape=(2**40, 2**40))),
    "a shape too small": header(entry(shape=(1,))),
    "a word": header({"a": "b"}),
    "a list": header([1, 2]),
    "nested": header(b"[" * 100_000),
    "many": header({str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(60_000)}),
    "an overlap": header({**entry(), "b": entry()["a"]}),
    "a hole": header(entry(offsets=(32, 48))),
    "a name of many letters": header({"x" * 1_000_000: {"dtype": "F8_E5M2", "shape": [1], "data_offsets": [0, 1]}}),
    "a name with an escape": header({"\x1b[31mred\nswinkit: all is well": {"dtype": "F9", "shape": [1], "data_offsets": [0, 1]}}),
    "an escape that is read": header({"\x1b[31mred\nswinkit: all is well": entry()["a"]}, bytes(16)),
}


@pytest.mark.parametrize("case", sorted(HEADERS))
@pytest.mark.usefixtures("bounded")
def test_headers_out_of_range(case: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(HEADERS[case])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "x.safetensors")
    assert "\x1b" not in one_sentence(caught.value, "x.safetensors")


@pytest.mark.usefixtures("bounded")
def test_many_tensors_of_a_swin_are_sorted_out_in_time(tmp_path: Path) -> None:
    tensors = {f"layers.{i % 9}.blocks.{i}.mlp.fc1.weight": torch.zeros(1) for i in range(4_900)}
    save_file({**tensors, "patch_embed.proj.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "x.safetensors")


NAMES = ("x.pth", "x.safetensors", "model.safetensors", "pytorch_model.bin", "config.json", "preprocessor_config.json")
INDICES = ("model.safetensors.index.json", "model-00001-of-00001.safetensors")


@pytest.mark.parametrize("name", [*NAMES, *INDICES, "weights/best.safetensors", "export.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "nowhere"])
def test_what_is_no_file_blocks_nothing(name: str, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / name).parent.mkdir(parents=True)
    if name == "preprocessor_config.json":
        (folder / "config.json").write_text('{"model_type": "swin", "id2label": {"0": "a"}}')
    if name == INDICES[1]:
        (folder / INDICES[0]).write_text(json.dumps({"weight_map": {"a": name}}))
    if name in ("config.json", "preprocessor_config.json"):
        save_file(SwinClassifier(TINY).state_dict(), folder / "model.safetensors")
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to(folder / (name if kind == "loop" else "nothing"))
    with pytest.raises(SwinkitError) as caught:
        load_checkpoint(folder)
    one_sentence(caught.value, "model")
    if name in NAMES[:2]:
        with pytest.raises(SwinkitError):
            load_checkpoint(folder / name)


def test_links_of_the_hub_s_cache_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    save_file(SwinClassifier(TINY).state_dict(), tmp_path / "blobs" / "0123")
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    assert load_checkpoint(snapshot).spec.variant.num_classes == 3


@pytest.mark.parametrize("names", [["../x.safetensors"], [["a"]], ["a/b.safetensors"], [".x.safetensors"], ["x.exe"], [3]])
def test_parts_are_plain_names(names: list, tmp_path: Path) -> None:
    (tmp_path / INDICES[0]).write_text(json.dumps({"weight_map": {str(i): name for i, name in enumerate(names)}}))
    with pytest.raises(UnsafeFile):
        load_checkpoint(tmp_path)
