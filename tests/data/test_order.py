"""The computed order of windows: each window once, well mixed, another one for each seed."""

from __future__ import annotations

import itertools
from math import factorial

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s15erav3.data.order import STORED_UP_TO, Feistel, draw_order, usual_order


def feistel(n: int, *seed: int) -> Feistel:
    return Feistel(np.random.default_rng(seed), n)


def all_of(n: int, *seed: int) -> npt.NDArray[np.int64]:
    return feistel(n, *seed)[np.arange(n)]


@given(n=st.integers(1, 5000), seed=st.integers(0, 2**32))
@example(n=1, seed=0)
@example(n=2, seed=0)
@example(n=4097, seed=0)
def test_each_window_once(n: int, seed: int) -> None:
    """Prevents windows that are left out or repeated within an epoch."""
    assert np.array_equal(np.sort(all_of(n, seed)), np.arange(n))


@pytest.mark.parametrize("n", [2**20, 2**20 + 1, 1021 * 1031, 3_000_000])
def test_each_window_once_in_larger_orders(n: int) -> None:
    """Prevents a sum that overflows, or a border that is wrong, where a permutation is no longer stored."""
    assert np.array_equal(np.bincount(all_of(n, 1), minlength=n), np.ones(n))


def undone(order: Feistel, windows: npt.NDArray[np.int64]) -> list[int]:
    """Places of ``windows``: the rounds backwards, in Python's unlimited integers."""

    def hashed(x: int) -> int:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> shift)) * factor % 2**64
        return (x ^ (x >> 31)) >> 1

    def back(value: int) -> int:
        left, right = divmod(value, order.right)
        for left_key, right_key in reversed(order.keys.reshape(-1, 2).tolist()):
            right = (right - hashed(left ^ right_key)) % order.right
            left = (left - hashed(right ^ left_key)) % order.left
        return left * order.right + right

    places = []
    for window in windows.tolist():
        place = back(window)
        while place >= order.n:
            place = back(place)
        places.append(place)
    return places


@pytest.mark.parametrize("n", [10**8, 10**9, 10**9 + 7, 2**40, 2**62 - 1])
def test_huge_orders_can_be_undone(n: int) -> None:
    """Prevents two places with one window in orders that no test can list: what can be undone is a bijection."""
    places = np.concatenate([np.arange(500), np.arange(n - 500, n), np.random.default_rng(0).integers(n, size=1000)])
    order = feistel(n, 3)
    windows = order[places]
    assert windows.min() >= 0 and windows.max() < n
    assert undone(order, windows) == places.tolist()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_small_orders_are_equally_likely(n: int) -> None:
    """Prevents permutations that hardly occur."""
    seeds = 250 * factorial(n)
    drawn = [tuple(all_of(n, seed).tolist()) for seed in range(seeds)]
    excess = [(drawn.count(order) - 250) ** 2 / 250 for order in itertools.permutations(range(n))]
    degrees = factorial(n) - 1
    assert sum(excess) < degrees + 5 * (2 * degrees) ** 0.5


def test_places_and_windows_are_independent() -> None:
    """Prevents a window that comes early, or late, whatever the seed."""
    n, seeds = 40, 2000
    orders = np.array([all_of(n, seed) for seed in range(seeds)])
    counts = np.array([np.bincount(orders[:, place], minlength=n) for place in range(n)])
    degrees = (n - 1) ** 2
    assert ((counts - seeds / n) ** 2).sum() / (seeds / n) < degrees + 5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("n", [STORED_UP_TO + 1, 10**9])
def test_order_is_mixed(n: int) -> None:
    """Prevents neighbours that stay together, a drift through the text, and epochs that resemble each other."""
    m = 200_000
    one, other = (feistel(n, 1, epoch)[np.arange(m)] for epoch in range(2))
    counts = np.bincount(one * 100 // n, minlength=100)
    assert ((counts - m / 100) ** 2).sum() / (m / 100) < 99 + 5 * (2 * 99) ** 0.5, "even over the text"
    assert np.unique(np.diff(one)).size > 0.9 * min(m, n), "no step recurs"
    for a, b in ((one[:-1], one[1:]), (one, other), (one, np.arange(m))):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / m**0.5
    assert np.sum(one == other) < 10


def test_seed_and_epoch_decide_the_order() -> None:
    """Prevents ranks, or a resumed run, from drawing different orders, and seeds from drawing the same."""
    assert np.array_equal(all_of(1000, 1, 2), all_of(1000, 1, 2))
    for other in ((1, 3), (2, 2)):
        assert np.mean(all_of(1000, 1, 2) == all_of(1000, *other)) < 0.02


def test_memory_has_a_limit() -> None:
    """Prevents gigabytes for the order of a large text."""
    draw = np.random.default_rng(0)
    assert usual_order(STORED_UP_TO) == "stored" and draw_order("stored", draw, STORED_UP_TO).nbytes == 8 * 2**20
    assert usual_order(STORED_UP_TO + 1) == "computed" and isinstance(draw_order("computed", draw, 10**12), Feistel)
