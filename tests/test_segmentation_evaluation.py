"""Pixels counted by hand, by mmsegmentation, and by us; colours changed as OpenCV does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from tests.two_processes import in_two_processes

from swinkit.data.pixels import scaled
from swinkit.data.transforms import fit_box
from swinkit.errors import DatasetError, ImageError
from swinkit.specs import MaskRules, Preprocessing
from swinkit.tasks.segment.data import SegmentationData
from swinkit.tasks.segment.metric import SegmentationEvaluation, evaluate_predictions, evaluate_segmentation
from swinkit.tasks.segment.scenes import Scene, augment_scene, change_colours

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "seg"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs ../shared/fixtures/seg, which is not in the repository")


@given(st.integers(2, 7), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_miou_is_what_ten_lines_count(classes: int, pictures: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    evaluation = SegmentationEvaluation([str(i) for i in range(classes)])
    matrix = [[0] * classes for _ in range(classes)]
    for _ in range(pictures):
        # the last class may be absent from truth and answers
        truth = rng.choice([*range(classes - 1), 255], (7, 9)).astype(np.uint8)
        answer = rng.integers(0, classes - int(rng.random() < 0.5), (7, 9)).astype(np.uint8)
        evaluation.update(truth, answer)
        for t, a in zip(truth.ravel(), answer.ravel(), strict=True):
            if t != 255:
                matrix[t][a] += 1
    ious, accuracies = [], []
    for c in range(classes):
        true, said = sum(matrix[c]), sum(row[c] for row in matrix)
        if true + said:
            ious.append(matrix[c][c] / (true + said - matrix[c][c]))
        if true:
            accuracies.append(matrix[c][c] / true)
    report = evaluation.compute()
    assert report["mIoU"] == pytest.approx(sum(ious) / len(ious) if ious else 0.0)
    assert report["mAcc"] == pytest.approx(sum(accuracies) / len(accuracies) if accuracies else 0.0)
    assert report["pixels"] == sum(map(sum, matrix))
    assert report["classes_averaged"] == len(ious)
    json.dumps(report, allow_nan=False)


@needs_fixtures
def test_metrics_are_the_references() -> None:
    stored = load_file(FIXTURES / "metrics.safetensors")
    count = len(stored["metric_IoU"])
    evaluation = SegmentationEvaluation([str(i) for i in range(count)])
    for i in range(sum(name.startswith("pred_") and name.removeprefix("pred_").isdigit() for name in stored)):
        evaluation.update(stored[f"target_{i}"].numpy(), stored[f"pred_{i}"].numpy())
    report = evaluation.compute()
    for name in ("IoU", "Acc", "Dice"):
        for ours, theirs in zip(report["per_class"].values(), stored[f"metric_{name}"].tolist(), strict=True):
            theirs = theirs / 100 if max(stored[f"metric_{name}"].nan_to_num()) > 1.5 else theirs
            assert (ours[name] is None) == (theirs != theirs)
            if ours[name] is not None:
                assert ours[name] == pytest.approx(theirs, abs=1e-4)


def test_what_would_vanish_is_refused() -> None:
    evaluation = SegmentationEvaluation(["a", "b"])
    truth = np.zeros((3, 4), np.uint8)
    with pytest.raises(DatasetError, match="answer holds class 2"):
        evaluation.update(truth, truth + 2)
    with pytest.raises(DatasetError, match="truth holds class 7"):
        evaluation.update(truth + 7, truth)
    with pytest.raises(DatasetError, match="at the picture's size"):
        evaluation.update(truth, truth.T)


def _data(root: Path, count: int = 3) -> SegmentationData:
    from swinkit.tasks.segment.data import open_segmentation

    rng = np.random.default_rng(0)
    for number in range(count):
        for kind in ("images", "masks", "answers"):
            (root / kind).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 14, 3), dtype=np.uint8)).save(root / "images" / f"{number}.png")
        values = Image.fromarray(rng.integers(0, 3, (9, 14), dtype=np.uint8))
        values.save(root / "masks" / f"{number}.png")
        values.save(root / "answers" / f"{number}.png")
    return open_segmentation(root, classes=["a", "b", "c"])


def test_written_label_maps_are_measured(tmp_path: Path) -> None:
    data = _data(tmp_path)
    report = evaluate_predictions(tmp_path / "answers", data)
    assert (report["mIoU"], report["count"], report["pixels"]) == (1.0, 3, 3 * 9 * 14)
    (tmp_path / "answers" / "1.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 answers are missing \(first: 1.png\)"):
        evaluate_predictions(tmp_path / "answers", data)
    Image.new("L", (14, 8)).save(tmp_path / "answers" / "1.png")
    with pytest.raises(ImageError, match="at the picture's size"):
        evaluate_predictions(tmp_path / "answers", data)
    with pytest.raises(DatasetError, match="is no folder"):
        evaluate_predictions(tmp_path / "nothing", data)


class Says(torch.nn.Module):
    """Class 1 everywhere, whatever the picture."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(images.shape[0], 3, *images.shape[2:])
        logits[:, 1] = 1
        return logits


