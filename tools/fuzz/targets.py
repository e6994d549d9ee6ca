"""What is fuzzed: a row a reader of files from outside. Each takes a folder with the files of a case and reads them all."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import swinkit
from swinkit.data import open_dataset
from swinkit.data.check import check_data
from swinkit.data.folders import MissingPart
from swinkit.data.images import count_frames, read_image
from swinkit.data.masks import MaskReader, read_mask
from swinkit.engines import exported
from swinkit.errors import SwinkitError
from swinkit.models.classifier import SwinClassifier
from swinkit.specs import MaskRules, Variant
from swinkit.tasks.classify.metric import read_groups, read_real
from swinkit.tasks.recipes import load_recipe
from swinkit.tasks.segment.check import check_masks, has_masks
from swinkit.tasks.segment.data import open_segmentation
from swinkit.tasks.segment.metric import evaluate_predictions
from swinkit.training.checkpoint import load_state, read_state
from swinkit.training.recipe import recipe_yaml
from tools.fuzz.guard import Finding

PHOTO = np.full((20, 24, 3), 127, np.uint8)
TINY = Variant(
    embed_dim=4, depths=(1, 1), num_heads=(1, 1), window_size=2, patch_size=2, img_size=8, num_classes=3, drop_path=0.0
)


def _only(folder: Path) -> Path:
    """Return the one file of a folder, or the folder when there are several."""
    files = list(folder.iterdir())
    return files[0] if len(files) == 1 else folder


# What the libraries open beside a graph.
OPENED_BESIDE = {"onnx": ("model.onnx.data", "floats.onnx"), "openvino": ("model.bin",)}


def weights(folder: Path) -> None:
    """Checkpoints of every kind, and the folders around them: opened, and asked about a photo."""
    predictor = swinkit.load(_only(folder))
    if math.prod(predictor.preprocessing.size) <= 256**2:
        _say_probabilities(predictor.predict(PHOTO))


def _say_probabilities(result: Any) -> None:
    if hasattr(result, "predictions") and not all(0 <= best.probability <= 1 for best in result.predictions):
        raise Finding(f"a probability of {result.top.probability}")


def exports(folder: Path) -> None:
    """Manifests and what they name. No library opens a graph here: what would be handed to it is judged."""
    with _no_runtime(folder):
        predictor = swinkit.load(folder)
        if math.prod(predictor.preprocessing.size) <= 256**2:
            with contextlib.suppress(ValueError):  # the answer of no network
                predictor.predict(PHOTO)


@contextlib.contextmanager
def _no_runtime(folder: Path) -> Iterator[None]:
    """Put a network that answers zeros in the place of every library; whatever it is made from must be whole and no code."""

    def opened(to: str, path: Path) -> Any:
        manifest = exported.Manifest.read(folder)
        if to not in ("onnx", "openvino"):
            raise Finding(f"a stranger's {to} was opened: {path}")
        for name, expected in manifest.files.items():
            if exported.file_hash(folder / name) != expected:
                raise Finding(f"{path} was opened although {name} is not the file that was written")
        for beside in OPENED_BESIDE[to]:
            place = path.parent / beside
            if place.exists() and place.relative_to(folder).as_posix() not in manifest.files:
                raise Finding(f"{path} was opened beside {beside}, which no hash covers")
        return lambda pixels: [np.zeros((len(pixels), 3), np.float32)]

    before, exported.open_runtime = exported.open_runtime, opened
    try:
        yield
    finally:
        exported.open_runtime = before


def masks(folder: Path) -> None:
    """Label maps."""
    path = _only(folder)
    values, _ = read_mask(path, "mask")
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise Finding(f"a label map of {values.shape}, {values.dtype}")
    ids = MaskReader(MaskRules((7,)), 12).read(path, "mask")
    _say_ids(ids, 12)


def _say_ids(ids: np.ndarray, classes: int) -> None:
    """Judge class ids, of a large map a part of them: the judge's time is not the reader's."""
    some = ids.reshape(-1)[:: 1 + ids.size // 1_000_000]
    if set(np.unique(some).tolist()) - {*range(classes), 255}:
        raise Finding("ids that are no classes")


def pictures(folder: Path) -> None:
    """Pictures, by path and as bytes."""
    path = _only(folder)
    image = read_image(path)
    if image.mode != "RGB" or min(image.size) < 1:
        raise Finding(f"a picture of mode {image.mode} and size {image.size}")
    data = path.read_bytes()
    if read_image(io.BytesIO(data), "picture", grey=True).size != image.size or count_frames(data) < 1:
        raise Finding("other answers for the same bytes")


def coco(folder: Path) -> None:
    """Pictures with label maps, COCO first; checked, and read in full."""
    refused: SwinkitError | None = None
    with contextlib.suppress(SwinkitError):
        if has_masks(folder):
            check_masks(folder)
    for split in (None, "train", "val"):
        try:
            data = open_segmentation(folder, split)
        except MissingPart as error:
            refused = error if split is None else refused
            continue
        except SwinkitError as error:
            refused = refused or error
            continue
        names = [data.name(index) for index in range(len(data))]
        if len(set(names)) < len(names):
            raise Finding(f"two entries read one picture: {sorted(names)}")
        for index in range(len(data)):
            try:
                ids = data.mask(index)
            except SwinkitError as error:
                refused = refused or error
                continue
            _say_ids(ids, len(data.classes))
        data.fingerprint()
    if refused is not None:
        raise refused


def tables(folder: Path) -> None:
    """Data sets of one's own: tables, lists, zips, folders of classes; lists of groups and of answers that count as right."""
    chosen = next((path for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".tsv", ".zip")), folder)
    if chosen.stem in ("groups", "train", "val", "metadata"):
        chosen = folder
    refused: SwinkitError | None = None
    with contextlib.suppress(SwinkitError):
        check_data(chosen)
    for split in (None, "train", "val"):
        try:
            data = open_dataset(chosen, split)
            for index in range(len(data)):
                data.target(index)
                data.read(index)
            data.fingerprint()
            if (folder / "groups.csv").exists():
                read_groups(folder / "groups.csv", data)
            if (folder / "real.json").exists():
                read_real(folder / "real.json", data)
        except MissingPart as error:
            refused = error if split is None else refused
        except SwinkitError as error:
            refused = refused or error
    if (folder / "masks").is_dir() and (folder / "predictions").is_dir():
        evaluate_predictions(folder / "predictions", open_segmentation(folder))
    if refused is not None:
        raise refused


