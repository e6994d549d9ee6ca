"""Put weights into a network that may have another window, head or stem; say what was done, skip nothing."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from swinkit.errors import CheckpointError, KeysLeftOver, ShapesDiffer, refusing
from swinkit.models.swin import Swin, SwinBackbone, WindowAttentionV2
from swinkit.models.windows import resize_bias_table
from swinkit.specs import Variant
from swinkit.weights import heads
from swinkit.weights.checkpoint import Checkpoint
from swinkit.weights.heads import Mode


def load_into(model: nn.Module, source: Checkpoint | dict[str, Tensor], head: Mode = "exact") -> str:
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
        kind = heads.of_network(model)
        variant = source.spec.variant if isinstance(source, Checkpoint) else None
        tensors, apart = heads.split(source.tensors if isinstance(source, Checkpoint) else source)
        own, body = apart.pop(kind.task, {}), kind.body(model)
        notes = [f"left aside {len(found)} tensors of {heads.HEADS[task].called}" for task, found in apart.items()]
        if body is model:
            return _load(model, tensors, variant, head, notes)
        said = _load(body, tensors, variant, "new", notes) if isinstance(body, Swin) else _load_foreign(body, tensors)
        return "; ".join([said, *kind.load(model, own, head)])


def _load_foreign(body: nn.Module, tensors: dict[str, Tensor]) -> str:
    """Load the backbone of another library, whose names are its own: all of it or nothing."""
    given, wanted = {key.removeprefix("backbone."): t for key, t in tensors.items()}, body.state_dict()
    odd = sorted(given.keys() ^ wanted.keys()) or [key for key in given if given[key].shape != wanted[key].shape]
    if odd:
        raise KeysLeftOver(f"{len(odd)} tensors of the backbone do not match (first: {odd[0]}); the weights are another's")
    heads.put(body, given, wanted)
    return f"loaded {len(given)} tensors of the backbone"


def _load(model: nn.Module, given: dict[str, Tensor], variant: Variant | None, head: Mode, notes: list[str]) -> str:
    wanted = model.state_dict()
    aside = _set_aside(model, given, wanted, head, notes)
    for kind in heads.HEADS.values():
        kind.fit(given, wanted, head, notes)
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
    heads.put(model, given, wanted)
    if variant is not None and isinstance(model, Swin):
        _keep_coordinates(model, variant, notes)
    total = len(wanted)
    said = f"loaded {total - aside} of {total} tensors"
    return "; ".join([said, *notes])


def _set_aside(model: nn.Module, given: dict[str, Tensor], wanted: dict[str, Tensor], head: Mode, notes: list[str]) -> int:
    """Remove what this kind of network does not have, fill in what only it has; return the number filled in."""
    made, within = 0, heads.beginnings("within")
    dropped = []
    names = [key for key in given if key.startswith(("norm", *within)) and key not in wanted]
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
        allowed = [key for key in fresh if key.startswith(("norm.", *heads.beginnings("fresh")))]
    for key in allowed:
        given[key] = wanted[key]
        made += 1
    if made:
        notes.append(f"{made} tensors start anew ({', '.join(sorted({k.rsplit('.', 1)[0] for k in allowed}))})")
    return made


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
    references = variant.reference_windows
    changed = False
    attentions = [(name, m) for name, m in model.named_modules() if isinstance(m, WindowAttentionV2)]
    for name, attention in attentions:
        reference = references[int(name.split(".")[1])]
        changed |= attention.reference != reference
        attention.reference = reference
    if changed:
        model.variant = model.variant.changed(pretrained_windows=references)
        notes.append(f"coordinates scaled by the training's windows {references}")
