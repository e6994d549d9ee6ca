"""Exports made on demand: only what this user's processes wrote for a network is opened, and no cache stops an answer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.hostile import photo
from tests.test_engines import SHAPE, shaken
from torch import nn

import swinkit
from swinkit.cli import main
from swinkit.engines import exported, kernels, seal
from swinkit.engines.exported import ExportedEngine, file_hash
from swinkit.engines.kernels import building
from swinkit.engines.manifest import Manifest, _canonical
from swinkit.engines.steps import Building, heard_by
from swinkit.errors import ExportError
from swinkit.export import OnDemandEngine, cache, export_network
from swinkit.export import write as writing
from swinkit.models.classifier import SwinClassifier
from swinkit.prediction.auto import AutoEngine
from swinkit.specs import ModelSpec, Preprocessing
from swinkit.weights import save_native

SIZE = (32, 32)
LABELS = tuple("abcdefghij")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own."""
    monkeypatch.setenv("SWINKIT_CACHE", str(tmp_path / "home"))
    key = seal._key
    key.cache_clear()
    yield tmp_path / "home"
    key.cache_clear()


def small(seed: int = 3) -> tuple[SwinClassifier, ModelSpec]:
    """Return a network whose export takes a second, and its description."""
    torch.manual_seed(seed)
    variant = SHAPE.changed(embed_dim=16, depths=(1,), num_heads=(1,), img_size=32)
    network = shaken(SwinClassifier(variant))
    assert isinstance(network, SwinClassifier)
    return network, ModelSpec(variant, Preprocessing(SIZE), LABELS, name="small")


def answer(engine: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return engine(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, *SIZE))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of exports that were made."""
    folders: list[Path] = []
    real = export_network

    def counted(network: nn.Module, spec: ModelSpec, folder: Path, *others: object, **more: object) -> Manifest:
        folders.append(folder)
        return real(network, spec, folder, *others, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "export_network", counted)
    return folders


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The graphs that were opened."""
    paths: list[Path] = []
    real = exported.open_runtime

    def watched(to: str, path: Path) -> object:
        paths.append(path)
        return real(to, path)

    monkeypatch.setattr(exported, "open_runtime", watched)
    return paths


def entry_of(network: nn.Module, spec: ModelSpec, to: str = "torch") -> Path:
    """Return the folder where a network's export is kept, after it was made."""
    OnDemandEngine(network, spec, to)
    return cache.Shelf(network, spec, to).folder / "32x32"


def rebuilt(network: nn.Module, spec: ModelSpec, made: list[Path], opened: list[Path]) -> None:
    """Check that what lies in the cache is not opened, and that the answer is the network's."""
    made.clear()
    opened.clear()
    engine = OnDemandEngine(network, spec, "torch")
    torch.testing.assert_close(answer(engine), answer(network), atol=1e-4, rtol=0)
    assert len(made) == 1
    assert len(opened) == 1, "the new export, and nothing before"
    assert not any(path.is_symlink() for path in cache.Shelf(network, spec, "torch").root.rglob("*"))


