"""How long calls take, beside one another: taken in turn, so that whatever else the machine does falls on all of them.

Each turn is two calls, of which the second counts: what another library left in the caches, and threads of its that have not
gone to sleep yet, are not charged to whoever comes next.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int = 7, warmup: int = 2) -> dict[str, float]:
    """Return the median seconds of each call.

    Args:
        calls: name -> what to time.
        rounds: turns of each, one after the other.
        warmup: calls of each before.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}
