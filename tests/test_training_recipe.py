"""Recipes: the published figures, unknown keys, values out of range, hostile files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swinkit.errors import RecipeError
from swinkit.models.variants import resolve
from swinkit.tasks.recipes import load_recipe
from swinkit.training.recipe import Recipe, recipe_names, recipe_yaml


@pytest.mark.parametrize("name", sorted(recipe_names()))
def test_every_packaged_recipe_is_valid_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["model=swin_tiny"])
    (tmp_path / "again.yaml").write_text(recipe_yaml(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


@pytest.mark.parametrize(
    ("name", "drop_path", "side"),
    [
        ("imagenet1k_swin_tiny", 0.2, 224),
        ("imagenet1k_swin_small", 0.3, 224),
        ("imagenet1k_swin_base", 0.5, 224),
        ("imagenet1k_swinv2_tiny", 0.2, 256),
        ("imagenet1k_swinv2_small", 0.3, 256),
        ("imagenet1k_swinv2_base", 0.5, 256),
    ],
)
def test_imagenet_recipes_hold_the_published_values(name: str, drop_path: float, side: int) -> None:
    recipe = load_recipe(name)
    assert (recipe.epochs, recipe.batch_size, recipe.schedule.warmup_epochs) == (300, 1024, 20)
    assert recipe.optimiser.learning_rate * 1024 / recipe.optimiser.rate_batch == pytest.approx(1e-3)
    assert recipe.schedule.warmup_rate * 2 == pytest.approx(1e-6)
    assert recipe.schedule.minimum_rate * 2 == pytest.approx(1e-5)
    assert (recipe.optimiser.weight_decay, recipe.optimiser.clip_norm) == (0.05, 5.0)
    assert (recipe.augment.mixup, recipe.augment.cutmix, recipe.augment.erase) == (0.8, 1.0, 0.25)
    assert (recipe.augment.randaugment, recipe.augment.magnitude, recipe.augment.label_smoothing) == (2, 9, 0.1)
    assert recipe.network.drop_path == drop_path
    assert resolve(recipe.model)[1].img_size == side


def _real(recipe: Recipe) -> tuple[float, ...]:
    """Rates as they are at the recipe's batch: highest, first, last."""
    scale = recipe.batch_size / recipe.optimiser.rate_batch
    return (
        recipe.optimiser.learning_rate * scale,
        recipe.schedule.warmup_rate * scale,
        recipe.schedule.minimum_rate * scale,
    )