def test_what_is_kept_is_opened_again_and_private(home: Path, made: list[Path]) -> None:
    network, spec = small()
    entry = entry_of(network, spec)
    assert torch.equal(answer(OnDemandEngine(network, spec, "torch")), answer(OnDemandEngine(network, spec, "torch")))
    assert len(made) == 1
    for folder in (home, entry.parent.parent, entry.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert Manifest.read(entry).sealed


def resealed(folder: Path, change: Callable[[dict[str, object]], None], sealed: bool) -> None:
    """Write a manifest that agrees with the files as they are now."""
    values = json.loads((folder / "export.json").read_text())
    del values["sha256"], values["seal"]
    values["files"] = {name: file_hash(folder / name) for name in values["files"]}
    change(values)
    text = _canonical(values)
    values["sha256"], values["seal"] = hashlib.sha256(text).hexdigest(), seal.seal(text) if sealed else ""
    (folder / "export.json").write_text(json.dumps(values))


HOSTILE = """
#include <cstdio>
__attribute__((constructor)) static void run() { std::fclose(std::fopen("%s", "w")); }
"""


@pytest.mark.parametrize("sealed", [False, True])
def test_an_entry_of_another_kind_with_a_library_is_not_run(
    tmp_path: Path, made: list[Path], opened: list[Path], sealed: bool
) -> None:
    compiler = kernels.compiler()
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    network, spec = small()
    entry = entry_of(network, spec)
    (tmp_path / "run.cpp").write_text(HOSTILE % (tmp_path / "ran"))
    library = entry / "32x32" / "attend_0123456789ab.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "run.cpp"], check=True)

    def machine_code(values: dict[str, object]) -> None:
        values["to"] = "aotinductor"
        values["software"] = {"torch": torch.__version__, "processor": exported.processor()}
        values["files"] |= {"32x32/attend_0123456789ab.so": file_hash(library)}  # type: ignore[operator]

    resealed(entry, machine_code, sealed)
    assert Manifest.read(entry).to == "aotinductor"
    rebuilt(network, spec, made, opened)
    assert not (tmp_path / "ran").exists()
    assert not library.exists()


def test_negated_logits_are_not_accepted(tmp_path: Path, made: list[Path], opened: list[Path]) -> None:
    network, spec = small()
    entry = entry_of(network, spec)
    negated, _ = small()
    with torch.no_grad():
        negated.head.weight.neg_()  # type: ignore[union-attr,operator]
        negated.head.bias.neg_()  # type: ignore[union-attr,operator]
    export_network(negated, spec, tmp_path / "other", "torch", [SIZE])  # sealed, of the same description
    shutil.rmtree(entry)
    shutil.copytree(tmp_path / "other", entry)
    rebuilt(network, spec, made, opened)


def test_a_sealed_entry_of_another_network_is_not_accepted_here(made: list[Path], opened: list[Path]) -> None:
    (network, spec), (other, _) = small(), small(4)
    entry, moved = entry_of(network, spec), entry_of(other, spec)
    shutil.rmtree(entry)
    shutil.move(moved, entry)
    rebuilt(network, spec, made, opened)


@pytest.mark.parametrize("what", ["entry", "shelf", "graph", "manifest"])
def test_links_are_removed_and_not_followed(tmp_path: Path, made: list[Path], opened: list[Path], what: str) -> None:
    network, spec = small()
    entry = entry_of(network, spec)
    places = {"entry": entry, "shelf": entry.parent, "graph": entry / "32x32" / "model.pt2", "manifest": entry / "export.json"}
    place = places[what]
    elsewhere = tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    rebuilt(network, spec, made, opened)
    assert sorted(elsewhere.rglob("*")) == before
    assert elsewhere.exists()


def test_a_file_more_than_was_written_is_not_accepted(made: list[Path], opened: list[Path]) -> None:
    network, spec = small()
    (entry_of(network, spec) / "32x32" / "floats.onnx").write_bytes(b"")
    rebuilt(network, spec, made, opened)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_not_accepted(made: list[Path], opened: list[Path]) -> None:
    network, spec = small()
    os.chown(entry_of(network, spec) / "32x32" / "model.pt2", 12345, -1)
    rebuilt(network, spec, made, opened)


# --- a cache that cannot be used


@pytest.fixture
def told() -> Iterator[list[str]]:
    sentences: list[str] = []
    with heard_by(lambda _: None, sentences.append):
        yield sentences


@pytest.mark.parametrize("where", ["home", "exports", "secret"])
def test_a_cache_that_cannot_be_written_costs_time_and_is_said_once(home: Path, told: list[str], where: str) -> None:
    if where == "secret":
        home.mkdir(mode=0o700)
        (home / "key").mkdir()
    else:
        place = home if where == "home" else home / "exports"
        place.parent.mkdir(exist_ok=True)
        place.write_text("a file where the folder should be")
    network, spec = small()
    for _ in range(2):
        engine = OnDemandEngine(network, spec, "torch")
        torch.testing.assert_close(answer(engine), answer(network), atol=1e-4, rtol=0)
    assert len(told) == 2  # one for each engine
    assert "built again by the next" in told[0]
    engine(torch.zeros(1, 3, 40, 24))  # another size, another build
    assert len(told) == 2


def test_a_full_disk_costs_time(home: Path, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = writing.save_file

    def full(tensors: object, path: str) -> None:
        if str(home) in path:
            raise OSError(28, "No space left on device")
        real(tensors, path)  # type: ignore[arg-type]

    monkeypatch.setattr(writing, "save_file", full)
    network, spec = small()
    engine = OnDemandEngine(network, spec, "torch")
    torch.testing.assert_close(answer(engine), answer(network), atol=1e-4, rtol=0)
    assert len(told) == 1
    assert "No space left" in told[0]
    assert not [path for path in home.rglob("*") if path.name.endswith(".part")]


def test_where_nothing_can_be_written_torch_answers(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "save_file", full)
    network, spec = small()
    engine = OnDemandEngine(network, spec, "torch")
    assert engine.name == "torch"
    torch.testing.assert_close(answer(engine), answer(network), atol=1e-5, rtol=0)
    assert "torch answers" in told[-1]


def test_an_export_that_answers_otherwise_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "difference", lambda *_: 1.0)
    with pytest.raises(ExportError, match="answers otherwise than the network"):
        OnDemandEngine(*small(), "torch")


# --- room, leftovers, other processes


def test_making_room_leaves_alone_what_is_not_the_cache_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, spec = small()
    entry = entry_of(network, spec)
    root = entry.parent.parent
    shutil.copytree(entry, tmp_path / "mine")
    (root / "torch-link").symlink_to(tmp_path, target_is_directory=True)
    (entry.parent / "9x9").symlink_to(tmp_path / "mine", target_is_directory=True)
    shutil.copytree(entry, root / "holiday" / "photos")
    monkeypatch.setattr(cache, "CACHE_BYTES", 0)
    cache.make_room(root)
    assert not entry.exists()
    assert (tmp_path / "mine" / "export.json").is_file()
    assert (root / "holiday" / "photos" / "export.json").is_file()


BUILDER = """
import sys, torch
from tests.test_cache import small, answer
from swinkit.export import OnDemandEngine
network, spec = small()
print("ready", flush=True)
torch.testing.assert_close(answer(OnDemandEngine(network, spec, "torch")), answer(network), atol=1e-4, rtol=0)
"""


def builder() -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen([sys.executable, "-c", BUILDER], stdout=subprocess.PIPE, text=True, cwd=root)


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".part")]


