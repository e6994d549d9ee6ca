"""How to train, as typed values: read from YAML, unknown keys refused with the nearest name."""

from __future__ import annotations

import contextlib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from swinkit.errors import RecipeError, nearest
from swinkit.files import read_text
from swinkit.training.values import clipped, echo, parse_yaml

MOST_BYTES = 100_000  # of a recipe; the packaged ones have 2,000

# Elements of lists; a list's own length is bounded beside it.
Pixels = Annotated[int, Field(ge=1, le=16384)]
Window = Annotated[int, Field(ge=0, le=256)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Epochs = Annotated[float, Field(gt=0, le=100_000)]
Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(gt=0, le=100)]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]
MaskValue = Annotated[int, Field(ge=0, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Network(_Section):
    """Changes to the network. None keeps the variant's or the checkpoint's value."""

    img_size: int | None = Field(None, ge=8, le=4096, description="side of the input in pixels")
    min_img_size: int = Field(0, ge=0, le=4096, description="the checkpoint's img_size, but at least this")
    patch_size: int | None = Field(None, ge=1, le=64, description="pixels of a token; a multiple of the checkpoint's")
    window_size: int | None = Field(None, ge=1, le=256)
    pretrained_windows: tuple[Window, ...] | None = Field(
        None, max_length=8, description="V2: windows of the pre-training, a stage each"
    )
    drop_path: float | None = Field(None, ge=0, lt=1)
    shift: bool | None = Field(None, description="false: no block shifts its windows (the paper's ablation)")
    freeze_stages: int = Field(0, ge=0, le=4, description="patch embedding and this many stages stay as they are")
    activation_checkpointing: bool = Field(False, description="recompute activations: about 30 % slower, far less memory")


class Optimiser(_Section):
    """The rate is multiplied by batch_size / rate_batch; above 0.01 AdamW on a transformer diverges."""

    kind: Literal["adamw", "muon"] = Field("adamw", description="muon: on the linear layers, AdamW on the rest")
    learning_rate: float = Field(5e-4, gt=0, le=0.01)
    rate_batch: int = Field(512, ge=1, le=1_000_000, description="batch size the learning rates are given for")
    weight_decay: float = Field(0.05, ge=0, le=1)
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0, le=1)
    clip_norm: float = Field(5.0, ge=0, le=1e6, description="largest global gradient norm; 0 switches clipping off")
    layer_decay: float = Field(1.0, gt=0, le=1, description="rate of a layer = decay ** (layers above it)")
    no_decay: Literal["vectors", "norms"] = Field(
        "vectors",
        description="what weight decay leaves out besides position tables: vectors = all vectors and biases (classification); "
        "norms = the backbone's LayerNorms only (the authors' segmentation: biases and the heads' BatchNorms decay)",
    )
    decay_positions: bool = Field(False, description="also decay bias tables, position networks and logit scales")


class Schedule(_Section):
    """The learning rate as a function of the step: linear warm-up, then ``kind``."""

    kind: Literal["cosine", "linear", "multistep", "constant", "poly"] = "cosine"
    warmup_epochs: float = Field(20, ge=0, le=100_000)
    warmup_steps: int = Field(0, ge=0, le=100_000_000, description="poly: length of the warm-up in steps; others count epochs")
    power: float = Field(1.0, gt=0, le=100, description="poly: (1 - share done) ** power")
    warmup_over_decay: bool = Field(
        True, description="poly: the warm-up multiplies the falling rate (mmcv 1.x, the authors), or goes before it (mmseg 1.x)"
    )
    warmup_rate: float = Field(5e-7, ge=0, le=0.01, description="rate of the first step, for rate_batch images")
    minimum_rate: float = Field(5e-6, ge=0, le=0.01, description="rate of the last step, for rate_batch images")
    milestones: tuple[Epochs, ...] = Field(
        (), max_length=1000, description="multistep: epochs after which the rate is multiplied by gamma"
    )
    gamma: float = Field(0.1, gt=0, le=1)


class Augment(_Section):
    """Random changes of training pictures and batches; zeros switch a change off."""

    crop_scale: tuple[Share, Share] = (0.08, 1.0)
    crop_ratio: tuple[Ratio, Ratio] = (0.75, 4 / 3)
    flip: float = Field(0.5, ge=0, le=1)
    randaugment: int = Field(2, ge=0, le=15, description="operations a picture")
    magnitude: float = Field(9.0, ge=0, le=10)
    magnitude_std: float = Field(0.5, ge=0, le=10)
    soften: float = Field(0.0, ge=0, le=1, description="probability of losing detail before scaling")
    erase: float = Field(0.25, ge=0, le=1)
    mixup: float = Field(0.8, ge=0, le=100, description="alpha of mixup")
    cutmix: float = Field(1.0, ge=0, le=100, description="alpha of CutMix")
    switch: float = Field(0.5, ge=0, le=1, description="share of CutMix when both are on")
    label_smoothing: float = Field(0.1, ge=0, lt=1)


class Masking(_Section):
    """SimMIM (arXiv 2111.09886): which part of a picture is hidden, and what is compared."""

    cell: int = Field(32, ge=1, le=4096, description="side of a hidden cell in pixels")
    ratio: float = Field(0.6, gt=0, lt=1)
    normalise_targets: int = Field(0, ge=0, le=4096, description="side of the window targets are normalised in; 0 = plain pixels")


class Scene(_Section):
    """Random views of pictures with label maps (task segment). ``augment.flip`` counts too, the rest of augment does not."""

    crop: tuple[Pixels, Pixels] = Field((512, 512), description="height and width of the training input, pixels")
    ratio: tuple[Ratio, Ratio] = Field((0.5, 2.0), description="range of the scale, times the test preparation's")
    max_share: float = Field(0.75, gt=0, le=1, description="largest share of one class in a crop; 1 takes any crop")
    distort: bool = Field(True, description="change brightness, contrast, saturation, hue")


class Head(_Section):
    """The decoder of a segmenter. None keeps its published widths, or the checkpoint's."""

    kind: Literal["upernet", "fpn", "unet"] | None = None
    channels: int | None = Field(None, ge=1, le=4096)
    neck_channels: int | None = Field(None, ge=1, le=4096)
    auxiliary_channels: int | None = Field(None, ge=0, le=4096)
    auxiliary_index: int | None = Field(None, ge=0, le=8)
    dropout: float | None = Field(None, ge=0, lt=1)


class Loss(_Section):
    """Losses of label maps."""

    divide: Literal["all", "valid"] = Field(
        "valid", description="cross entropy over all pixels (authors, mmseg) or those not void"
    )
    auxiliary: float = Field(0.4, ge=0, le=1000, description="weight of the auxiliary head's loss")
    dice: float = Field(0.0, ge=0, le=1000, description="weight of a Dice loss beside cross entropy, for rare classes")


class Data(_Section):
    """Which files of ``--data`` are which part. Empty: the folder's own train and val."""

    train: str = Field("", max_length=1000, description="file name or pattern inside --data, for example train-[0-3].zip")
    val: str = Field("", max_length=1000, description="the same for validation")
    val_fraction: float = Field(0.2, gt=0, lt=1, description="share held out when there is no validation part")
    classes: tuple[ClassName, ...] = Field(
        (), max_length=255, description="label maps: class names in index order, when the data does not say them"
    )
    void: tuple[MaskValue, ...] = Field((), max_length=1000, description="label maps: values besides 255 that mean nothing")
    licence: str = Field("", max_length=200, pattern=r"^[^\n]*$", description="of the pictures, for the model card")
    check: bool = Field(True, description="decode every picture before the first step; broken ones end the run")


class Test(_Section):
    """How pictures are prepared for evaluation, and from then on. None takes the checkpoint's or the recipe's size."""

    resize: Literal["squash", "shorter", "box", "native"] | None = None
    box: tuple[Pixels, Pixels] | None = Field(None, description="box: shorter and longer side that pictures are fitted into")
    interpolation: Literal["bicubic", "bilinear"] | None = None
    antialias: bool | None = None
    resize_to: int | None = Field(None, ge=1, le=16384, description="shorter: its length in pixels; default 256/224 of the size")


class Recipe(_Section):
    """Everything a run depends on besides the data.

    ``batch_size`` counts all images of an optimiser step, over all processes; ``micro_batch`` is how many go
    through the network at once on one device, the rest follows by accumulation (0: all at once).
    """

    task: Literal["classify", "simmim", "segment"] = "classify"
    model: str = Field("", max_length=4096, description="variant to start anew, or checkpoint to start from")
    from_scratch: bool = Field(False, description="take only the shape of ``model``, even when it has weights")
    seed: int = Field(0, ge=0, lt=2**31)
    epochs: int = Field(300, ge=1, le=100_000)
    iterations: int = Field(0, ge=0, le=100_000_000, description="length in optimiser steps instead of epochs; 0 counts epochs")
    batch_size: int = Field(1024, ge=1, le=1_000_000)
    micro_batch: int = Field(0, ge=0, le=1_000_000)
    precision: Literal["fp32", "bf16"] = "bf16"
    compile: bool = Field(False, description="torch.compile: a minute's preparation, then steps about a third quicker")
    workers: int = Field(2, ge=0, le=256)
    network: Network = Network()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    masking: Masking = Masking()
    scene: Scene = Scene()
    decoder: Head = Head()
    loss: Loss = Loss()
    data: Data = Data()
    test: Test = Test()
    class_weights: Literal["none", "balanced"] = "none"
    ema_decay: float = Field(0.0, ge=0, lt=1, description="running mean of the weights; 0 switches it off")
    patience: int = Field(0, ge=0, le=100_000, description="stop after so many evaluations without a better one; 0 never")
    evaluate_every: int = Field(1, ge=1, le=100_000, description="epochs")
    save_minutes: float = Field(5.0, gt=0, le=1_000_000, description="longest time that a killed run loses")
    licence: str = Field("", max_length=200, pattern=r"^[^\n]*$", description="of the trained weights, for the model card")
    map_22k: bool = Field(False, description="take the rows of the 1,000 classes out of a 22K head")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        ranges = {"augment.crop_scale": self.augment.crop_scale, "augment.crop_ratio": self.augment.crop_ratio}
        for name, (low, high) in {**ranges, "scene.ratio": self.scene.ratio}.items():
            if low > high:
                raise ValueError(f"{name} must be rising, got ({low:g}, {high:g})")
        names = self.data.classes
        doubled = [name for place, name in enumerate(names) if name in names[:place]]
        if doubled:
            raise ValueError(f"data.classes names {echo(doubled[0])} twice")
        if not all(name.isprintable() for name in names):
            raise ValueError("data.classes holds a name with control characters")
        if self.schedule.warmup_epochs >= self.epochs and self.schedule.kind != "constant":
            raise ValueError(f"schedule.warmup_epochs ({self.schedule.warmup_epochs:g}) must be less than epochs ({self.epochs})")
        return self


# What may differ when a run goes on: nothing here changes a result.
CHANGEABLE_ON_RESUME = {"workers", "save_minutes"}


def recipe_names() -> dict[str, str]:
    """Return the packaged recipes and what each is for (the comment in its first line)."""
    folder = resources.files("swinkit") / "recipes"
    names = {}
    for item in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if item.name.endswith(".yaml"):
            names[item.name.removesuffix(".yaml")] = _packaged(item.name).split("\n")[0].lstrip("# ").strip()
    return names


def load_recipe(source: str, overrides: list[str] | None = None) -> Recipe:
    """Return a recipe.

    Args:
        source: name of a packaged recipe, or path of a YAML file.
        overrides: ``key=value`` strings, dotted for sections (``optimiser.learning_rate=1e-4``); values are YAML.

    Raises:
        RecipeError: no such recipe, not YAML, an unknown key (nearest named), a value out of range.
    """
    where, text = _read(source)
    data = parse_yaml(text, where)
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: a recipe is a table of keys and values, found {type(data).__name__}")
    for item in overrides or []:
        _override(data, item)
    return parse_recipe(data, where)


def parse_recipe(data: dict[str, Any], where: str) -> Recipe:
    """Return a recipe from plain values; ``where`` names their source in errors."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_sentence(error)}") from None


def recipe_yaml(recipe: Recipe) -> str:
    """Return the recipe with every value, as YAML that ``load_recipe`` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _read(source: str) -> tuple[str, str]:
    names = recipe_names()
    if source in names:
        return f"recipe {source}", _packaged(f"{source}.yaml")
    there = False
    with contextlib.suppress(OSError, ValueError):  # a name too long, a zero byte
        there = Path(source).exists()
    if not there:
        alike = nearest(source[:200], names)
        raise RecipeError(f"there is no recipe or file {echo(source)} ('swinkit recipes' lists them){alike}")
    where = clipped(source)
    return where, read_text(source, MOST_BYTES, RecipeError, where, "give a YAML file")


def _packaged(name: str) -> str:
    with resources.as_file(resources.files("swinkit") / "recipes" / name) as path:
        return read_text(path, MOST_BYTES, RecipeError)


def _override(data: dict[str, Any], item: str) -> None:
    where = f"--set {clipped(item, 100)}"
    key, sign, value = item.partition("=")
    if not sign or not key:
        raise RecipeError(f"{where}: write key=value, for example --set epochs=10")
    *sections, name = key.strip().split(".")
    table: Any = data
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{where}: {clipped(section, 60)} is a value, not a section")
    table[name] = parse_yaml(value, where)
    if isinstance(table[name], str):  # YAML 1.1 reads 1e-4 as text
        with contextlib.suppress(ValueError):
            table[name] = float(table[name])


def _sentence(error: ValidationError) -> str:
    """Return the first complaint in words, and how many follow."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path = ".".join(clipped(str(part), 60) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in first["loc"][:-1]:
            section = section.model_fields[str(part)].annotation
        return f"unknown key {path!r}{nearest(str(first['loc'][-1])[:100], section.model_fields)}{more}"
    reason = first["msg"].removeprefix("Value error, ")[:200]
    if not path:
        return f"{reason}{more}"
    return f"{path}: {reason[0].lower()}{reason[1:]}, got {echo(first['input'])}{more}"


TASKS = get_args(Recipe.model_fields["task"].annotation)