def test_a_network_is_measured_at_the_pictures_size(tmp_path: Path) -> None:
    data = _data(tmp_path)

    report = evaluate_segmentation(Says(), data, Preprocessing((6, 6), "squash"))
    ones = sum(int((data.mask(i) == 1).sum()) for i in range(3))
    assert report["aAcc"] == pytest.approx(ones / (3 * 9 * 14))
    assert report["per_class"]["b"]["Acc"] == 1.0


@needs_fixtures
def test_sizes_are_those_of_the_original_code() -> None:
    recipe = json.loads((FIXTURES / "recipe.json").read_text())
    for row in recipe["train_resize_box_2048x512"]:
        (width, height), (new_width, new_height) = row["image_wh"], row["new_wh"]
        assert fit_box(height, width, (512, 2048), row["ratio"]) == (new_height, new_width), row
    for row in recipe["tta_sizes"]:
        width, height = row["image_wh"]
        assert fit_box(height, width, (512, 2048), row["ratio"]) == tuple(row["wh_2x"][::-1]), row


@needs_fixtures
def test_colours_and_sizes_change_as_in_opencv() -> None:
    stored = load_file(FIXTURES / "transforms.safetensors")
    picture = stored["image_rgb"].numpy()
    for name, options in (
        ("hue_minus_17", {"hue": -17}),
        ("hue_plus_11", {"hue": 11}),
        ("saturation_0.6", {"saturation": 0.6}),
        ("saturation_1.45", {"saturation": 1.45}),
    ):
        far = np.abs(change_colours(picture, **options).astype(int) - stored[name].numpy().astype(int))
        assert far.mean() < 0.5, name
        assert np.quantile(far, 0.99) <= 5, name
    for name in (name for name in stored if name.startswith("resize_bilinear_")):
        height, width = (int(side) for side in name.removeprefix("resize_bilinear_").split("x"))
        ours = scaled(stored["image_rgb"].permute(2, 0, 1), (height, width), "bilinear", antialias=False)
        assert (ours.permute(1, 2, 0).int() - stored[name].int()).abs().max() <= 1, name


@given(st.integers(5, 60), st.integers(5, 60), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_pictures_and_label_maps_move_together(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 4, (height, width)).astype(np.uint8)
    image = Image.fromarray(np.stack([mask * 60] * 3, axis=-1))  # the picture shows its own label map
    plain = Preprocessing((32, 32), "native", 0, "bilinear", (0.0,) * 3, (1.0,) * 3, antialias=False)
    options = Scene((24, 40), (1.0, 1.0), 0.9, 0.5, distort=False)
    tensor, targets = augment_scene(image, mask, plain, options, np.random.default_rng(seed))
    assert tensor.shape == (3, 24, 40)
    assert targets.shape == (24, 40)
    inside = targets != 255
    assert inside.sum() == min(24, height) * min(40, width)
    assert torch.equal((tensor[0][inside] * 255 / 60).round().long(), targets[inside])
    assert (tensor[:, ~inside] == 0).all()


def test_a_crop_avoids_one_class_only(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 48:] = 1
    image, plain = Image.new("RGB", (64, 64)), Preprocessing((64, 64), "native")
    options = Scene((32, 32), (1.0, 1.0), 0.75, 0.0, distort=False)
    shares = []
    for seed in range(60):
        _, targets = augment_scene(image, mask, plain, options, np.random.default_rng(seed))
        shares.append(float((targets == 0).float().mean()))
    assert np.mean([share < 0.75 for share in shares]) > 0.9
    assert MaskRules() == MaskRules((), ())


def test_two_processes_count_every_pixel_once(tmp_path: Path) -> None:
    data = _data(tmp_path, count=5)
    code = (
        "import sys; from pathlib import Path; from tests.test_segmentation_evaluation import Says;"
        "from swinkit.tasks.segment.data import open_segmentation;"
        "from swinkit.tasks.segment.metric import evaluate_segmentation;"
        "from swinkit.specs import Preprocessing; data = open_segmentation(Path(sys.argv[1]), classes=['a', 'b', 'c']);"
        "report = evaluate_segmentation(Says(), data, Preprocessing((6, 6), 'squash'))"
    )
    reports = in_two_processes(code, tmp_path)
    alone = evaluate_segmentation(Says(), data, Preprocessing((6, 6), "squash"))
    assert reports == [alone, alone]
    assert (alone["count"], alone["pixels"]) == (5, 5 * 9 * 14)
