"""The loop: learns, survives SIGKILL bit for bit, skips what is not finite, is the same on two processes."""

from __future__ import annotations

import errno
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.tiny_run import VARIANT, TinyWork, run, tiny_recipe

from swinkit.errors import RunError
from swinkit.models import create_model
from swinkit.specs import Variant
from swinkit.training import checkpoint
from swinkit.training.optimiser import make_optimiser

SCRIPT = Path(__file__).with_name("tiny_run.py")
ROOT = SCRIPT.parents[1]
STILL = Variant(**{**VARIANT.to_dict(), "drop_path": 0.0, "depths": (2, 1), "num_heads": (1, 2), "pretrained_windows": (0, 0)})


def _same(first: Path, second: Path) -> None:
    a, b = load_file(first), load_file(second)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_learns_and_fills_its_folder(tmp_path: Path) -> None:
    _, progress = run(tmp_path, epochs=8)
    losses = [row["train_loss"] for row in progress.rows]
    assert losses[-1] < losses[0] * 0.7
    assert progress.best >= 0.9
    for name in (
        "results.csv",
        "curves.png",
        "state.safetensors",
        "weights/best.safetensors",
        "weights/last.safetensors",
    ):
        assert (tmp_path / name).stat().st_size > 0
    assert not list(tmp_path.rglob("*.part"))
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 9


def test_sigkill_at_any_moment_resumes_to_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, cwd=ROOT, env=_environment())
    moments = random.Random(5)
    killed = 0
    for _ in range(40):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], cwd=ROOT, env=_environment(), stderr=subprocess.DEVNULL)
        state = tmp_path / "killed" / "state.safetensors"
        before = state.stat().st_mtime_ns if state.exists() else 0
        # Wait for the first new state of this life, then let chance choose between mid-step and mid-save.
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.25))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        if killed == 4:
            subprocess.run([*command, str(tmp_path / "killed")], check=True, cwd=ROOT, env=_environment())
            break
    assert killed >= 3
    assert not list((tmp_path / "killed").rglob("*.part"))  # what the kills left, the next start has swept
    for name in ("weights/last.safetensors", "weights/best.safetensors", "state.safetensors"):
        _same(tmp_path / "whole" / name, tmp_path / "killed" / name)


def test_resuming_in_mid_epoch_equals_never_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole", batch_size=8)
    stops = iter(range(100))
    original = checkpoint.save_state

    def stop_after_five(*args: object) -> None:
        original(*args)
        if next(stops) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_state", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "halted", save_minutes=1e-9)
    monkeypatch.setattr(checkpoint, "save_state", original)
    assert checkpoint.read_progress(tmp_path / "halted" / "state.safetensors").step == 5
    run(tmp_path / "halted", resume=True, save_minutes=5)
    _same(tmp_path / "whole/weights/last.safetensors", tmp_path / "halted/weights/last.safetensors")


def test_data_workers_change_nothing(tmp_path: Path) -> None:
    run(tmp_path / "none", epochs=1)
    run(tmp_path / "two", epochs=1, workers=2)
    _same(tmp_path / "none/weights/last.safetensors", tmp_path / "two/weights/last.safetensors")


def test_accumulation_gives_the_whole_batch(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", epochs=1, variant=STILL)
    parts, _ = run(tmp_path / "parts", epochs=1, variant=STILL, micro_batch=3)  # 3 + 3 + 2 of 8
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


def test_a_poisoned_picture_is_skipped_and_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, progress = run(tmp_path, work=TinyWork(poison=3))
    assert progress.skipped == 3  # once an epoch
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(row["train_loss"] < 10 for row in progress.rows)
    said = capfd.readouterr().err
    assert "not finite" in said
    assert "skipped" in said


def test_endless_nonsense_ends_the_run(tmp_path: Path) -> None:
    work = TinyWork()
    work.images[:] = float("inf")
    with pytest.raises(RunError, match="20 steps in a row were not finite"):
        run(tmp_path, work=work, epochs=10)


def test_a_full_disk_keeps_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, epochs=1)
    before = (tmp_path / "state.safetensors").read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        Path(args[1]).write_bytes(b"half")  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunError, match="free some space"):
        run(tmp_path, epochs=1)
    assert (tmp_path / "state.safetensors").read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("limit_kb", [4])
def test_a_really_full_disk_keeps_the_last_state(tmp_path: Path, limit_kb: int) -> None:
    """The system itself refuses to write: files may not grow beyond a limit (RLIMIT_FSIZE)."""
    run(tmp_path, epochs=1)
    before = (tmp_path / "state.safetensors").read_bytes()
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_kb} * 1024,) * 2);"
        "import torch; from pathlib import Path; from swinkit.models.classifier import SwinClassifier;"
        "from tests.tiny_run import VARIANT; from swinkit.training.checkpoint import Progress, save_state;"
        "m = SwinClassifier(VARIANT); o = torch.optim.AdamW(m.parameters());"
        f"save_state(Path({str(tmp_path / 'state.safetensors')!r}), m, o, None, Progress())"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=_environment(), capture_output=True, text=True)
    assert result.returncode != 0
    assert "RunError" in result.stderr
    assert (tmp_path / "state.safetensors").read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))


