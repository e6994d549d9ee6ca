"""Batches read by threads, for whoever lets a network work on them."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Source = TypeVar("Source")
Item = TypeVar("Item")


def read_batches(
    sources: Iterable[Source], read: Callable[[Source], Item], batch: int, workers: int, device: torch.device
) -> Iterator[list[Item]]:
    """Yield what ``read`` makes of the sources, in their order, so many together.

    While the caller's network works on one batch, threads read the next, where it leaves them a core: on an accelerator, or with
    fewer torch threads than cores. Where it works on every core, all of them read two batches, then all compute: a thread that
    reads beside would stop the network's own at each layer's end, and those go on looking for work for a while after each call.
    Never more than two batches are held (one item a worker, if that is more).

    Args:
        sources: read as far as needed.
        read: called in a thread; what it raises is raised here, in the item's turn.
        batch: items of a list; the last may be shorter.
        workers: threads that read; 0 reads in the caller's, between the batches.
        device: where the network works.
    """
    beside = device.type != "cpu" or torch.get_num_threads() < cores()
    kept = batch if beside and workers else 0  # read while the network works
    ahead = 2 * batch if kept else batch * max(2 if workers else 1, math.ceil(workers / batch))
    pool = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="swinkit-read")
    waiting: deque[Future[Item]] = deque()
    try:
        for source in sources:
            waiting.append(pool.submit(read, source) if workers else _done(read, source))
            if len(waiting) == ahead:
                if not beside:
                    wait(waiting)
                while len(waiting) > kept:
                    yield [waiting.popleft().result() for _ in range(batch)]
        while waiting:
            yield [waiting.popleft().result() for _ in range(min(batch, len(waiting)))]
    finally:  # also when the caller stops early
        pool.shutdown(wait=True, cancel_futures=True)


def process() -> tuple[int, int]:
    """Return (number of this process, number of processes) of a distributed run; (0, 1) of any other."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _done(read: Callable[[Source], Item], source: Source) -> Future[Item]:
    future: Future[Item] = Future()
    future.set_result(read(source))
    return future
