"""How ``swinkit predict`` ends when it is stopped, when a disk is full, when nobody listens; what names can do to its output."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import swinkit
from swinkit import weights
from swinkit.cli import main
from swinkit.cli.stopping import Stopped, Stopping
from swinkit.models.classifier import SwinClassifier
from swinkit.prediction import ClassificationResult, Prediction
from swinkit.specs import ModelSpec, Preprocessing, Variant

ROOT = Path(__file__).resolve().parents[1]
SHAPE = Variant(embed_dim=12, depths=(1, 1), num_heads=(2, 4), window_size=4, img_size=32, num_classes=2, drop_path=0)
HOSTILE_LABELS = ('=cmd|" /C calc"!A0', "@bee")  # line breaks in labels are refused when weights are read
# A shell's background job ignores SIGINT, and so would its child.
CALL = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); {first}"
    "from swinkit.cli import main; raise SystemExit(main(sys.argv[1:]))"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("model") / "named otherwise.safetensors"
    spec = ModelSpec(SHAPE, Preprocessing(size=(32, 32)), labels=HOSTILE_LABELS, name="inner name")
    weights.save_native(path, SwinClassifier(SHAPE).state_dict(), spec)
    return str(path)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    network = swinkit.create_model("unet", 3, backbone="swin_nano", channels=8)
    variant = network.backbone.variant.changed(num_classes=3)  # type: ignore[union-attr]
    spec = ModelSpec(variant, Preprocessing((48, 64), "box"), ("a", "b", "c"), "segment", "s", decoder=network.decoder)
    path = tmp_path_factory.mktemp("model") / "s.safetensors"
    weights.save_native(path, network.state_dict(), spec)
    return str(path)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """3,000 names of one photo: more than any test waits for."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8)).save(tmp_path / "a.jpg")
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number:04}.jpg").symlink_to(tmp_path / "a.jpg")
    return folder


def start(words: list[str], first: str = "", **options: object) -> subprocess.Popen[bytes]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-c", CALL.format(first=first), *words], cwd=ROOT / "src", **streams)  # type: ignore[call-overload, no-any-return]


def finished(json_file: Path, csv_file: Path) -> int:
    """Return how many answers two whole files hold, the same ones."""
    sources = [row["source"] for row in json.loads(json_file.read_text())]
    text = csv_file.read_bytes()
    assert text.endswith(b"\r\n")
    rows = list(csv.reader(text.decode().splitlines()))
    assert {len(row) for row in rows} == {6}
    assert [row[0] for row in rows[1:] if row[1] == "1"] == sources
    return len(sources)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_finished(number: int, code: int, model: str, many: Path, tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "o.json"), "--csv", str(tmp_path / "o.csv")]
    process = start(["predict", str(many), "--model", model, *files], bufsize=0)
    assert process.stdout is not None
    process.stdout.read(1)  # the first answers are there
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    count = finished(tmp_path / "o.json", tmp_path / "o.csv")
    assert 0 < count < 3000
    (line,) = err.decode().splitlines()
    assert line.startswith(f"interrupted: classified {count:,} of 3,000 images in ")
    assert line.endswith("o.csv")
    assert not list(tmp_path.rglob("*.part"))


def test_a_signal_keeps_the_label_maps(segmenter: str, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = ["--out", str(out), "--json", str(tmp_path / "o.json")]
    process = start(["predict", str(many), "--model", segmenter, *files], bufsize=0)
    while not list(out.glob("*_overlay.jpg")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    names = {Path(row["source"]).stem for row in json.loads((tmp_path / "o.json").read_text())}
    assert names
    assert {path.name for path in out.iterdir()} == {f"{n}.png" for n in names} | {f"{n}_overlay.jpg" for n in names}
    for path in out.iterdir():
        with Image.open(path) as image:
            image.load()


def test_a_signal_waits_for_what_must_not_be_cut_and_a_third_does_not() -> None:
    stopping = Stopping()
    with stopping.held():
        stopping.arrive(15)
        stopping.arrive(2)
        with pytest.raises(Stopped):
            stopping.arrive(2)
    with pytest.raises(Stopped) as caught:
        stopping.heed()
    assert caught.value.exit_code == 143
    with pytest.raises(Stopped):
        Stopping().arrive(2)


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); "


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(model: str, many: Path, tmp_path: Path) -> None:
    """The limit stands for the disk: the JSON needs more, the CSV of the answers until then does not."""
    files = ["--json", str(tmp_path / "o.json"), "--csv", str(tmp_path / "o.csv")]
    process = start(["predict", str(many), "--model", model, "--top", "1", *files], LIMITED.format(100_000))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert f"swinkit: {tmp_path / 'o.json'}: cannot be written (File too large); give another place" in err.decode().splitlines()
    assert b"Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "in", "o.csv"]
    assert (tmp_path / "o.csv").read_bytes().endswith(b"\r\n")


def test_a_disk_too_full_for_a_label_map_keeps_the_finished(segmenter: str, many: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)).save(tmp_path / "large.jpg")
    words = ["predict", str(many / "0000.jpg"), str(many / "0001.jpg"), str(tmp_path / "large.jpg"), "--model", segmenter]
    files = ["--json", str(tmp_path / "o.json"), "--out", str(tmp_path / "out")]
    process = start([*words, *files], LIMITED.format(900_000))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "cannot be written (File too large)" in err.decode().splitlines()[-1]
    assert "segmented 2 of 3 images" in err.decode()
    assert [Path(row["source"]).name for row in json.loads((tmp_path / "o.json").read_text())] == ["0000.jpg", "0001.jpg"]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"0000.png", "0001_overlay.jpg"}
    assert not list(tmp_path.rglob("*.part"))


