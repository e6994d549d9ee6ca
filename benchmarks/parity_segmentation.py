"""Reference outputs of mmsegmentation, and transformers' UPerNet live: what ``benchmarks.parity`` prints for segmenters."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from swinkit.models.build import build_network
from swinkit.models.segmentation import Segmenter
from swinkit.models.segmentation.losses import cross_entropy, dice
from swinkit.tasks.segment.passes import slide
from swinkit.weights import load_checkpoint, load_into

LOGITS_BOUND, LOSS_BOUND = 1e-4, 1e-3


@dataclass
class Row:
    """One line: a fixture's largest deviation of logits (absolute) and of losses (relative)."""

    system: str
    fixture: str
    logits: float
    losses: float
    compared: int
    note: str = ""

    @property
    def fits(self) -> bool:
        """Whether both are within bounds."""
        return self.logits <= LOGITS_BOUND and self.losses <= LOSS_BOUND


def rows(folder: Path) -> Iterator[Row]:
    """Yield a row for each network's fixture in a folder; other files are named and passed over."""
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            keys = set(file.keys())
        config = json.loads(metadata.get("config", "{}"))
        kinds = config.get("model", {}).get("type") if isinstance(config, dict) else None
        if kinds != "EncoderDecoder" or not any(key.startswith("state/") for key in keys):
            yield Row(
                str(config.get("system", "-")) if isinstance(config, dict) else "-", path.name, 0.0, 0.0, 0, "not a segmenter"
            )
            continue
        yield compare(path, config)


def load_fixture(path: Path) -> tuple[Segmenter, dict[str, Tensor]]:
    """Return our network with a fixture's weights, read as a folder of that dialect, and the fixture's tensors."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    state = {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    with tempfile.TemporaryDirectory() as temporary:
        save_file({key: value.contiguous() for key, value in state.items()}, Path(temporary) / "model.safetensors")
        (Path(temporary) / "config.json").write_text(json.dumps(config["model"]))
        checkpoint = load_checkpoint(temporary)
    network = build_network(checkpoint.spec.changed(variant=checkpoint.spec.variant.changed(drop_path=0.0)))
    load_into(network, checkpoint)
    assert isinstance(network, Segmenter)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    return network, tensors


def compare(path: Path, config: dict) -> Row:
    """Return the deviations of everything a fixture holds that we compute."""
    network, tensors = load_fixture(path)
    far, losses, compared = 0.0, 0.0, 0

    def image(name: str) -> Tensor:
        return (tensors[f"input/{name}"].float() - 128) / 64

    def differ(answer: Tensor, name: str) -> None:
        nonlocal far, compared
        far, compared = max(far, float((answer - tensors[name].float()).abs().max())), compared + 1

    network.eval()
    with torch.inference_mode():
        for name in ("a", "b"):
            if f"out/{name}/logits" in tensors:
                differ(network(image(name)), f"out/{name}/logits")
        for name in (key for key in tensors if "/slide_" in key):
            _, place, windows = name.split("/")
            crop, stride = (int(value) for value in windows.split("_")[1:])
            differ(slide(network, image(place), crop, stride), name)
        if "out/tta/prob" in tensors:
            size = tensors["out/tta/prob"].shape[-2:]
            found = []
            for name in (key.removeprefix("input/") for key in tensors if key.startswith("input/tta_")):
                for mirrored in (False, True):
                    images = image(name)
                    logits = network(images.flip(-1)).flip(-1) if mirrored else network(images)
                    logits = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
                    found.append(logits.softmax(dim=1))
            differ(torch.stack(found).mean(0), "out/tta/prob")
    network.train()
    targets = tensors["input/train_target"].long()
    logits, auxiliary = network.with_auxiliary(image("train"))
    weight = config["model"].get("auxiliary_head", {}).get("loss_decode", {}).get("loss_weight", 0.4)
    ours = {"loss/decode.loss_ce": cross_entropy(logits, targets, "all"), "variant/dice_softmax": dice(logits, targets)}
    ours["variant/ce_mean_over_valid"] = cross_entropy(logits, targets, "valid")
    total = ours["loss/decode.loss_ce"]
    if auxiliary is not None:
        ours["loss/aux.loss_ce"] = weight * cross_entropy(auxiliary, targets, "all")
        total = total + ours["loss/aux.loss_ce"]
    ours["loss/total"] = total
    for name, value in ours.items():
        if f"train/{name}" in tensors:
            expected = float(tensors[f"train/{name}"])
            losses, compared = max(losses, abs(float(value.detach()) - expected) / max(abs(expected), 1e-12)), compared + 1
    return Row(str(config.get("system", "?")), path.name, far, losses, compared)


def transformers_rows() -> Iterator[Row]:
    """Yield transformers' UPerNet, both directions, from new random weights; the files in between are real ones."""
    import transformers

    from benchmarks.parity import randomise
    from swinkit.prediction import load

    shapes = ((7, (2, 2, 2, 2), (1, 2, 3, 6)), (4, (1, 2, 3, 1), (1, 2, 4)), (12, (2, 2, 2, 2), (1, 3, 5, 7, 8)))
    for window, depths, scales in shapes:
        torch.manual_seed(window)
        body = transformers.SwinConfig(
            embed_dim=24,
            depths=list(depths),
            num_heads=[1, 2, 4, 8],
            window_size=window,
            out_features=["stage1", "stage2", "stage3", "stage4"],
            image_size=64 * window,
        )
        config = transformers.UperNetConfig(
            backbone_config=body,
            hidden_size=32,
            pool_scales=list(scales),
            auxiliary_channels=16,
            auxiliary_in_channels=96,
            num_labels=9,
        )
        theirs = transformers.UperNetForSemanticSegmentation(config)
        randomise(theirs)
        theirs.eval()
        images, targets = torch.randn(2, 3, 96, 120), torch.randint(0, 9, (2, 96, 120))
        targets[:, :20] = 255
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            theirs.save_pretrained(folder)
            predictor = load(folder)
            expected = theirs(images, labels=targets)
            far = float((predictor.model(images) - expected.logits).abs().max())
            logits, auxiliary = predictor.network.with_auxiliary(images)
            loss = cross_entropy(logits, targets) + 0.4 * cross_entropy(auxiliary, targets)
            yield Row("UPerNet", f"transformers w{window}, read", far, float((loss - expected.loss).abs() / expected.loss), 2)
            predictor.save_pretrained(f"{folder}/back")
            back, report = transformers.UperNetForSemanticSegmentation.from_pretrained(f"{folder}/back", output_loading_info=True)
            note = "" if not report["unexpected_keys"] else f"unexpected: {report['unexpected_keys']}"
            far = float((back.eval()(images).logits - expected.logits).abs().max())
            yield Row("UPerNet", f"transformers w{window}, written", far, 0.0, 1, note)