def states(folder: Path) -> None:
    """The state of a run, put back into a network and its optimiser: then all values are those that were saved."""
    path = folder / "state.safetensors"
    state = read_state(path)
    network = SwinClassifier(TINY)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    ema = {name: value.clone() for name, value in network.state_dict().items()}
    load_state(state, path, network, optimiser, ema)
    values = [*network.state_dict().values(), *ema.values()]
    if not all(bool(value.isfinite().all()) for value in values):
        raise Finding("a state that holds no numbers was believed")
    optimiser.zero_grad()
    network(torch.zeros(1, 3, 8, 8)).sum().backward()
    optimiser.step()


def recipes(folder: Path) -> None:
    """Recipes and what ``--set`` says (lines of ``set.txt``): what was accepted is finite and reads back the same."""
    changes = folder / "set.txt"
    overrides = changes.read_text(errors="surrogateescape").split("\n") if changes.is_file() else []
    recipe = load_recipe(str(folder / "recipe.yaml"), [line for line in overrides if line])
    text = recipe_yaml(recipe)
    (folder / "recipe.yaml").write_text(text)
    if load_recipe(str(folder / "recipe.yaml")) != recipe:
        raise Finding("a recipe reads back as another")
    for number in _numbers(recipe.model_dump(mode="json")):
        if not math.isfinite(number):
            raise Finding(f"a recipe with {number}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, float):
        yield value


TARGETS: dict[str, Callable[[Path], None]] = {
    target.__name__: target for target in (weights, exports, masks, pictures, coco, tables, states, recipes)
}
