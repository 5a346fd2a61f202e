"""Measures of balance against hand values, the random floor against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from s15erav3.balancing.diagnostics import (
    bias_norm,
    bias_spread,
    coefficient_of_variation,
    dead_experts,
    gini,
    load_entropy,
    load_percentiles,
    max_violation,
    min_violation,
    random_floor,
)

LOADS = torch.tensor([[5, 5, 5, 5], [10, 2, 4, 4], [20, 0, 0, 0], [10, 0, 10, 0]])


def test_max_violation_by_hand() -> None:
    """Catches the excess over the total, or the ratio without - 1: both look plausible on a plot."""
    torch.testing.assert_close(max_violation(LOADS), torch.tensor([0.0, 1.0, 3.0, 1.0], dtype=torch.float64))


def test_min_violation_by_hand() -> None:
    """Catches a sign turned round, and the excess of the busiest expert in place of the idlest's lack."""
    torch.testing.assert_close(min_violation(LOADS), torch.tensor([0.0, 0.6, 1.0, 1.0], dtype=torch.float64))


def test_gini_by_hand() -> None:
    """Against all pairs; catches loads left unsorted, ranks from 0 and pairs counted once."""
    pairs = (LOADS.unsqueeze(-1) - LOADS.unsqueeze(-2)).abs().double().mean((-2, -1)) / (2 * LOADS.double().mean(-1))
    torch.testing.assert_close(gini(LOADS), pairs)
    torch.testing.assert_close(gini(LOADS), torch.tensor([0.0, 0.3, 0.75, 0.5], dtype=torch.float64))
    torch.testing.assert_close(gini(LOADS.flip(-1)), gini(LOADS))


def test_bias_norm_and_spread_by_hand() -> None:
    """Catches the largest magnitude in place of the spread, and a norm over all layers at once."""
    biases = torch.tensor([[3.0, -4.0], [0.5, 0.5]])
    torch.testing.assert_close(bias_norm(biases), torch.tensor([5.0, 0.5**0.5], dtype=torch.float64))
    torch.testing.assert_close(bias_spread(biases), torch.tensor([7.0, 0.0], dtype=torch.float64))


def test_entropy_by_hand() -> None:
    """Catches bits for nats, a missing norm, and nan from 0 log 0."""
    mixed = -(0.5 * math.log(0.5) + 0.1 * math.log(0.1) + 2 * 0.2 * math.log(0.2)) / math.log(4)
    torch.testing.assert_close(load_entropy(LOADS), torch.tensor([1.0, mixed, 0.0, 0.5], dtype=torch.float64))
    assert torch.isfinite(load_entropy(torch.tensor([[3]]))).all()  # a single expert: log 1 = 0


def test_dead_experts_by_hand() -> None:
    """Catches experts counted as dead for a small load."""
    assert dead_experts(LOADS).tolist() == [0, 0, 3, 2]
    assert dead_experts(torch.tensor([[1, 1_000_000]])).tolist() == [0]


def test_coefficient_of_variation_by_hand() -> None:
    """Catches the sample's n - 1, which depends on the number of experts."""
    expected = [0.0, math.sqrt((25 + 9 + 1 + 1) / 4) / 5, math.sqrt(3), 1.0]
    torch.testing.assert_close(coefficient_of_variation(LOADS), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("measure", [max_violation, min_violation, gini, load_entropy, coefficient_of_variation])
def test_measures_do_not_depend_on_the_number_of_tokens(measure) -> None:  # type: ignore[no-untyped-def]
    """Loads of a whole validation set exceed fp32's whole numbers and int32."""
    torch.testing.assert_close(measure(LOADS * 3_000_000_000), measure(LOADS))
    assert measure(LOADS).shape == (4,)


@pytest.mark.parametrize(
    ("tokens", "experts", "k", "trials", "within"),
    [
        (512, 8, 2, 400, 0.05),
        (2048, 16, 3, 100, 0.05),
        (1000, 2, 1, 3000, 0.05),
        (1024, 64, 7, 300, 0.05),
        (256, 64, 7, 300, 0.08),  # 28 tokens per expert: the binomial's tail is heavier than the normal one
    ],
)
def test_random_floor_is_what_a_simulation_shows(tokens: int, experts: int, k: int, trials: int, within: float) -> None:
    """A floor that is too high would excuse imbalance; one too low would promise what chance forbids."""
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for _ in range(trials):
        chosen = torch.rand(tokens, experts, generator=generator).topk(k, dim=-1).indices
        loads = torch.bincount(chosen.flatten(), minlength=experts)
        total += float(max_violation(loads[None]))
    assert random_floor(tokens, experts, k) == pytest.approx(total / trials, rel=within)


def test_random_floor_falls_with_the_square_root_of_the_tokens() -> None:
    """A floor of one batch must not be drawn beside the MaxVio of a validation set."""
    assert random_floor(40_000, 8, 2) == pytest.approx(random_floor(10_000, 8, 2) / 2)
    assert random_floor(10_000, 64, 2) > random_floor(10_000, 8, 2)


@pytest.mark.parametrize(("tokens", "experts", "k"), [(100, 4, 4), (100, 1, 1), (0, 8, 2)])
def test_random_floor_without_a_choice_is_zero(tokens: int, experts: int, k: int) -> None:
    """Catches a division by zero where nothing is left to chance."""
    assert random_floor(tokens, experts, k) == 0.0


def test_percentiles_cover_the_experts_of_all_layers_by_their_fair_shares() -> None:
    """Layers of 21 experts with mean loads 10 and 1000 and equal shares: 0, 0.1, ..., 2. Against numpy. Seen to fail
    with loads in place of shares, and with the mean over layers of an uneven and an even one."""
    steps = torch.arange(21)
    both = load_percentiles(torch.stack([steps, steps * 100]))
    assert {k: v.item() for k, v in both.items()} == pytest.approx({"load_p05": 0.1, "load_p50": 1.0, "load_p95": 1.9})
    mixed = torch.stack([steps, torch.full_like(steps, 10)])
    shares = np.concatenate([steps.numpy() / 10, np.ones(21)])
    expected = dict(zip(("load_p05", "load_p50", "load_p95"), np.percentile(shares, [5, 50, 95]), strict=True))
    assert {k: v.item() for k, v in load_percentiles(mixed).items()} == pytest.approx(expected)
