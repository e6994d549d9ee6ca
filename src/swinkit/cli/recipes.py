"""``swinkit recipes``: what one can train."""

from __future__ import annotations

from swinkit.cli.common import say
from swinkit.extras import need


def recipes() -> None:
    """List the recipes for swinkit train."""
    need("pydantic", extra="train")
    from swinkit.training.recipe import recipe_names

    names = recipe_names()
    width = max(map(len, names))
    say([f"{name:<{width}}  {purpose}" for name, purpose in names.items()])