# epochs, warm-up, batch, rates, weight decay, drop path, layer decay, size, window (None: the model's), way of testing.
# Sources: configs/ and config.py of microsoft/Swin-Transformer; the paper's text differs where the recipe's comment says so.
PUBLISHED = {
    "imagenet22k_swin": (90, 5, 4096, (1e-3, 1e-6, 1e-5), 0.05, 0.2, 1.0, None, None, "shorter"),
    "imagenet22k_swinv2": (90, 5, 4096, (1e-3, 1e-6, 1e-5), 0.1, 0.2, 1.0, None, None, "shorter"),
    "imagenet22k_to_1k": (30, 5, 1024, (4e-5, 4e-8, 4e-7), 1e-8, 0.2, 1.0, None, None, "shorter"),
    "imagenet22k_to_1k_swinv2_256": (30, 5, 1024, (4e-5, 4e-8, 4e-7), 1e-8, 0.2, 1.0, 256, 16, "shorter"),
    "imagenet22k_to_1k_swinv2_384": (30, 5, 1024, (4e-5, 4e-8, 4e-7), 1e-8, 0.2, 1.0, 384, 24, "squash"),
    "imagenet1k_224_to_384": (30, 5, 1024, (4e-5, 4e-8, 4e-7), 1e-8, 0.5, 1.0, 384, 12, "squash"),
    "simmim_finetune_swin_base": (100, 20, 2048, (5e-3, 1e-6, 1e-6), 0.05, 0.1, 0.8, 224, 7, "shorter"),
    "simmim_finetune_swinv2_base": (100, 20, 2048, (5e-3, 1e-6, 1e-6), 0.05, 0.1, 0.75, 224, 14, "shorter"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_further_recipes_hold_the_published_values(name: str) -> None:
    recipe = load_recipe(name)
    epochs, warmup, batch, rates, weight_decay, drop_path, layer_decay, side, window, resize = PUBLISHED[name]
    assert (recipe.epochs, recipe.schedule.warmup_epochs, recipe.batch_size) == (epochs, warmup, batch)
    assert _real(recipe) == pytest.approx(rates)
    assert (recipe.optimiser.weight_decay, recipe.optimiser.layer_decay) == (weight_decay, layer_decay)
    assert (recipe.optimiser.clip_norm, recipe.schedule.kind, recipe.test.resize) == (5.0, "cosine", resize)
    assert (recipe.network.drop_path, recipe.network.img_size, recipe.network.window_size) == (drop_path, side, window)
    assert recipe.augment == load_recipe("imagenet1k_swin_tiny").augment
    assert recipe.map_22k == ("22k_to_1k" in name)
    if "v2" in name and side is not None:
        assert recipe.network.pretrained_windows == (12, 12, 12, 6)


@pytest.mark.parametrize(("name", "window", "drop_path", "side"), [("swin_base", 6, 0.0, 0), ("swinv2_base", 12, 0.1, 47)])
def test_simmim_recipes_hold_the_published_values(name: str, window: int, drop_path: float, side: int) -> None:
    recipe = load_recipe(f"simmim_{name}")
    assert (recipe.epochs, recipe.schedule.warmup_epochs, recipe.batch_size) == (800, 10, 2048)
    assert _real(recipe)[:2] == pytest.approx((4e-4, 2e-6))
    assert (recipe.schedule.kind, recipe.schedule.milestones, recipe.schedule.gamma) == ("multistep", (700,), 0.1)
    assert (recipe.optimiser.weight_decay, recipe.optimiser.clip_norm, recipe.optimiser.decay_positions) == (0.05, 5.0, True)
    assert (recipe.network.img_size, recipe.network.window_size, recipe.network.drop_path) == (192, window, drop_path)
    assert (recipe.masking.cell, recipe.masking.ratio, recipe.masking.normalise_targets) == (32, 0.6, side)
    plan = recipe.augment
    assert (plan.crop_scale, plan.flip) == ((0.67, 1.0), 0.5)
    assert (plan.randaugment, plan.erase) == (0, 0)


HOSTILE = {
    "not yaml": ("a: [1, 2", "not YAML"),
    "a list": ("- 1\n- 2\n", "found list"),
    "empty": ("", "found NoneType"),
    "python object": ("!!python/object/apply:os.system ['touch owned']", "not YAML"),
    "unknown section": ("optimizer: {learning_rate: 1}", "did you mean 'optimiser'"),
    "unknown key": ("optimiser: {learning_rat: 1.0e-4}", "did you mean 'learning_rate'"),
    "section is a value": ("augment: 5", "augment"),
    "negative": ("epochs: -3", "epochs"),
    "huge rate": ("optimiser: {learning_rate: 0.1}", "less than or equal to 0.01"),
    "nan": ("optimiser: {learning_rate: .nan}", "learning_rate"),
    "text for a number": ("batch_size: many", "batch_size"),
    "falling range": ("augment: {crop_scale: [0.9, 0.1]}", "crop_scale"),
    "zero ratio": ("augment: {crop_ratio: [0, 1]}", "crop_ratio"),
    "warm-up too long": ("epochs: 5\nschedule: {warmup_epochs: 9}", "warmup_epochs"),
    "unknown task": ("task: paint", "task"),
    "alias bomb": (
        "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c]",
        "aliases",
    ),
    "an anchor": ("epochs: &n 5", "aliases"),
    "alias bomb in a value": (
        "data:\n  classes: [&a [x,x,x,x], &b [*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b], &d [*c,*c,*c,*c,*c,*c], [*d,*d,*d,*d]]",
        "aliases",
    ),
    "a key twice": ("epochs: 5\nepochs: 6", "'epochs' stands twice"),
    "a long number": ("batch_size: " + "9" * 5000, "cannot be read"),
    "a date that is none": ("seed: 2020-13-45", "cannot be read"),
    "a long value": ("model: [" + "x, " * 9000 + "x]", "model"),
    "a long key": ("k" * 1000 + ": 1", "unknown key"),
    "crop of negative size": ("task: segment\nscene: {crop: [0, -5]}", "scene.crop"),
    "crop beyond memory": ("task: segment\nscene: {crop: [1000000000, 5]}", "scene.crop"),
    "falling scales": ("task: segment\nscene: {ratio: [2.0, 0.5]}", "ratio must be rising"),
    "a section of another task": ("task: segment\nmasking: {ratio: 0.5}", "masking is a setting of the task simmim"),
    "a key of another task": ("task: simmim\naugment: {mixup: 0.3}", "augment.mixup is a setting of the task classify"),
    "no moment": ("optimiser: {betas: [.nan, 0.9]}", "betas"),
    "infinite eps": ("optimiser: {eps: .inf}", "eps"),
    "negative box": ("test: {box: [-1, -1]}", "test.box"),
    "negative milestone": ("schedule: {milestones: [-3]}", "milestones"),
    "negative windows": ("network: {pretrained_windows: [-1]}", "pretrained_windows"),
    "endless windows": ("network: {pretrained_windows: [" + "7," * 99 + "]}", "pretrained_windows"),
    "a class twice": ("task: segment\ndata: {classes: [road, sky, road]}", "'road' twice"),
    "a class of control characters": ('task: segment\ndata: {classes: ["road\\n"]}', "control characters"),
    "an empty class": ("task: segment\ndata: {classes: ['']}", "data.classes"),
    "absurd batch": ("batch_size: 1000000000000000000", "batch_size"),
    "absurd alpha": ("augment: {mixup: .inf}", "mixup"),
    "deep nesting": ("a: " + "[" * 3000 + "]" * 3000, "recipe"),
    "binary": ("\x00\x01\x02", "not YAML"),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_a_hostile_recipe_gets_one_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, expected = HOSTILE[case]
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("item", ["epochs", "=3", "epochs.x=3", "epoch=3", "augment.flip=2", "epochs=[", "schedule=none"])
def test_a_wrong_override_names_itself(item: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe("finetune", [item])


@pytest.mark.parametrize(
    "item",
    [
        "scene.crop=[0,-5]",
        "optimiser.betas=[nan,0.9]",
        "optimiser.betas=[.nan,0.9]",
        "optimiser.eps=inf",
        "test.box=[-1,-1]",
        "schedule.power=1e400",
        "schedule.warmup_epochs=inf",
        "save_minutes=inf",
        "optimiser.clip_norm=nan",
        "loss.dice=infinity",
        "batch_size=1e18",
        "scene.crop=[1e9, 1e9]",
        "epochs=[" + "[" * 5000,
        "epochs=&a [*a]",
        "x" * 100_000 + "=1",
        "epochs=" + "1" * 100_000,
        "masking.cell=99999999",
    ],
    ids=lambda item: item[:30],
)
def test_an_override_out_of_range_is_one_sentence(item: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("finetune_segment", [item])
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


WORDS = st.sampled_from(
    ["epochs", "scene", "crop", "optimiser", "betas", "data", "classes", "test", "box", "&a", "*a", "<<", "!!int", "!!binary"]
)
VALUES = st.recursive(
    st.one_of(
        WORDS,
        st.sampled_from([".inf", "-.inf", ".nan", "1e400", "1.0e+400", "9" * 4999, "-1", "0x" + "f" * 90, "2020-99-99"]),
        st.integers().map(str),
        st.floats().map(str),
        st.text(max_size=30),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(st.tuples(WORDS, inner), max_size=4).map(lambda items: "{" + ", ".join(f"{k}: {v}" for k, v in items) + "}"),
        inner.map(lambda value: f"&a {value}"),
    ),
    max_leaves=12,
)


def _keys(section: type) -> list[str]:
    found = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        found += [f"{name}.{key}" for key in _keys(inner)] if hasattr(inner, "model_fields") else [name]
    return found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(_keys(Recipe)), value=VALUES)
def test_any_value_is_taken_or_refused_in_one_sentence(key: str, value: str, tmp_path: Path) -> None:
    section, _, name = key.rpartition(".")
    path = tmp_path / "mine.yaml"
    path.write_bytes((f"{section}:\n  {name}: {value}\n" if section else f"{name}: {value}\n").encode("utf-8", "surrogatepass"))
    for attempt in (lambda: load_recipe(str(path)), lambda: load_recipe("finetune", [f"{key}={value}"])):
        try:
            recipe = attempt()
        except RecipeError as error:
            assert len(str(error)) < 700
            assert "\n" not in str(error)
        else:
            assert all(math.isfinite(number) for number in _numbers(recipe.model_dump()))


def _numbers(value: object) -> list[float]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [number for part in parts for number in _numbers(part)] + ([value] if isinstance(value, int | float) else [])


def test_override_reads_numbers_that_yaml_takes_for_text() -> None:
    assert load_recipe("finetune", ["optimiser.learning_rate=1e-4"]).optimiser.learning_rate == 1e-4


def test_missing_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'finetune'"):
        load_recipe("finetun")


def test_too_large_a_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"a" * 2_000_000)
    with pytest.raises(RecipeError, match="2,000,000 bytes"):
        load_recipe(str(path))
