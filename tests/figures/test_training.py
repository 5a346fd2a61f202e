"""Curves: which points are drawn, and what stands under the pointer."""

from __future__ import annotations

import numpy as np

from s15erav3.figures.ruler import CLOCK, FLOPS, RULERS, STEPS, TOKENS, ruler
from s15erav3.figures.training import Series, curves, thinned


def test_what_is_not_a_number_is_left_out() -> None:
    """Metrics of validation are NaN in the rows of training: a line through them would break or be invisible."""
    fig = curves("t", "y", [Series("a", [1, 2, 3, 4], [0.5, np.nan, np.inf, 2.0], [10, 20, 30, 1234])])
    trace = fig.data[0]
    assert (list(trace.x), list(trace.y)) == ([1, 4], [0.5, 2.0])
    assert list(trace.text) == ["10 tokens", "1,234 tokens"]


def test_nothing_at_all_makes_an_empty_figure() -> None:
    """A diverged run has no finite value."""
    assert not curves("t", "y", [Series("a", [1], [np.nan])], log=True).data


def test_thinning_loses_no_spike() -> None:
    """Every tenth point would hide the one step at which the loss blew up."""
    values = np.sin(np.arange(10_000) / 500)
    values[4321], values[777] = 99.0, -99.0
    kept = thinned(values, 200)
    assert {0, 777, 4321, 9999} <= set(kept.tolist()) and len(kept) <= 200
    assert np.all(np.diff(kept) > 0)
    assert thinned(values[:200], 200).tolist() == list(range(200))


def test_a_logarithmic_axis_needs_values_above_zero() -> None:
    """Perfect balance has MaxVio 0, which a logarithmic axis cannot show."""
    assert curves("t", "y", [Series("a", [1, 2], [1.0, 2.0])], log=True).layout.yaxis.type == "log"
    assert curves("t", "y", [Series("a", [1, 2], [0.0, 2.0])], log=True).layout.yaxis.type is None


def test_the_wall_clock_has_a_unit_that_fits_the_longest_curve() -> None:
    """Seconds of a day are unreadable, and hours of a minute are 0.0."""
    curve = [np.nan, 10.0]
    assert ruler(CLOCK, [curve, [179.0]]).title == "training time (s)"
    assert ruler(CLOCK, [curve, [180.0, 90.0]]).places([90.0, 180.0]) == [1.5, 3.0]
    assert ruler(CLOCK, [curve, [10_800.0]]).title == "training time (h)"
    assert ruler(CLOCK, [[np.nan], []]).unit == ruler(CLOCK).unit == "s"


def test_curves_over_each_ruler() -> None:
    """Titles and units of the axis, and tokens under the pointer where the axis does not tell them."""
    drawn = {over: curves("t", "y", [Series("a", [360.0, 720.5], [2.0, 1.0], [10, 20])], over=over) for over in RULERS}
    assert [fig.layout.xaxis.title.text for fig in drawn.values()] == [
        "step", "tokens", "training FLOPs", "training time (min)",
    ]  # fmt: skip
    assert drawn[STEPS].data[0].x == drawn[TOKENS].data[0].x == (360, 720)
    assert drawn[FLOPS].data[0].x == (360.0, 720.5) and drawn[CLOCK].data[0].x == (6.0, 12.0083)
    assert [fig.data[0].text is None for fig in drawn.values()] == [False, True, False, False]
    assert drawn[CLOCK].layout.xaxis.range[1] < 12.2
