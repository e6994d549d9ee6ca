"""Put weights into a network that may have another window, head or stem; say what was done, skip nothing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swinkit.errors import CheckpointError, KeysLeftOver, ShapesDiffer, refusing
from swinkit.labels import map_22k_to_1k
from swinkit.models.segmentation import Segmenter
from swinkit.models.swin import Swin, SwinBackbone, WindowAttentionV2
from swinkit.models.windows import resize_bias_table
from swinkit.specs import Variant
from swinkit.weights.checkpoint import Checkpoint
from swinkit.weights.heads import PREFIXES

Head = Literal["exact", "new", "22k"]


def load_into(model: nn.Module, source: Checkpoint | dict[str, Tensor], head: Head = "exact") -> str:
    """Load weights into a network, adapting what is allowed to differ.

    Args:
        model: a classifier, backbone, masked encoder or segmenter of this package; one built on the meta device takes the tensors
            themselves.
        source: a checkpoint, or tensors under our names. A V2 checkpoint also says the windows it was trained with, so
            that its coordinates keep their scale at another window.
        head: "exact" refuses another number of classes, "new" starts such a head at zero (as the original loader
            does; a segmenter's classifier as it was initialised, its decoder too where the weights have none), "22k" takes
            the rows of the 1,000 classes out of a 22K head.

    Returns:
        One line: how many tensors were loaded, what was resized or made anew.

    Raises:
        KeysLeftOver: tensors without a place, or places without a tensor.
        ShapesDiffer: a tensor of another shape.
    """
    with refusing(CheckpointError, "the weights do not fit the network", "build the network they were made for"):
        return _load_segmenter(model, source, head) if isinstance(model, Segmenter) else _load(model, source, head)


def _load(model: nn.Module, source: Checkpoint | dict[str, Tensor], head: Head) -> str:
    wanted = model.state_dict()
    variant = source.spec.variant if isinstance(source, Checkpoint) else None
    given = _tensors(source)
    notes: list[str] = []
    decoders = [given.pop(key) for key in list(given) if key.startswith(PREFIXES)]
    if decoders:
        notes.append(f"left aside {len(decoders)} tensors of a decoder")
    aside = _set_aside(model, given, wanted, head, notes)
    _fit_head(given, wanted, head, notes)
    _fit_stem(given, wanted, notes)
    _fit_positions(given, wanted, notes)
    missing, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or extra:
        parts = [f"{len(extra)} tensors have no place (first: {extra[0]})"] if extra else []
        parts += [f"{len(missing)} places have no tensor (first: {missing[0]})"] if missing else []
        raise KeysLeftOver(f"{' and '.join(parts)}; the weights belong to another variant")
    for key, value in given.items():
        if value.shape != wanted[key].shape:
            raise ShapesDiffer(
                f"{key} is {tuple(value.shape)} in the weights and {tuple(wanted[key].shape)} in the network; "
                "build the variant the weights were made for"
            )
        if not value.is_floating_point():
            raise CheckpointError(f"{key} holds {value.dtype}, not floating point numbers; quantised weights are not read")
    _put(model, given, wanted)
    if variant is not None and isinstance(model, Swin):
        _keep_coordinates(model, variant, notes)
    total = len(wanted)
    said = f"loaded {total - aside} of {total} tensors"
    return "; ".join([said, *notes])


def _tensors(source: Checkpoint | dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(source.tensors if isinstance(source, Checkpoint) else source)


def _put(model: nn.Module, given: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Copy tensors into the network; one on the meta device takes copies as its own."""
    unborn = any(value.is_meta for value in wanted.values())
    # A copy even then: memory of a file may be unaligned, and kernels round differently there.
    given = {key: value.to(wanted[key].dtype, copy=unborn) for key, value in given.items()}
    model.load_state_dict(given, assign=unborn)


def _load_segmenter(model: Segmenter, source: Checkpoint | dict[str, Tensor], head: Head) -> str:
    """Load the backbone by its own rules and the decoder strictly, or leave the decoder new."""
    tensors = _tensors(source)
    given = {key: tensors.pop(key) for key in list(tensors) if key.startswith(PREFIXES)}
    if not isinstance(model.backbone, Swin):
        body, wanted = {key.removeprefix("backbone."): t for key, t in tensors.items()}, model.backbone.state_dict()
        odd = sorted(body.keys() ^ wanted.keys()) or [key for key in body if body[key].shape != wanted[key].shape]
        if odd:
            raise KeysLeftOver(f"{len(odd)} tensors of the backbone do not match (first: {odd[0]}); the weights are another's")
        _put(model.backbone, body, wanted)
        said = f"loaded {len(body)} tensors of the backbone"
    elif isinstance(source, Checkpoint):
        said = load_into(model.backbone, Checkpoint(tensors, source.spec, source.dialect, [], source.source), "new")
    else:
        said = load_into(model.backbone, tensors, "new")
    wanted = {key: value for key, value in model.state_dict().items() if key.startswith(PREFIXES)}
    if not given:
        if head == "exact":
            raise KeysLeftOver("the weights have no decoder, only a backbone; train one: swinkit train finetune_segment")
        return f"{said}; the decoder starts anew"
    classifier = given.get("decode_head.classifier.weight")
    old, new = 0 if classifier is None else classifier.shape[0], model.num_classes
    if old != new:
        if head == "exact":
            raise ShapesDiffer(f"the weights have {old} classes, the network {new}; build it with num_classes={old}")
        given |= {key: value for key, value in wanted.items() if ".classifier." in key}
        said += f"; classifiers start anew ({old} -> {new} classes)"
    auxiliary = {key for key in given.keys() ^ wanted.keys() if key.startswith("auxiliary_head.")}
    for key in auxiliary:
        if key in given:
            del given[key]
        elif head != "exact":
            given[key] = wanted[key]
    if auxiliary:
        said += "; auxiliary head left aside or new"
    odd = sorted(given.keys() ^ wanted.keys()) or [key for key in given if given[key].shape != wanted[key].shape]
    if odd:
        raise ShapesDiffer(f"{len(odd)} tensors of the decoder do not fit (first: {odd[0]}); build the decoder of the weights")
    _put(model, {**{k: v for k, v in model.state_dict().items() if k not in given}, **given}, model.state_dict())
    return f"{said}; {len(given)} of the decoder"


def _set_aside(model: nn.Module, given: dict[str, Tensor], wanted: dict[str, Tensor], head: Head, notes: list[str]) -> int:
    """Remove what this kind of network does not have, fill in what only it has; return the number filled in."""
    made = 0
    dropped = []
    names = [key for key in given if key.startswith(("norm", "head.", "mask_token")) and key not in wanted]
    if "norm.weight" in wanted and "norm.weight" not in given:
        last = max((key for key in names if key.startswith("norm") and key.endswith(".weight")), default=None)
        if last is not None:  # a dense network's last output norm is the nearest to a classifier's norm
            for part in ("weight", "bias"):
                given[f"norm.{part}"] = given[last.replace("weight", part)]
            notes.append(f"the final norm taken from {last.removesuffix('.weight')}")
    for key in names:
        del given[key]
        dropped.append(key)
    if dropped:
        notes.append(f"left aside {', '.join(sorted({key.rsplit('.', 1)[0] for key in dropped}))}")
    fresh = [key for key in wanted if key not in given]
    if isinstance(model, SwinBackbone):
        allowed = [key for key in fresh if key.startswith("norm")]
    elif head == "exact":
        allowed = []
    else:
        allowed = [key for key in fresh if key.startswith(("norm.", "mask_token", "head."))]
    for key in allowed:
        if not key.startswith("head."):
            given[key] = wanted[key]
            made += 1
    if made:
        notes.append(f"{made} tensors start anew ({', '.join(sorted({k.rsplit('.', 1)[0] for k in allowed if k in given}))})")
    return made


def _fit_head(given: dict[str, Tensor], wanted: dict[str, Tensor], head: Head, notes: list[str]) -> None:
    if "head.weight" not in wanted:
        return
    classes = wanted["head.weight"].shape[0]
    old = given["head.weight"].shape[0] if "head.weight" in given else 0
    if old == classes and "head.bias" in given:
        return
    if head == "exact":
        if old:
            raise ShapesDiffer(f"the weights have {old} classes, the network {classes}; build it with num_classes={old}")
        return
    if head == "22k" and (old, classes) == (21841, 1000):
        rows = map_22k_to_1k()
        given["head.weight"], given["head.bias"] = given["head.weight"][rows], given["head.bias"][rows]
        notes.append("head: 1000 rows of the 22K head by the authors' map")
        return
    given["head.weight"], given["head.bias"] = (torch.zeros_like(wanted[f"head.{part}"]) for part in ("weight", "bias"))
    notes.append(f"head replaced ({old} -> {classes} classes)" if old else f"a new head for {classes} classes")


def _fit_stem(given: dict[str, Tensor], wanted: dict[str, Tensor], notes: list[str]) -> None:
    """Adapt the patch convolution to another number of image channels or a patch several times as wide.

    The response keeps its size: a wider patch answers as the old one does for the picture shrunk by averaging.
    """
    key = "patch_embed.proj.weight"
    if key not in given or key not in wanted or given[key].shape == wanted[key].shape:
        return
    (old, side), (new, wider) = given[key].shape[1:3], wanted[key].shape[1:3]
    weight = given[key].float()
    if wider > side and wider % side == 0:
        times = wider // side
        weight = weight.repeat_interleave(times, 2).repeat_interleave(times, 3) / times**2
        notes.append(f"stem: patches of {side} -> {wider} pixels")
    if old != new:
        if new == 1:
            weight = weight.sum(1, keepdim=True)  # a grey picture is three equal channels
        else:
            weight = weight.repeat(1, -(-new // old), 1, 1)[:, :new] * (old / new)
        notes.append(f"stem: {old} -> {new} channels")
    given[key] = weight


def _fit_positions(given: dict[str, Tensor], wanted: dict[str, Tensor], notes: list[str]) -> None:
    sizes = set()
    for key, target in wanted.items():
        if key not in given or given[key].shape == target.shape:
            continue
        if key.endswith("relative_position_bias_table") and given[key].shape[1] == target.shape[1]:
            old, new = (int((shape[0] ** 0.5 + 1) / 2) for shape in (given[key].shape, target.shape))
            given[key] = resize_bias_table(given[key], new)
            sizes.add(f"{old} -> {new}")
        elif key == "absolute_pos_embed" and given[key].shape[2] == target.shape[2]:
            old, new = (round(shape[1] ** 0.5) for shape in (given[key].shape, target.shape))
            grid = given[key].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
            grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
            given[key] = grid.permute(0, 2, 3, 1).reshape(1, new * new, -1)
            notes.append(f"positions resized {old} -> {new}")
    if sizes:
        notes.append(f"bias tables resized (windows {', '.join(sorted(sizes))}; bicubic)")


def _keep_coordinates(model: Swin, variant: Variant, notes: list[str]) -> None:
    """V2: scale coordinates by the window of the training, also at another window (arXiv 2111.09883, section 3.3)."""
    if variant.version != 2 or model.variant.version != 2:
        return
    if any(model.variant.pretrained_windows):
        return  # whoever built the network has said it
    references = tuple(p or w for p, w in zip(variant.pretrained_windows, variant.stage_windows, strict=True))
    changed = False
    attentions = [(name, m) for name, m in model.named_modules() if isinstance(m, WindowAttentionV2)]
    for name, attention in attentions:
        reference = references[int(name.split(".")[1])]
        changed |= attention.reference != reference
        attention.reference = reference
    if changed:
        model.variant = model.variant.changed(pretrained_windows=references)
        notes.append(f"coordinates scaled by the training's windows {references}")