def test_two_processes_at_once_both_answer(home: Path) -> None:
    processes = [builder(), builder()]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert parts(home) == []
    assert len(list(home.rglob("export.json"))) == 1


def test_a_killed_build_is_swept_by_the_next_start(home: Path) -> None:
    process = builder()
    until = time.monotonic() + 200
    while not parts(home) and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert parts(home), "it was killed while it built"
    network, spec = small()
    torch.testing.assert_close(answer(OnDemandEngine(network, spec, "torch")), answer(network), atol=1e-4, rtol=0)
    assert parts(home) == []


# --- what is compiled once for a processor


def test_operations_are_kept_sealed_and_made_again_when_they_are_not_ours(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = b"g++ of a processor"
    building._keep(recipe, b"library")
    place = building._place(recipe)
    assert place.parent == home / "kernels"
    assert building._kept(recipe) == b"library"
    assert building._kept(b"another") is None
    sealed = place.read_bytes()
    place.write_bytes(sealed[:-1] + b"!")
    assert building._kept(recipe) is None
    building._place(b"another").write_bytes(sealed)  # ours, but of another recipe
    assert building._kept(b"another") is None
    place.write_bytes(sealed)
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    assert building._kept(recipe) is None
    assert not os.path.lexists(place)
    assert (tmp_path / "moved").exists()
    monkeypatch.setattr(seal, "_key", lambda _: None)  # no secret: nothing is kept
    building._keep(b"third", b"library")
    assert not building._place(b"third").exists()


# --- what is said


def test_a_build_says_its_steps_and_how_long_it_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, spec = small()
    save_native(tmp_path / "small.safetensors", network.state_dict(), spec)
    photo().save(tmp_path / "p.png")
    pytest.importorskip("openvino")
    words = ["predict", str(tmp_path / "p.png"), "--model", str(tmp_path / "small.safetensors"), "--engine", "openvino"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "building small for this processor (32x32, engine openvino): step 1 of 4" in err
    assert "step 4 of 4, opening it" in err
    assert "built small for this processor" in err
    assert "s of building" in out
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "building" not in out


def test_the_library_is_silent_and_steps_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[int, int, bool]] = []
    with heard_by(lambda build: heard.append((build.step, build.steps, build.finished)), lambda _: None):
        OnDemandEngine(*small(), "torch")
    assert [step for step, _, _ in heard] == [0, 1, 2, 3, 4, 4]
    assert heard[-1] == (4, 4, True)
    assert capsys.readouterr() == ("", "")
    assert Building("x", 2).seconds < 10


# --- auto


def test_auto_answers_at_once_and_switches_to_what_was_built(tmp_path: Path, home: Path) -> None:
    pytest.importorskip("openvino")
    network, spec = small()
    path = tmp_path / "small.safetensors"
    save_native(path, network.state_dict(), spec)
    predictor, plain = swinkit.load(path, engine="auto"), swinkit.load(path)
    image = Image.new("RGB", (40, 30), (200, 30, 90))
    expected = plain.predict(image, top=10)
    assert predictor.engine == "torch"
    assert predictor.predict(image).top.probability == pytest.approx(expected.top.probability, abs=1e-5)
    assert "--engine openvino" in predictor.model.note  # type: ignore[union-attr]
    until = time.monotonic() + 300
    while predictor.engine == "torch" and time.monotonic() < until:
        time.sleep(0.2)
        predictor.predict(image)
    assert predictor.engine == "openvino"
    assert predictor.model.note == ""  # type: ignore[union-attr]
    found = predictor.predict(image, top=10)
    assert [item.label for item in found.predictions] == [item.label for item in expected.predictions]
    assert found.top.probability == pytest.approx(expected.top.probability, abs=1e-4)
    assert swinkit.load(path, engine="auto").engine == "openvino"


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_a_build_beside_does_not_outlive_the_command(tmp_path: Path, home: Path, how: str) -> None:
    network, spec = small()
    path = tmp_path / "small.safetensors"
    save_native(path, network.state_dict(), spec)
    code = (
        "import sys, time, swinkit\n"
        f"predictor = swinkit.load({str(path)!r}, engine='auto')\n"
        "(build,) = predictor.model._builds.values()\n"
        "print(build._process.pid, flush=True)\n" + ("" if how == "ends" else "time.sleep(600)\n")
    )
    if exported.fastest(torch.device("cpu")) == "torch":
        pytest.skip("nothing to build")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    if how == "is killed":
        process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    until = time.monotonic() + 100
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(pid)
    engine = AutoEngine(network.eval(), spec, str(path))
    engine._builds.clear()
    assert parts(home) == [] or how == "is killed"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_only_exports_of_this_process_are_trusted_without_a_seal(tmp_path: Path, home: Path) -> None:
    network, spec = small()
    entry = entry_of(network, spec)
    resealed(entry, lambda _: None, sealed=False)
    with pytest.raises(Exception, match="code that may do anything"):
        ExportedEngine(entry)
