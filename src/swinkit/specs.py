"""Plain data that travels with weights: the network's shape, the image's preparation, the class names.

Nothing here imports torch, so commands that only print can stay quick.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

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
        stages = len(self.depths)
        if self.version not in (1, 2):
            raise ValueError(f"version must be 1 or 2, got {self.version}")
        if stages == 0 or len(self.num_heads) != stages or min(self.depths) < 1:
            raise ValueError(f"depths and num_heads need one positive entry a stage, got {self.depths} and {self.num_heads}")
        for name in ("embed_dim", "window_size", "patch_size", "img_size", "in_chans", "num_classes"):
            value, least = getattr(self, name), 0 if name == "num_classes" else 1
            if not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
            object.__setattr__(self, name, int(value))  # numpy's count too, but JSON does not know them
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}")
        for channels, heads in zip(self.channels, self.num_heads, strict=True):
            if heads < 1 or channels % heads:
                raise ValueError(f"{channels} channels cannot be split over {heads} heads")
        if len(self.pretrained_windows) != stages:
            object.__setattr__(self, "pretrained_windows", (tuple(self.pretrained_windows) + (0,) * stages)[:stages])

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

    def changed(self, **changes: Any) -> Variant:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Variant:
        """Build from ``to_dict``'s form; unknown or ill-typed fields raise ValueError."""
        return cls(**_checked(cls, data))


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
        if len(self.size) != 2 or min(self.size) < 1 or max(self.size) > 16384:
            raise ValueError(f"size must be (height, width) between 1 and 16384 pixels, got {self.size}")
        if self.resize not in ("squash", "shorter", "box", "native"):
            raise ValueError(f"resize must be 'squash', 'shorter', 'box' or 'native', got {self.resize!r}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation must be 'bicubic' or 'bilinear', got {self.interpolation!r}")
        if self.resize == "shorter" and not min(self.size) <= self.resize_to <= 16384:
            raise ValueError(f"resize_to must be at least the input's {min(self.size)} pixels, got {self.resize_to}")
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean and std need one value a channel, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

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
    def from_dict(cls, data: dict[str, Any]) -> Preprocessing:
        """Build from ``to_dict``'s form; unknown or ill-typed fields raise ValueError."""
        return cls(**_checked(cls, data))


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
    """

    kind: str = "upernet"
    channels: int = 512
    neck_channels: int = 256
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    auxiliary_channels: int = 256
    auxiliary_index: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in DECODERS:
            raise ValueError(f"a decoder is {', '.join(DECODERS)}, got {self.kind!r}")
        if (
            min(self.channels, self.neck_channels, *self.pool_scales) < 1
            or min(self.auxiliary_channels, self.auxiliary_index) < 0
        ):
            raise ValueError(f"a decoder's widths and scales must be positive, got {self}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Decoder:
        """Build from ``to_dict``'s form; unknown or ill-typed fields raise ValueError."""
        return cls(**_checked(cls, data))


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
        if any(not 0 <= value <= 65535 for value in self.void):
            raise ValueError(f"void values must be between 0 and 65535, got {self.void}")
        if len(self.palette) % 3 or any(not 0 <= value <= 255 for value in self.palette):
            raise ValueError("a palette needs three values of 0..255 a class")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MaskRules:
        """Build from plain values; unknown or ill-typed fields raise ValueError."""
        return cls(**_checked(cls, data))


@dataclass(frozen=True)
class ModelSpec:
    """All that belongs to weights besides tensors.

    Args:
        variant: shape of the network; its ``num_classes`` is that of the head, whichever it is.
        preprocessing: how photos are prepared for it.
        labels: class names in index order; empty when nobody knows them.
        task: row of ``swinkit.tasks.TASKS``.
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

    def changed(self, **changes: Any) -> ModelSpec:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return nested JSON-ready values."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelSpec:
        """Build from ``to_dict``'s form; unknown or ill-typed fields raise ValueError."""
        values = dict(data)
        if not isinstance(values.get("variant"), dict) or not isinstance(values.get("preprocessing"), dict):
            raise ValueError("a model's description needs 'variant' and 'preprocessing'")
        values["variant"] = Variant.from_dict(values["variant"])
        values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
        for name, kind in (("decoder", Decoder), ("masks", MaskRules)):
            if values.get(name) is not None:
                if not isinstance(values[name], dict):
                    raise ValueError(f"'{name}' must be a table, got {values[name]!r}")
                values[name] = kind.from_dict(values[name])
        return cls(**_checked(cls, values))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _checked(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    """Return ``data`` with lists turned into tuples, after comparing names and kinds with the defaults of ``cls``."""
    fields = {item.name: item for item in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {unknown[0]!r}")
    values = {}
    for name, value in data.items():
        default = fields[name].default
        if isinstance(value, list):
            value = tuple(value)
        if isinstance(default, bool):
            fits = isinstance(value, bool)
        elif isinstance(default, int):
            fits = isinstance(value, int) and not isinstance(value, bool)
        elif isinstance(default, float):
            fits = isinstance(value, int | float) and not isinstance(value, bool)
        elif isinstance(default, str):
            fits = isinstance(value, str)
        elif isinstance(default, tuple):
            kinds = (str,) if name == "labels" else (int, float)
            fits = isinstance(value, tuple) and all(isinstance(item, kinds) and not isinstance(item, bool) for item in value)
            if fits and name in ("depths", "num_heads", "pretrained_windows", "size", "pool_scales", "void", "palette"):
                fits = all(isinstance(item, int) for item in value)
        else:
            fits = True
        if not fits:
            raise ValueError(f"{cls.__name__}.{name} cannot be {value!r}")
        values[name] = value
    return values


def _short(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)
