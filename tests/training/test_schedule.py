"""Learning-rate factors at points computed by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from s15erav3.training.schedule import WSD, Constant, Cosine


@pytest.mark.parametrize("make", [Constant, Cosine, WSD])
def test_warmup_is_a_line_from_one_part_to_all(make: Any) -> None:
    """A first step at factor 0 is wasted; one too many delays every schedule."""
    schedule = make(4)
    assert [schedule(step, 0.0) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert make(0)(0, 0.0) == 1.0


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        (Constant(), 0.0, 1.0),
        (Constant(), 1.0, 1.0),
        (Cosine(), 0.0, 1.0),
        (Cosine(), 0.5, 0.55),
        (Cosine(), 1.0, 0.1),
        (Cosine(final_ratio=0.0), 1 / 3, 0.75),
        (Cosine(final_ratio=0.0), 2 / 3, 0.25),
        (Cosine(final_ratio=1.0), 0.7, 1.0),
        (WSD(), 0.0, 1.0),
        (WSD(), 0.7, 1.0),
        (WSD(), 0.85, 0.5),
        (WSD(), 1.0, 0.0),
        (WSD(decay_share=0.5, final_ratio=0.2), 0.75, 0.6),
        (WSD(decay_share=0.5, final_ratio=0.2), 1.0, 0.2),
        (WSD(decay_share=1.0), 0.25, 0.75),
        (WSD(decay_share=0.0), 1.0, 1.0),
    ],
)
def test_decay_at_points_computed_by_hand(schedule: Constant, progress: float, factor: float) -> None:
    """Catches a decay that starts at its share of training instead of before its end."""
    assert schedule(10, progress) == pytest.approx(factor, abs=1e-9)


def test_warmup_multiplies_the_decay() -> None:
    """Under a time limit a slow machine can decay before it has warmed up."""
    assert Cosine(9, final_ratio=0.0)(4, 0.5) == pytest.approx(0.5 * 0.5)
    assert WSD(9, decay_share=0.5)(0, 0.9) == pytest.approx(0.1 * 0.2)


@pytest.mark.parametrize("schedule", [Constant(3), Cosine(3), WSD(3), WSD(decay_share=1.0)])
def test_factors_stay_in_bounds_and_never_rise_after_the_warmup(schedule: Constant) -> None:
    """Progress can pass 1 under a time limit: a cosine would climb again, a line fall below 0."""
    factors = [schedule(step, step / 200) for step in range(230)]
    assert all(0 <= f <= 1 for f in factors)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(factors[3:]))
    assert schedule(50, -0.5) == 1.0
    assert schedule(50, 3.0) == schedule(50, 1.0)