def test_a_full_device_as_stdout_is_a_sentence(model: str, many: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = start(["predict", str(many / "0000.jpg"), "--model", model], stdout=full)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.decode().strip() == "swinkit: stdout: cannot be written (No space left on device); give another place"


def test_a_pipe_that_nobody_reads_ends_the_command_without_a_word(model: str, many: Path, tmp_path: Path) -> None:
    process = start(["predict", str(many), "--model", model, "--json", str(tmp_path / "o.json")], bufsize=0)
    assert process.stdout is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(timeout=120) == 141
    assert 0 < len(json.loads((tmp_path / "o.json").read_text())) < 3000


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(closed: str, model: str, many: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", CALL.format(first=""), "predict", str(many / "0000.jpg"), "--model", model]
    script = '"$@" ' + closed
    done = subprocess.run(
        ["sh", "-c", script, "sh", *words, "--json", str(tmp_path / "o.json")], cwd=ROOT / "src", capture_output=True, timeout=120
    )
    assert done.returncode == 0
    assert done.stderr == b""
    assert len(json.loads((tmp_path / "o.json").read_text())) == 1
    if closed == ">&-":
        words = ["sh", "-c", script, "sh", *words, "--csv", "-"]
        done = subprocess.run(words, cwd=ROOT / "src", capture_output=True, timeout=120)
        assert done.returncode == 1
        assert done.stderr.decode().strip() == "swinkit: stdout is closed, and - stands for it; give a file"


NAMES = ["=cmd().png", "a\nclassified 9 of 9 images.png", "b\rover.png", "c\x1b[2J.png", "d\u202egnp.png"]
NAMES += ["+1+cmd.png", "e\u2028x.png"]


def test_no_name_forges_a_line_on_any_output(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        Image.new("RGB", (40, 30)).save(name)
    broken = "z\nswinkit: all is well.png"
    Path(broken).write_bytes(b"no")
    assert main(["predict", *NAMES, broken, "--model", model, "--csv", "o.csv", "--json", "o.json"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 * len(NAMES) + 1  # a heading and two classes for each, and the summary
    assert len(err.splitlines()) == 1
    assert main(["predict", *NAMES, broken, "--model", model, "--csv", "-"]) == 0
    streamed, told = capsys.readouterr()
    assert len(told.splitlines()) == 3 * len(NAMES) + 2
    table = Path("o.csv").read_bytes().decode()
    assert streamed == table
    assert table.count("\n") == 2 * len(NAMES) + 2
    for text in (out, err, told, table.replace("\r\n", "\n")):
        assert all(letter.isprintable() or letter == "\n" for letter in text)
    for row in csv.reader(table.splitlines()[1:]):
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)
    assert [row["source"] for row in json.loads(Path("o.json").read_text())] == [*NAMES, broken]


def test_bars_keep_their_lines_whatever_the_labels() -> None:
    result = ClassificationResult("a\nb.png", (Prediction("bee\x1b[2J\nforged line", 0, 0.5),))
    assert len(result.bars().split("\n")) == 2
    assert "\x1b" not in result.bars()


def test_a_name_that_is_not_utf_8_goes_through_stdout(model: str, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Image.new("RGB", (40, 30)).save(name)
    done = subprocess.run(
        [sys.executable, "-c", CALL.format(first=""), "predict", name, "--model", model, "--csv", "-"],
        cwd=ROOT / "src", capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"/\xff.png,1," in done.stdout


def test_the_summary_has_the_name_that_was_asked_for(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    run = tmp_path / "flowers"
    (run / "weights").mkdir(parents=True)
    (run / "weights" / "best.safetensors").write_bytes(Path(model).read_bytes())
    monkeypatch.chdir(run)
    for source, name in ((model, model), (str(run), str(run)), (".", "flowers")):
        assert main(["predict", str(tmp_path / "a.png"), "--model", source]) == 0
        assert f" with {name} on " in capsys.readouterr().out


def test_urls_from_the_command_line(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "https://there/photo.jpg", "--model", model]) == 1
    assert "nothing is fetched from a network here" in capsys.readouterr().err


def test_waiting_threads_leave_the_cores_to_others_unless_the_user_says_otherwise() -> None:
    show = "from swinkit.cli import main; main(['--version']); import os; print(os.environ.get('OMP_WAIT_POLICY'))"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP", "KMP"))}
    for given, expected in (({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "9"}, "None")):
        done = subprocess.run([sys.executable, "-c", show], cwd=ROOT / "src", env=env | given, capture_output=True, text=True)
        assert done.stdout.split()[-1] == expected


@pytest.mark.parametrize("command", ["benchmark", "info", "convert", "demo"])
def test_other_commands_answer_hostile_inputs_with_a_sentence(
    command: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "export.json").write_text('{"to": 1e999}')
    os.mkfifo(tmp_path / "pipe.safetensors")
    lines = {
        "benchmark": [
            [model, "--engine", "torhc"],
            [model, "--engine", "torch", "--batch", str(10**12)],
            [str(tmp_path / "export")],
        ],
        "info": [[str(tmp_path / "export")], [str(tmp_path / "pipe.safetensors")], ["a\0b"], [str(tmp_path)]],
        "convert": [
            [str(tmp_path / "pipe.safetensors"), str(tmp_path / "o.pth"), "--to", "timm"],
            [model, str(tmp_path / ("x" * 300)), "--to", "timm"],
        ],
        "demo": [["--out", str(tmp_path / "export" / "export.json" / "x.png")], ["--out", str(tmp_path / "pipe.safetensors")]],
    }[command]
    for words in lines:
        assert main([command, *words]) == 1, words
        err = capsys.readouterr().err
        assert len(err.strip().splitlines()) == 1, err
        assert "internal error" not in err
        assert "Traceback" not in err
