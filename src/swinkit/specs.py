"""Plain data that travels with weights: the network's shape, the image's preparation, the class names.

Nothing here imports torch, so commands that only print can stay quick.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from swinkit.bounds import rate, real, reals, settle, switch, text, whole, wholes
from swinkit.errors import InputError, brief

# Bounds of a description: several times what any published network has, and what a machine can still be asked for.
MAX_PARAMETERS = 4_000_000_000  # 16 GB in float32; Swin-G of arXiv 2111.09883 has three quarters of it
MAX_CHANNELS = 16384  # of any layer
MAX_STAGES, MAX_BLOCKS = 8, 256
MAX_WINDOW = 64  # tokens a side: all pairs of two tokens are 16 million numbers a head
MAX_PIXELS = 4096 * 4096  # of the network's input
MAX_CLASSES = 1_000_000
MAX_VALUES = 65536  # of a label map

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Variant:
    """The shape of a Swin network: everything needed to build it, nothing about its weights.

    Args:
        version: 1 (arXiv 2103.14030) or 2 (arXiv 2111.09883).
        embed_dim: channels of the first stage; they double from stage to stage.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: side of the attention window, in tokens.
        patch_size: side of the patch one token stands for, in pixels.
        mlp_ratio: hidden width of a block's MLP over its channels.
        img_size: nominal side (pixels) the classifier was made for; decides which stages have a smaller
            window (a stage whose map is not larger than the window gets the map's side and no shift).
        in_chans: channels of the image.
        num_classes: outputs of the classifier; 0 gives pooled features.
        drop_path: stochastic depth rate of the last block; it grows linearly from 0.
        pretrained_windows: V2 only: windows the position network was trained with, one for each stage; 0 means
            the stage's own window.
        absolute_position: adds a learned position to every token (no released model does).
        shift: every second block shifts its windows; False is the ablation of arXiv 2103.14030, section 4.4.
    """

    version: int = 1
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    patch_size: int = 4
    mlp_ratio: float = 4.0
    img_size: int = 224
    in_chans: int = 3
    num_classes: int = 1000
    drop_path: float = 0.1
    pretrained_windows: tuple[int, ...] = (0, 0, 0, 0)
    absolute_position: bool = False
    shift: bool = True

    def __post_init__(self) -> None:
        settle(self, whole, ("version",), 1, 2)
        settle(self, whole, ("embed_dim",), 1, MAX_CHANNELS)
        settle(self, whole, ("window_size",), 1, MAX_WINDOW)
        settle(self, whole, ("patch_size",), 1, 256)
        settle(self, whole, ("img_size",), 1, 16384)
        settle(self, whole, ("in_chans",), 1, 1024)
        settle(self, whole, ("num_classes",), 0, MAX_CLASSES)
        settle(self, real, ("mlp_ratio",), 1e-3, 64.0)
        settle(self, rate, ("drop_path",), 0.0, 1.0)
        settle(self, switch, ("absolute_position", "shift"))
        settle(self, wholes, ("depths",), 1, MAX_BLOCKS)
        settle(self, wholes, ("num_heads",), 1, MAX_CHANNELS)
        settle(self, wholes, ("pretrained_windows",), 0, MAX_WINDOW)
        stages = len(self.depths)
        if not 1 <= stages <= MAX_STAGES or len(self.num_heads) != stages or sum(self.depths) > MAX_BLOCKS:
            raise InputError(
                f"depths and num_heads need one positive entry a stage, for at most {MAX_STAGES} stages and {MAX_BLOCKS} blocks, "
                f"got {brief(self.depths)} and {brief(self.num_heads)}"
            )
        for channels, heads in zip(self.channels, self.num_heads, strict=True):
            if channels > MAX_CHANNELS or channels % heads:
                raise InputError(f"{channels} channels cannot be split over {heads} heads (at most {MAX_CHANNELS} channels)")
        if len(self.pretrained_windows) != stages:
            object.__setattr__(self, "pretrained_windows", (tuple(self.pretrained_windows) + (0,) * stages)[:stages])
        if self._size() > MAX_PARAMETERS:
            raise InputError(
                f"embed_dim {self.embed_dim}, depths {self.depths} and {self.num_classes:,} classes make a network of about "
                f"{self._size():,} parameters, more than {MAX_PARAMETERS:,}; describe a smaller one"
            )

    def _size(self) -> int:
        """Return roughly how many parameters the network has; ``models.variants.parameter_count`` counts them."""
        blocks = sum(depth * (4 + 2 * self.mlp_ratio) * width**2 for depth, width in zip(self.depths, self.channels, strict=True))
        merges = sum(8 * width**2 for width in self.channels[:-1])
        stem = self.embed_dim * self.in_chans * self.patch_size**2
        positions = self.absolute_position * self.embed_dim * (self.img_size / self.patch_size) ** 2
        return int(blocks + merges + stem + positions + self.channels[-1] * self.num_classes)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage's map, fine to coarse."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image for one step of each stage's map."""
        return tuple(self.patch_size * 2**stage for stage in range(len(self.depths)))

    @property
    def stage_windows(self) -> tuple[int, ...]:
        """Window of each stage after the classifier's rule at ``img_size`` (arXiv 2103.14030, original code)."""
        sides = []
        side = -(-self.img_size // self.patch_size)
        for _ in self.depths:
            sides.append(min(self.window_size, side))
            side = -(-side // 2)
        return tuple(sides)

    @property
    def reference_windows(self) -> tuple[int, ...]:
        """Window of each stage whose side scales V2's coordinates: the training's, else its own (arXiv 2111.09883, 3.3)."""
        return tuple(p or w for p, w in zip(self.pretrained_windows, self.stage_windows, strict=True))

    def changed(self, **changes: Any) -> Variant:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: Any) -> Variant:
        """Build from ``to_dict``'s form; unknown, ill-typed and boundless fields raise InputError."""
        return cls(**_fields(cls, data))


@dataclass(frozen=True)
class Preprocessing:
    """How an upright RGB photo becomes the network's input. Stored with the weights, used on every path.

    Args:
        size: (height, width) in pixels of the network's input; with "box" (shorter, longer) side of the box.
        resize: "squash" scales to ``size`` and gives up the aspect; "shorter" scales the shorter side to
            ``resize_to`` and takes the centre ``size``; "box" scales the whole photo, aspect kept, to the largest that
            fits into the box ``size`` lying or standing; "native" leaves it as large as it is.
        resize_to: length in pixels of the shorter side ("shorter" only; 0 otherwise).
        interpolation: filter of the scaling.
        mean, std: of each channel, for values in 0..1.
        antialias: widen the filter when shrinking; False is OpenCV's way, which segmentation systems were trained with.
    """

    size: tuple[int, int] = (224, 224)
    resize: Literal["squash", "shorter", "box", "native"] = "squash"
    resize_to: int = 0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    antialias: bool = True

    def __post_init__(self) -> None:
        settle(self, wholes, ("size",), 1, 16384)
        settle(self, whole, ("resize_to",), 0, 4096)
        settle(self, reals, ("mean",), -1e4, 1e4, 1024)
        settle(self, reals, ("std",), 1e-4, 1e4, 1024)
        settle(self, switch, ("antialias",))
        if len(self.size) != 2 or self.size[0] * self.size[1] > MAX_PIXELS:
            raise InputError(f"size must be (height, width) of at most {MAX_PIXELS:,} pixels, got {brief(self.size)}")
        if self.resize not in ("squash", "shorter", "box", "native"):
            raise InputError(f"resize must be 'squash', 'shorter', 'box' or 'native', got {brief(self.resize)}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise InputError(f"interpolation must be 'bicubic' or 'bilinear', got {brief(self.interpolation)}")
        if self.resize == "shorter" and self.resize_to < min(self.size):
            raise InputError(f"resize_to must be at least the input's {min(self.size)} pixels, got {self.resize_to}")
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError(f"mean and std need one value a channel, got {brief(self.mean)} and {brief(self.std)}")

    def describe(self) -> str:
        """Return one line for reports and cards."""
        height, width = self.size
        how = {
            "squash": f"squashed to {height}x{width}",
            "shorter": f"shorter side to {self.resize_to}, centre crop {height}x{width}",
            "box": f"scaled to fit {height}x{width}, aspect kept",
            "native": "not scaled",
        }[self.resize]
        scaling = (
            "" if self.resize == "native" else f", {self.interpolation} {'with' if self.antialias else 'without'} antialiasing"
        )
        return f"{how}{scaling}, mean {_short(self.mean)}, std {_short(self.std)}, RGB, EXIF orientation applied"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: Any) -> Preprocessing:
        """Build from ``to_dict``'s form; unknown, ill-typed and boundless fields raise InputError."""
        return cls(**_fields(cls, data))


@dataclass(frozen=True)
class Decoder:
    """The shape of a segmentation decoder on a backbone's four maps.

    Args:
        kind: "upernet" (arXiv 1807.10221), "fpn" (Semantic FPN, arXiv 1901.02446) or "unet" (arXiv 1505.04597).
        channels: width of the head that ends in the classifier.
        neck_channels: width of the pyramid below it ("fpn" only).
        pool_scales: cells a side of the pooled maps ("upernet" only).
        auxiliary_channels: width of the auxiliary head, which exists in training only; 0 means none.
        auxiliary_index: map that head stands on: a backbone's for "upernet" and "fpn", a decoder's (deep to fine) for "unet".
        dropout: rate of whole channels before the classifiers.
        deconv_kernel: side of the transposed convolution that doubles a map ("unet" only), even; 0 enlarges bilinearly and makes
            the map narrower by a 1x1 convolution.
    """

    kind: str = "upernet"
    channels: int = 512
    neck_channels: int = 256
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    auxiliary_channels: int = 256
    auxiliary_index: int = 2
    dropout: float = 0.1
    deconv_kernel: int = 0

    def __post_init__(self) -> None:
        if self.kind not in DECODERS:
            raise InputError(f"a decoder is {', '.join(DECODERS)}, got {brief(self.kind)}")
        settle(self, whole, ("channels", "neck_channels"), 1, 4096)
        settle(self, whole, ("auxiliary_channels",), 0, 4096)
        settle(self, whole, ("auxiliary_index",), 0, MAX_STAGES - 1)
        settle(self, wholes, ("pool_scales",), 1, 64, 16)
        settle(self, rate, ("dropout",), 0.0, 1.0)
        if not self.pool_scales:
            raise InputError("pool_scales needs at least one scale, got none")
        settle(self, whole, ("deconv_kernel",), 0, 16)
        if self.deconv_kernel % 2:
            raise InputError(f"deconv_kernel must be even, to double a map, got {self.deconv_kernel}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return _without_new(_plain(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, data: Any) -> Decoder:
        """Build from ``to_dict``'s form; unknown, ill-typed and boundless fields raise InputError."""
        return cls(**_fields(cls, data))


DECODERS = ("upernet", "fpn", "unet")


@dataclass(frozen=True)
class MaskRules:
    """What the values of label maps mean, and in which colours they are shown.

    Args:
        void: values besides 255 that mean nothing and count nowhere. The classes are the other values in rising order:
            with (0,) the value k is class k - 1 (ADE20K), with (11,) the values 0..10 are themselves (CamVid).
        palette: red, green, blue of class 0, of class 1, ...; empty gives generated colours.
    """

    void: tuple[int, ...] = ()
    palette: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        settle(self, wholes, ("void",), 0, MAX_VALUES - 1, MAX_VALUES)
        settle(self, wholes, ("palette",), 0, 255, 3 * MAX_VALUES)
        if len(self.palette) % 3:
            raise InputError(f"a palette needs three values of 0..255 a class, got {len(self.palette)} values")

    @classmethod
    def from_dict(cls, data: Any) -> MaskRules:
        """Build from plain values; unknown, ill-typed and boundless fields raise InputError."""
        return cls(**_fields(cls, data))


@dataclass(frozen=True)
class ModelSpec:
    """All that belongs to weights besides tensors.

    Args:
        variant: shape of the network; its ``num_classes`` is that of the head, whichever it is.
        preprocessing: how photos are prepared for it.
        labels: class names in index order; empty when nobody knows them.
        task: what the network answers, a name of ``swinkit.tasks.table``.
        name: name of the variant or checkpoint, for people.
        multi_label: True when classes do not exclude one another (sigmoid instead of softmax).
        facts: further plain facts (licence, data, metrics, how it was trained) for the card.
        decoder: what stands on the pyramid ("segment" only).
        backbone: "timm:<name>" when the pyramid is timm's instead of a Swin of this shape.
        masks: how the label maps it was trained with are written ("segment" only).
    """

    variant: Variant
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    task: str = "classify"
    name: str = ""
    multi_label: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    decoder: Decoder | None = None
    backbone: str = ""
    masks: MaskRules | None = None

    def __post_init__(self) -> None:
        settle(self, text, ("task", "name", "backbone"))
        settle(self, switch, ("multi_label",))
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", self.task):  # which tasks there are, swinkit.tasks says
            raise InputError(f"task must be a short name of small letters, got {brief(self.task)}")
        if self.backbone and not re.fullmatch(r"timm:[\w.-]+", self.backbone):
            raise InputError(f"backbone must be empty or timm:<name>, got {brief(self.backbone)}")
        if not isinstance(self.labels, list | tuple) or len(self.labels) > MAX_CLASSES:
            raise InputError(f"labels must be a list of at most {MAX_CLASSES:,} names, got {brief(self.labels)}")
        object.__setattr__(self, "labels", tuple(text(f"labels[{i}]", label) for i, label in enumerate(self.labels)))
        if not isinstance(self.facts, dict) or not all(isinstance(key, str) for key in self.facts):
            raise InputError(f"facts must be a table with names, got {brief(self.facts)}")

    def changed(self, **changes: Any) -> ModelSpec:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return nested JSON-ready values."""
        values = _plain(dataclasses.asdict(self))
        if self.decoder is not None:
            values["decoder"] = self.decoder.to_dict()
        return values

    @classmethod
    def from_dict(cls, data: Any) -> ModelSpec:
        """Build from ``to_dict``'s form; unknown, ill-typed and boundless fields raise InputError."""
        if not isinstance(data, dict):
            raise InputError(f"a model's description must be a table, got {brief(data)}")
        values = dict(data)
        parts = {"variant": Variant, "preprocessing": Preprocessing, "decoder": Decoder, "masks": MaskRules}
        for name, kind in parts.items():
            if name in ("variant", "preprocessing") or values.get(name) is not None:
                try:
                    values[name] = kind.from_dict(values.get(name))  # type: ignore[attr-defined]
                except InputError as error:
                    raise InputError(f"{name}: {error}") from None
        return cls(**_fields(cls, values))


def _without_new(decoder: dict[str, Any]) -> dict[str, Any]:
    """Return a decoder's fields; one that older versions do not know only where it says something."""
    return decoder if decoder["deconv_kernel"] else {key: value for key, value in decoder.items() if key != "deconv_kernel"}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _fields(cls: type, data: Any) -> dict[str, Any]:
    """Return ``data`` when it is a table of fields of ``cls``; what they hold is for the class itself to check."""
    if not isinstance(data, dict):
        raise InputError(f"must be a table, got {brief(data)}")
    known = [item.name for item in dataclasses.fields(cls)]
    for name in data:
        if name not in known:
            raise InputError(f"{cls.__name__} has no field {brief(name)!r}")
    return data


def _short(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)
