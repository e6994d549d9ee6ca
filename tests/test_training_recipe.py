"""Recipes: the published figures, unknown keys, values out of range, hostile files."""

from __future__ import annotations

from pathlib import Path

import pytest

from swinkit.errors import RecipeError
from swinkit.models.variants import resolve
from swinkit.training.recipe import load_recipe, recipe_names, recipe_yaml


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
        "unknown key",
    ),
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
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("item", ["epochs", "=3", "epochs.x=3", "epoch=3", "augment.flip=2", "epochs=[", "schedule=none"])
def test_a_wrong_override_names_itself(item: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe("finetune", [item])


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
