"""The corpus: every case that was ever found, and a few that are right, made by code so that each says what it is.

A name tells what must come of it: ``ok-`` is answered, ``bad-`` is refused, ``any-`` may be either. Inputs that the fuzzer found
later lie in ``corpus/<target>/`` as they are, under such names too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from tools.fuzz.cases import Content, pack

Cases = dict[str, dict[str, Content]]
KEPT = Path(__file__).parent / "corpus"


@functools.cache
def corpus(target: str) -> dict[str, bytes]:
    """Return name -> input of a target's corpus."""
    from tools.fuzz import seeds_of_data, seeds_of_networks

    made: dict[str, Callable[[], Cases]] = {
        "weights": seeds_of_networks.weights,
        "exports": seeds_of_networks.exports,
        "states": seeds_of_networks.states,
        "recipes": seeds_of_data.recipes,
        "masks": seeds_of_data.masks,
        "pictures": seeds_of_data.pictures,
        "coco": seeds_of_data.coco,
        "tables": seeds_of_data.tables,
    }
    found = {name: pack(files) for name, files in made[target]().items()}
    return found | {path.name: path.read_bytes() for path in sorted((KEPT / target).glob("*-*"))}