def test_early_stopping_and_best(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Falling(TinyWork):
        scores = iter([0.5, 0.9, 0.4, 0.3, 0.2, 0.1])

        def evaluate(self, model: torch.nn.Module, device: torch.device, progress: object = None) -> dict[str, float]:
            return {"top1": next(self.scores)}

    _, progress = run(tmp_path, work=Falling(), epochs=6, patience=2)
    assert (progress.epoch, progress.best, progress.best_epoch) == (4, 0.9, 2)
    assert "stopped early: 2 evaluations in a row were no better than 90.0 % at epoch 2 (patience=2)" in capfd.readouterr().err


def test_running_mean_of_weights_is_what_is_saved(tmp_path: Path) -> None:
    model, _ = run(tmp_path, epochs=1, ema_decay=0.5)
    saved = load_file(tmp_path / "weights/last.safetensors")
    assert not torch.equal(saved["head.weight"], model.head.weight)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"batch_size": 4}, "batch_size"), ({"seed": 9}, "seed"), ({"epochs": 9}, "epochs")],
)
def test_resume_refuses_another_recipe(tmp_path: Path, changes: dict, sentence: str) -> None:
    run(tmp_path, epochs=1)
    with pytest.raises(RunError, match=f"was started with {sentence}="):
        run(tmp_path, resume=True, **({"epochs": 1} | changes))


def test_a_run_from_before_a_key_existed_resumes(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    state = tmp_path / "state.safetensors"
    with safe_open(state, "pt") as file:
        values = json.loads(file.metadata()["progress"])
    del values["recipe"]["licence"], values["recipe"]["data"]["licence"]
    save_file(load_file(state), state, metadata={"progress": json.dumps(values)})
    _, progress = run(tmp_path, epochs=1, resume=True)
    assert progress.finished


def test_tensorboard_has_steps_and_epochs(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, epochs=2)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"train/loss", "train/learning_rate", "train/gradient_norm", "epoch/top1"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("epoch/top1")] == [1, 2]


def test_resume_refuses_other_data_and_broken_states(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    with pytest.raises(RunError, match="other data"):
        run(tmp_path, resume=True, epochs=1, work=TinyWork(40))
    with pytest.raises(RunError, match="nothing|no state"):
        run(tmp_path / "empty", resume=True)
    (tmp_path / "state.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(RunError, match="is not the state of a run"):
        run(tmp_path, resume=True, epochs=1)


def test_two_processes_train_to_the_loss_of_one(tmp_path: Path) -> None:
    code = (
        "import sys, json, torch; from pathlib import Path; from tests.tiny_run import run;"
        "from tests.test_training_loop import STILL;"
        "m, p = run(Path(sys.argv[1]), variant=STILL); "
        "Path(sys.argv[1], 'rows.json').write_text(json.dumps(p.rows));"
        "import accelerate; accelerate.PartialState().destroy_process_group()"  # gloo's threads abort a process that ends without
    )
    (tmp_path / "main.py").write_text(code)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(random.randint(20000, 60000)),
    ]
    subprocess.run([*launch, str(tmp_path / "main.py"), str(tmp_path / "two")], check=True, cwd=ROOT, env=_environment())
    subprocess.run([sys.executable, str(tmp_path / "main.py"), str(tmp_path / "one")], check=True, cwd=ROOT, env=_environment())
    one, two = (json.loads((tmp_path / name / "rows.json").read_text()) for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-4)
        assert a["top1"] == b["top1"]


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import accelerate

    monkeypatch.setattr(accelerate.Accelerator, "num_processes", property(lambda self: 3))
    with pytest.raises(RunError, match="cut evenly over 3 processes"):
        run(tmp_path)


def test_every_index_once_an_epoch_over_processes() -> None:
    from swinkit.training.batches import plan

    recipe = tiny_recipe(batch_size=6, epochs=2, micro_batch=2)
    for epoch in (0, 1):
        seen = sorted(i for rank in (0, 1) for e, _, _, indices in plan(20, recipe, rank, 2, 0) if e == epoch for i in indices)
        assert len(seen) == len(set(seen)) == 18


def _environment() -> dict[str, str]:
    import os

    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def test_a_run_with_muon_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"optimiser": {"kind": "muon", "learning_rate": 1e-3, "rate_batch": 8}}
    run(tmp_path / "whole", **plan)
    run(tmp_path / "adamw")
    original = checkpoint.save_state

    def stop(*args: object) -> None:
        original(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_state", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "halted", save_minutes=1e-9, **plan)
    monkeypatch.setattr(checkpoint, "save_state", original)
    run(tmp_path / "halted", resume=True, **plan)
    _same(tmp_path / "whole/weights/last.safetensors", tmp_path / "halted/weights/last.safetensors")
    with pytest.raises(AssertionError):  # and it is another optimiser
        _same(tmp_path / "whole/weights/last.safetensors", tmp_path / "adamw/weights/last.safetensors")


def test_muon_takes_the_layers_and_adamw_the_rest() -> None:
    model = create_model("swin_nano")
    recipe = tiny_recipe(optimiser={"kind": "muon"})
    optimiser = make_optimiser(model, (2, 4, 2), recipe)
    names = {id(p): n for n, p in model.named_parameters()}
    matrices = {names[id(p)] for group in optimiser.param_groups if group["matrices"] for p in group["params"]}
    endings = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight", "downsample.reduction.weight")
    assert matrices == {name for name in names.values() if name.endswith(endings)}
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(names)
