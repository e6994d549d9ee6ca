"""Classes of a data set are matched to a network's labels by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swinkit.data import open_dataset
from swinkit.data.folders import ClassificationData
from swinkit.errors import DatasetError
from swinkit.labels import imagenet_names, imagenet_synsets
from swinkit.tasks.classify.matching import match_classes


def data(root: Path, classes: tuple[str, ...]) -> ClassificationData:
    for place, name in enumerate(classes):
        (root / "val" / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4, 3), place, dtype=np.uint8)).save(root / "val" / name / "a.png")
    return open_dataset(root, split="val")


def test_targets_follow_the_names_not_the_order(tmp_path: Path) -> None:
    original = data(tmp_path, ("ant", "bee", "cat"))
    labels = ["zebra", "cat", "ant", "bee"]
    matched = match_classes(original, labels)
    assert matched.classes == labels
    for index in range(3):
        assert labels[matched.target(index)] == original.classes[original.target(index)]
        assert matched.name(index) == original.name(index)
        assert matched.read(index).tobytes() == original.read(index).tobytes()
    assert original.classes == ["ant", "bee", "cat"]  # untouched


def test_equal_classes_stay_as_they_are(tmp_path: Path) -> None:
    original = data(tmp_path, ("ant", "bee"))
    assert match_classes(original, ("ant", "bee")) is original


def test_several_labels_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    (tmp_path / "table.csv").write_text("file,labels\na.png,sea;sky\nb.png,sky\n")
    matched = match_classes(open_dataset(tmp_path / "table.csv"), ["sky", "sun", "sea"])
    assert [set(matched.target(index)) for index in range(2)] == [{0, 2}, {0}]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["ant", "wasp"], ["2 of the data's 3 classes", "'bee', 'cat'"]),
        (["ant", "bees", "cat"], ["1 of the data's 3 classes", "'bee'", "did you mean 'bees'"]),
        (["ant", "bee", "cat", "cat"], ["two classes called 'cat'"]),
        ([str(i) for i in range(3)], ["3 of the data's 3 classes"]),
    ],
)
def test_differences_are_named(tmp_path: Path, labels: list[str], words: list[str]) -> None:
    with pytest.raises(DatasetError) as caught:
        match_classes(data(tmp_path, ("ant", "bee", "cat")), labels)
    for word in words:
        assert word in str(caught.value)


def test_imagenet_folders_are_called_by_wordnet_ids(tmp_path: Path) -> None:
    names, ids = imagenet_names(1000), imagenet_synsets(1000)
    matched = match_classes(data(tmp_path, (ids[0], ids[517], ids[134])), names)
    assert matched.classes == list(names)
    # Sorted by id, as folders are; the two cranes of ImageNet (134 and 517) stay apart.
    assert [matched.target(index) for index in range(3)] == [0, 134, 517]
