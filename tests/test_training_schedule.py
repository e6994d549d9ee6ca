"""Learning rates, weight decay and layer ids against figures worked out from the original code."""

from __future__ import annotations

import math

import pytest

from swinkit.models import create_model
from swinkit.tasks.recipes import load_recipe
from swinkit.training.schedule import decays, layer_id, parameter_groups, rate_at


def test_cosine_equals_the_closed_form_of_the_original() -> None:
    recipe = load_recipe("imagenet1k_swin_tiny")
    steps, total, warmup = 1251, 300 * 1251, 20 * 1251
    for step in (0, 1, 2, 500, warmup, warmup + 1, 100_000, total - 1):
        t = max(step - 1, 0)  # the original steps its scheduler after the optimiser
        if t < warmup:
            expected = 1e-6 + t * (1e-3 - 1e-6) / warmup
        else:
            expected = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * (t - warmup) / (total - warmup)))
        assert rate_at(step, total, steps, recipe) == pytest.approx(expected, rel=1e-12)
    assert rate_at(0, total, steps, recipe) == rate_at(1, total, steps, recipe) == pytest.approx(1e-6)


def test_multistep_drops_tenfold_at_its_milestone() -> None:
    recipe = load_recipe("simmim_swin_base")
    before, after = (rate_at(step, 8000, 10, recipe) for step in (7000, 7001))
    assert before == pytest.approx(4e-4)
    assert after == pytest.approx(4e-5)


def test_decay_exceptions_are_those_of_the_original() -> None:
    recipe = load_recipe("imagenet1k_swin_tiny")
    names = {
        version: {n: decays(n, p, recipe) for n, p in create_model(name, num_classes=3).named_parameters()}
        for version, name in (("v1", "swin_tiny"), ("v2", "swinv2_tiny"))
    }
    assert names["v1"]["patch_embed.proj.weight"]
    assert names["v1"]["layers.0.blocks.0.mlp.fc1.weight"]
    for free in ("layers.0.blocks.0.attn.relative_position_bias_table", "norm.weight", "head.bias"):
        assert not names["v1"][free]
    for free in ("attn.logit_scale", "attn.cpb_mlp.0.weight", "attn.cpb_mlp.2.weight", "attn.q_bias"):
        assert not names["v2"][f"layers.0.blocks.0.{free}"]


def test_simmim_decays_positions_as_the_published_runs_did() -> None:
    recipe = load_recipe("simmim_swin_base")
    table = dict(create_model("swin_tiny").named_parameters())["layers.0.blocks.0.attn.relative_position_bias_table"]
    assert decays("encoder.layers.0.blocks.0.attn.relative_position_bias_table", table, recipe)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("patch_embed.proj.weight", 0),
        ("layers.0.blocks.0.norm1.weight", 1),
        ("layers.0.downsample.reduction.weight", 2),
        ("layers.2.downsample.reduction.weight", 22),
        ("layers.3.blocks.1.mlp.fc1.weight", 24),
        ("norm.weight", 25),
        ("head.weight", 25),
        ("backbone.layers.0.blocks.1.norm1.weight", 2),
        ("decode_head.conv.weight", 25),
    ],
)
def test_layer_ids_of_swin_base(name: str, expected: int) -> None:
    assert layer_id(name, (2, 2, 18, 2)) == expected


def test_groups_hold_every_trained_parameter_once() -> None:
    model = create_model("swin_nano", num_classes=4)
    model.patch_embed.requires_grad_(False)
    recipe = load_recipe("finetune")
    groups = parameter_groups(model, model.variant.depths, recipe)
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held)) == sum(p.requires_grad for p in model.parameters())
    scales = {group["rate_scale"] for group in groups}
    assert max(scales) == 1.0
    assert min(scales) == pytest.approx(0.9**8)
