"""A saved state is believed whole or not at all; a run that loses its folder, its memory or its process says so."""

from __future__ import annotations

import json
import math
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.test_training_loop import ROOT, SCRIPT, _environment, _same
from tests.tiny_run import TinyWork, run

from swinkit.errors import RunError
from swinkit.models.classifier import ClassificationLoss
from swinkit.training import checkpoint


@pytest.fixture(scope="module")
def halted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that stopped after two of three epochs and one step."""
    folder = tmp_path_factory.mktemp("state") / "run"
    original, calls = checkpoint.save_state, iter(range(100))

    def stop(*args: Any) -> None:
        original(*args)
        if next(calls) == 14:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_state", stop)
        with pytest.raises(KeyboardInterrupt):
            run(folder, save_minutes=1e-9)
    return folder


def _copy(halted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(halted, tmp_path / "copy", dirs_exist_ok=True))


def _rewritten(folder: Path, change: Any, checked: bool = False) -> Path:
    """Write the state again with changed counters and tensors; without a checksum unless ``checked`` keeps the old one."""
    path = folder / "state.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors, values = load_file(path), json.loads(metadata["progress"])
    change(values, tensors)
    kept = {"checksum": metadata["checksum"]} if checked else {}
    save_file(tensors, path, metadata={"progress": json.dumps(values), **kept})
    return path


def test_one_flipped_bit_anywhere_is_refused_or_changes_nothing(halted: Path, tmp_path: Path) -> None:
    whole = (halted / "state.safetensors").read_bytes()
    truth = checkpoint.read_state(halted / "state.safetensors")
    path = tmp_path / "state.safetensors"
    places = [int(share * (len(whole) - 1)) for share in torch.rand(60, generator=torch.Generator().manual_seed(0)).tolist()]
    for place in [*places, *range(0, 4000, 97)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            state = checkpoint.read_state(path)
        except RunError as error:
            assert len(str(error)) < 700
            continue
        assert state.progress == truth.progress
        assert state.tensors.keys() == truth.tensors.keys()
        assert all(torch.equal(state.tensors[name], value) for name, value in truth.tensors.items())


def test_a_state_whose_counters_were_edited_is_refused(halted: Path, tmp_path: Path) -> None:
    folder = _copy(halted, tmp_path)
    _rewritten(folder, lambda values, _: values.update(step=18, epoch=3, finished=True), checked=True)
    with pytest.raises(RunError, match="checksum differs"):
        run(folder, resume=True)


EDITS = {
    "step": lambda values, _: values.update(step=18),
    "finished": lambda values, _: values.update(finished=True),
    "text for a step": lambda values, _: values.update(step="13"),
    "negative": lambda values, _: values.update(skipped=-1),
    "true for a number": lambda values, _: values.update(images=True),
    "another best": lambda values, _: values.update(best=0.99),
    "no best": lambda values, _: values.update(best=None),
    "a formula in a row": lambda values, _: values["rows"][0].update(top1="=cmd()"),
    "a formula as a column": lambda values, _: values["rows"][0].update({"=cmd()": 1}),
    "an unknown counter": lambda values, _: values.update(stepp=3),
    "images": lambda values, _: values.update(images=5),
    "another name": lambda _, tensors: tensors.update({"model.head.wait": tensors.pop("model.head.weight")}),
    "a tensor more": lambda _, tensors: tensors.update({"optimiser.x.y.z": torch.zeros(2)}),
    "a slot more": lambda _, tensors: tensors.update({"optimiser.0.max": torch.zeros(2)}),
    "an index more": lambda _, tensors: tensors.update({"optimiser.999.step": torch.zeros(())}),
    "a slot less": lambda _, tensors: tensors.pop("optimiser.0.exp_avg"),
    "another shape": lambda _, tensors: tensors.update({"model.head.bias": torch.zeros(7)}),
    "another slot's shape": lambda _, tensors: tensors.update({"optimiser.0.exp_avg": torch.zeros(1)}),
    "another type": lambda _, tensors: tensors.update({"model.head.bias": torch.zeros(3, dtype=torch.float64)}),
    "half a type": lambda _, tensors: tensors.update({"model.head.bias": torch.zeros(3, dtype=torch.float8_e4m3fn)}),
    "steps of the optimiser": lambda _, tensors: tensors.update({"optimiser.0.step": torch.tensor(1e30)}),
    "steps that are none": lambda _, tensors: tensors.update({"optimiser.0.step": torch.tensor(math.nan)}),
}


@pytest.mark.parametrize("edit", sorted(EDITS))
def test_a_state_without_a_checksum_is_held_against_network_and_plan(halted: Path, tmp_path: Path, edit: str) -> None:
    folder = _copy(halted, tmp_path)
    _rewritten(folder, EDITS[edit])
    with pytest.raises(RunError) as caught:
        run(folder, resume=True)
    assert "state.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 700


def test_a_state_of_the_version_before_resumes_and_says_what_it_lacks(
    halted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = _copy(halted, tmp_path)
    run(tmp_path / "whole")
    path = _rewritten(folder, lambda values, _: values["rows"][0].update(train_loss=math.nan))  # as it was written then
    assert not checkpoint.read_state(path).verified
    run(folder, resume=True)
    said = capfd.readouterr().err
    assert said.count("could not be verified") == 1
    assert "going on from epoch 3 of 3, best" in said
    _same(tmp_path / "whole/weights/last.safetensors", folder / "weights/last.safetensors")
    assert checkpoint.read_state(path).verified


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*checkpoint.Progress.__dataclass_fields__, "other"]), value=JSON)
def test_any_counter_is_taken_or_refused_in_one_sentence(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "state.safetensors"
    save_file({"model.x": torch.zeros(1)}, path, metadata={"progress": json.dumps({"step": 3, name: value})})
    try:
        progress = checkpoint.read_progress(path)
    except RunError as error:
        assert len(str(error)) < 700
        assert "\n" not in str(error)
    else:
        kinds = checkpoint.Progress.__dataclass_fields__
        assert name in kinds
        taken = getattr(progress, name)
        assert not isinstance(taken, float) or math.isfinite(taken)


def test_a_state_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "state.safetensors")
    with pytest.raises(RunError, match="not a regular file"):
        checkpoint.read_progress(tmp_path / "state.safetensors")


@pytest.mark.parametrize("lost", ["all", "weights/best.safetensors"])
def test_a_folder_lost_while_training_ends_the_run(tmp_path: Path, lost: str) -> None:
    class Losing(TinyWork):
        calls = 0

        def evaluate(self, model: torch.nn.Module, device: torch.device, progress: Any = None) -> dict[str, float]:
            self.calls += 1
            if self.calls == 2:
                shutil.rmtree(tmp_path / "run") if lost == "all" else (tmp_path / "run" / lost).unlink()
            return {"top1": 1.0 - self.calls / 10}

    with pytest.raises(RunError, match="is gone"):
        run(tmp_path / "run", work=Losing())
    assert not (tmp_path / "run" / "weights" / "best.safetensors").exists()


def test_resuming_without_the_best_weights_is_refused(halted: Path, tmp_path: Path) -> None:
    folder = _copy(halted, tmp_path)
    (folder / "weights" / "best.safetensors").unlink()
    with pytest.raises(RunError, match=r"best\.safetensors is gone"):
        run(folder, resume=True)


def test_leftovers_of_a_killed_part_are_swept(halted: Path, tmp_path: Path) -> None:
    folder = _copy(halted, tmp_path)
    parts = [folder / ".state.safetensors.abcd1234.part", folder / "weights" / ".best.safetensors.abcd1234.part"]
    for part in parts:
        part.write_bytes(b"half")
    (folder / "mine.part").write_text("not ours")
    run(folder, resume=True)
    assert not any(part.exists() for part in parts)
    assert (folder / "mine.part").exists()


@pytest.mark.parametrize("where", ["losses", "evaluate"])
def test_memory_that_a_cpu_does_not_have_is_a_sentence(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Greedy(TinyWork):
        def evaluate(self, *arguments: Any) -> dict[str, Any]:
            if where == "evaluate":
                torch.empty(2**58)
            return super().evaluate(*arguments)

    class GreedyLoss(ClassificationLoss):
        def forward(self, *arguments: Any) -> dict[str, torch.Tensor]:
            if where == "losses":
                torch.empty(2**58)
            return super().forward(*arguments)

    monkeypatch.setattr("swinkit.models.classifier.ClassificationLoss", GreedyLoss)
    with pytest.raises(RunError, match="out of memory with .* set micro_batch="):
        run(tmp_path, work=Greedy())


def test_energy_and_time_are_those_of_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    from tests import tiny_run

    class Meter:
        """A counter that starts at nothing in each part and gives one unit a reading."""

        kilowatt_hours: float | None = 0.0
        carbon_kg: float | None = None
        reason = ""

        def measure(self) -> None:
            self.kilowatt_hours = (self.kilowatt_hours or 0.0) + 1.0

    monkeypatch.setattr(tiny_run, "no_meter", lambda: contextlib.nullcontext(Meter()))
    _, whole = run(tmp_path / "whole")
    original, calls = checkpoint.save_state, iter(range(100))

    def killed(*args: Any) -> None:
        original(*args)
        if next(calls) == 1:
            raise MemoryError  # ends the process without another save

    monkeypatch.setattr(checkpoint, "save_state", killed)
    with pytest.raises(MemoryError):
        run(tmp_path / "parts")
    monkeypatch.setattr(checkpoint, "save_state", original)
    first = checkpoint.read_progress(tmp_path / "parts" / "state.safetensors")
    assert first.kilowatt_hours
    _, parts = run(tmp_path / "parts", resume=True)
    assert parts.kilowatt_hours == whole.kilowatt_hours  # as many readings, in two parts
    assert parts.seconds > first.seconds > 0
    seconds = [row["seconds"] for row in parts.rows]
    assert seconds == sorted(seconds)  # the clock goes on where the first part stopped
    assert parts.rows[2]["seconds"] >= first.seconds


def _lines(folder: Path, *signals: tuple[float, int], terminal: bool = False, code: str = "") -> tuple[str, int]:
    """Run the tiny script, send signals to its group, return what it said on stderr and its exit code."""
    master, slave = pty.openpty() if terminal else (-1, subprocess.PIPE)
    command = [sys.executable, "-c", code] if code else [sys.executable, str(SCRIPT)]
    process = subprocess.Popen(
        [*command, str(folder)], cwd=ROOT, env=_environment() | {"COLUMNS": "120"}, stderr=slave, start_new_session=True
    )
    text = b""
    if terminal:
        os.close(slave)
    for seconds, number in signals:
        deadline = time.monotonic() + 300
        while not (folder / "weights" / "best.safetensors").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(seconds)
        os.killpg(process.pid, number)
    if terminal:
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            text += part
        os.close(master)
    else:
        assert process.stderr is not None
        text = process.stderr.read()
    return text.decode(), process.wait(timeout=300)


def test_ctrl_c_ends_after_the_step_even_when_the_workers_hear_it_too(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.tiny_run import run\n"
        "if __name__ == '__main__': run(Path(sys.argv[1]), epochs=500, workers=2, micro_batch=2, save_minutes=100)"
    )
    said, _ = _lines(tmp_path / "run", (0.3, signal.SIGINT), code=code)
    assert "stopping after this step" in said
    assert "Stopped: stopped after epoch" in said
    progress = checkpoint.read_progress(tmp_path / "run" / "state.safetensors")
    assert 0 < progress.step < 3000
    assert not progress.finished


def test_a_terminal_shows_a_bar_with_rate_and_time_left(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.tiny_run import run\nrun(Path(sys.argv[1]), epochs=4)"
    said, status = _lines(tmp_path / "run", terminal=True, code=code)
    assert status == 0
    assert "the first step" in said  # there before anything is known
    assert "images/s" in said
    assert " left" in said
    assert "epoch 4/4  loss" in said
