"""Batches that threads read, beside a network and in turn with it."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swinkit.data.reading import read_batches

CPU = torch.device("cpu")


@given(count=st.integers(0, 30), batch=st.integers(1, 7), workers=st.integers(0, 9), spare=st.booleans())
def test_batches_keep_order_and_few_wait(count: int, batch: int, workers: int, spare: bool) -> None:
    asked = delivered = 0
    most = max(2 * batch, workers + batch - 1) if workers else batch

    def sources():
        nonlocal asked
        for number in range(count):
            asked += 1
            assert asked <= delivered + most
            yield number

    with mock.patch("swinkit.data.reading.cores", return_value=torch.get_num_threads() + spare):
        found = []
        for part in read_batches(sources(), lambda number: -number, batch, workers, CPU):
            found.append(part)
            delivered += len(part)
    assert [number for part in found for number in part] == [-number for number in range(count)]
    assert [len(part) for part in found[:-1]] == [batch] * (math.ceil(count / batch) - 1 if count else 0)


def test_where_the_network_takes_all_cores_two_batches_are_read_at_a_time() -> None:
    read: list[int] = []
    with mock.patch("swinkit.data.reading.cores", return_value=torch.get_num_threads()):
        counts = [len(read) for _ in read_batches(range(9), read.append, 2, 2, CPU)]
    assert counts == [4, 4, 8, 8, 9]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("spare", [True, False])
def test_an_error_comes_in_its_turn(workers: int, spare: bool) -> None:
    with mock.patch("swinkit.data.reading.cores", return_value=torch.get_num_threads() + spare):
        batches = read_batches(range(12), lambda number: 1 // (number - 7), 2, workers, CPU)
        assert next(batches) == [-1, -1]
        with pytest.raises(ZeroDivisionError):
            list(batches)
