"""Learning rates as pure functions: of the step, and of a parameter's place in the network."""

from __future__ import annotations

import math

from torch import nn

from swinkit.training.recipe import Recipe, Schedule


def rate_at(step: int, total_steps: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Return the learning rate of optimiser step ``step`` (0-based), before layer decay.

    Source: ``lr_scheduler.py`` and ``main.py`` of microsoft/Swin-Transformer. There the scheduler is stepped after
    the optimiser, so steps 0 and 1 both use the warm-up's start and step k uses position k - 1; the cosine
    spans the steps after the warm-up.
    """
    plan, scale = recipe.schedule, recipe.batch_size / recipe.optimiser.rate_batch
    base, first, last = (value * scale for value in (recipe.optimiser.learning_rate, plan.warmup_rate, plan.minimum_rate))
    if plan.kind == "poly":
        return _poly(step, total_steps, plan, base, first, last)
    position = max(step - 1, 0)
    warmup = int(plan.warmup_epochs * steps_per_epoch)
    if position < warmup:
        return first + position * (base - first) / warmup
    if plan.kind == "constant":
        return base
    if plan.kind == "multistep":
        passed = sum(position >= milestone * steps_per_epoch for milestone in plan.milestones)
        return base * plan.gamma**passed
    done = (position - warmup) / max(total_steps - warmup, 1)
    if plan.kind == "linear":
        return base + (last - base) * done
    return last + 0.5 * (base - last) * (1.0 + math.cos(math.pi * done))


def _poly(step: int, total_steps: int, plan: Schedule, base: float, first: float, last: float) -> float:
    """Polynomial decay with linear warm-up, in one of the two forms that share a name.

    Source: mmcv 1.3 ``lr_updater.py`` (the warm-up factor multiplies the rate that falls from step 0 on) and mmengine 0.10
    with mmsegmentation 1.x's configs (``LinearLR`` alone, then ``PolyLR`` over the remaining steps).
    """
    warmup = plan.warmup_steps
    if plan.warmup_over_decay:
        rate = last + (base - last) * max(0.0, 1.0 - step / total_steps) ** plan.power
        return rate * (1.0 - (1.0 - step / warmup) * (1.0 - first / base)) if step < warmup else rate
    if step < warmup:
        return first + (base - first) * step / max(warmup - 1, 1)
    done = (step - warmup) / max(total_steps - warmup - 1, 1)
    return last + (base - last) * max(0.0, 1.0 - done) ** plan.power


_POSITIONS = ("relative_position_bias_table", "cpb_mlp", "logit_scale", "absolute_pos_embed", "mask_token")


def decays(name: str, parameter: nn.Parameter, recipe: Recipe) -> bool:
    """Return whether weight decay applies: not to vectors, biases and what describes positions."""
    if recipe.optimiser.no_decay == "norms":
        # The heads' norms are called "bn" where this rule comes from, so they decay there, and here.
        backbone = name.removeprefix("module.").removeprefix("backbone.")
        of_backbone = name.removeprefix("module.").startswith("backbone.")
        spared = "relative_position_bias_table" in name or "absolute_pos_embed" in name
        return not (spared or (of_backbone and "norm" in backbone))
    if parameter.ndim <= 1 or name.endswith(".bias"):
        return False
    always_free = ("absolute_pos_embed", "mask_token")
    free = always_free if recipe.optimiser.decay_positions else _POSITIONS
    return not any(word in name for word in free)


def _inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    inside = name.startswith(("layers.", "encoder.layers.", "backbone.layers."))
    return inside and parameter.ndim == 2 and not any(word in name for word in _POSITIONS)


def layer_id(name: str, depths: tuple[int, ...]) -> int:
    """Return the layer a parameter belongs to: 0 for the embedding, then one a block, heads on top.

    A merging belongs to the last block of its stage. Source: ``optimizer.py`` of microsoft/Swin-Transformer.
    """
    name = name.removeprefix("module.").removeprefix("encoder.").removeprefix("backbone.")
    if name.startswith(("patch_embed.", "absolute_pos_embed", "mask_token")):
        return 0
    if not name.startswith("layers."):
        return sum(depths) + 1
    _, stage, part, *rest = name.split(".")
    before = sum(depths[: int(stage)])
    return before + depths[int(stage)] if part == "downsample" else before + int(rest[0]) + 1


def parameter_groups(model: nn.Module, depths: tuple[int, ...], recipe: Recipe) -> list[dict]:
    """Return optimiser groups with ``weight_decay``, ``rate_scale`` and ``matrices``; frozen parameters are left out.

    ``matrices`` marks the linear layers inside the network, which Muon orthogonalises: not embeddings, heads,
    position tables.
    """
    groups: dict[tuple[bool, float, bool], dict] = {}
    top = sum(depths) + 1
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = decays(name, parameter, recipe)
        scale = recipe.optimiser.layer_decay ** (top - layer_id(name, depths))
        matrices = recipe.optimiser.kind == "muon" and _inner_matrix(name, parameter)
        rules = {"rate_scale": scale, "matrices": matrices}
        rules["weight_decay"] = recipe.optimiser.weight_decay if decay else 0.0
        group = groups.setdefault((decay, scale, matrices), {"params": [], **rules})
        group["params"].append(parameter)
    return list(groups.values())
