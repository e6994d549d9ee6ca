"""How to train, as typed values: read from YAML, unknown keys refused with the nearest name."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from swinkit.errors import RecipeError
from swinkit.files import read_text

MOST_BYTES = 100_000  # of a recipe; the packaged ones have 2,000

# Elements of lists; a list's own length is bounded beside it.
Pixels = Annotated[int, Field(ge=1, le=16384)]
Window = Annotated[int, Field(ge=0, le=256)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Epochs = Annotated[float, Field(gt=0, le=100_000)]
Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(gt=0, le=100)]


def rising(name: str, range_: tuple[float, float]) -> None:
    """Raise ValueError unless a range's second number is at least its first."""
    if range_[0] > range_[1]:
        raise ValueError(f"{name} must be rising, got ({range_[0]:g}, {range_[1]:g})")


class Section(BaseModel):
    """A table of a recipe: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Network(Section):
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


class Optimiser(Section):
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


class Schedule(Section):
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


class Augment(Section):
    """Random changes of training pictures; zeros switch a change off."""

    crop_scale: tuple[Share, Share] = (0.08, 1.0)
    crop_ratio: tuple[Ratio, Ratio] = (0.75, 4 / 3)
    flip: float = Field(0.5, ge=0, le=1)
    randaugment: int = Field(2, ge=0, le=15, description="operations a picture")
    magnitude: float = Field(9.0, ge=0, le=10)
    magnitude_std: float = Field(0.5, ge=0, le=10)
    soften: float = Field(0.0, ge=0, le=1, description="probability of losing detail before scaling")
    erase: float = Field(0.25, ge=0, le=1)

    @model_validator(mode="after")
    def _rising(self) -> Augment:
        rising("crop_scale", self.crop_scale)
        rising("crop_ratio", self.crop_ratio)
        return self


class Data(Section):
    """Which files of ``--data`` are which part. Empty: the folder's own train and val."""

    train: str = Field("", max_length=1000, description="file name or pattern inside --data, for example train-[0-3].zip")
    val: str = Field("", max_length=1000, description="the same for validation")
    val_fraction: float = Field(0.2, gt=0, lt=1, description="share held out when there is no validation part")
    licence: str = Field("", max_length=200, pattern=r"^[^\n]*$", description="of the pictures, for the model card")
    check: bool = Field(True, description="decode every picture before the first step; broken ones end the run")


class Test(Section):
    """How pictures are prepared for evaluation, and from then on. None takes the checkpoint's or the recipe's size."""

    resize: Literal["squash", "shorter", "box", "native"] | None = None
    box: tuple[Pixels, Pixels] | None = Field(None, description="box: shorter and longer side that pictures are fitted into")
    interpolation: Literal["bicubic", "bilinear"] | None = None
    antialias: bool | None = None
    resize_to: int | None = Field(None, ge=1, le=16384, description="shorter: its length in pixels; default 256/224 of the size")


class Recipe(Section):
    """Everything a run depends on besides the data, for any task; each task adds its own keys (``tasks/<name>/recipe.py``).

    ``batch_size`` counts all images of an optimiser step, over all processes; ``micro_batch`` is how many go
    through the network at once on one device, the rest follows by accumulation (0: all at once).
    """

    task: str = Field("", max_length=100, description="what the network learns to answer; a recipe of a task sets it")
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
    data: Data = Data()
    test: Test = Test()
    ema_decay: float = Field(0.0, ge=0, lt=1, description="running mean of the weights; 0 switches it off")
    patience: int = Field(0, ge=0, le=100_000, description="stop after so many evaluations without a better one; 0 never")
    evaluate_every: int = Field(1, ge=1, le=100_000, description="epochs")
    save_minutes: float = Field(5.0, gt=0, le=1_000_000, description="longest time that a killed run loses")
    licence: str = Field("", max_length=200, pattern=r"^[^\n]*$", description="of the trained weights, for the model card")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.schedule.warmup_epochs >= self.epochs and self.schedule.kind != "constant":
            raise ValueError(f"schedule.warmup_epochs ({self.schedule.warmup_epochs:g}) must be less than epochs ({self.epochs})")
        return self


# Keys that every recipe carried before each task had a recipe of its own; those of other tasks were read and did nothing.
FORMER = {
    "": ("augment", "masking", "scene", "decoder", "loss", "class_weights", "map_22k"),
    "augment": (*Augment.model_fields, "mixup", "cutmix", "switch", "label_smoothing"),
    "data": ("classes", "void"),
}

# What may differ when a run goes on: nothing here changes a result.
CHANGEABLE_ON_RESUME = {"workers", "save_minutes"}


def recipe_names() -> dict[str, str]:
    """Return the packaged recipes and what each is for (the comment in its first line)."""
    folder = resources.files("swinkit") / "recipes"
    names = {}
    for item in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if item.name.endswith(".yaml"):
            names[item.name.removesuffix(".yaml")] = packaged(item.name).split("\n")[0].lstrip("# ").strip()
    return names


def recipe_yaml(recipe: Recipe) -> str:
    """Return the recipe with every value, as YAML that ``load_recipe`` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def without_former(kind: type[Recipe], stored: dict[str, Any]) -> dict[str, Any]:
    """Return a stored recipe without the keys of other tasks that an earlier version wrote into every recipe."""
    kept = {name: value for name, value in stored.items() if name in kind.model_fields or name not in FORMER[""]}
    for section in ("augment", "data"):
        table, field = kept.get(section), kind.model_fields.get(section)
        if isinstance(table, dict) and field is not None:
            own: Any = field.annotation
            kept[section] = {k: v for k, v in table.items() if k in own.model_fields or k not in FORMER[section]}
    return kept


def packaged(name: str) -> str:
    """Return the text of a recipe in the package, by its file's name."""
    with resources.as_file(resources.files("swinkit") / "recipes" / name) as path:
        return read_text(path, MOST_BYTES, RecipeError)
