"""Heatmaps of layers x experts: the numbers, the colours, the frames."""

from __future__ import annotations

import numpy as np
import pytest

from s15erav3.figures.heatmap import bias_heatmap, bias_over_steps, fair_shares, load_heatmap, load_over_steps


def test_loads_are_shown_over_their_layers_mean() -> None:
    """Catches a mean over the wrong axis, and a fair share that is not the middle of the colours."""
    fig = load_heatmap([[1, 3], [10, 10]], [1, 5])
    trace = fig.data[0]
    assert np.array(trace.z).tolist() == [[0.5, 1.5], [1.0, 1.0]]
    assert (list(trace.x), list(trace.y)) == (["E00", "E01"], ["L01", "L05"])
    axis = fig.layout.coloraxis
    assert (axis.cmin, axis.cmid, axis.cmax) == (0.5, 1.0, 1.5)


def test_one_expert_with_everything_leaves_colours_for_the_rest() -> None:
    """A scale up to the largest load would show all others alike."""
    axis = load_heatmap([[0, 0, 0, 40]], [1]).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (0.0, 2.0)


def test_a_layer_without_a_token_is_shown_as_nothing() -> None:
    """0 / 0 would put NaN into the page, which is no JSON."""
    assert fair_shares([[0, 0]]).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("draw", [load_over_steps, bias_over_steps])
def test_each_step_is_a_frame_and_the_last_is_shown_first(draw: object) -> None:
    """Catches frames in the wrong order, and colours that mean another thing at each step."""
    values = np.array([[[1.0, 3.0]], [[2.0, 2.0]], [[3.0, 1.0]]])
    fig = draw(values, [2], [1, 10, 20])  # type: ignore[operator]
    shown = fair_shares(values) if draw is load_over_steps else values
    assert [frame.name for frame in fig.frames] == ["1", "10", "20"]
    assert [np.array(frame.data[0].z).tolist() for frame in fig.frames] == shown.tolist()
    assert np.array(fig.data[0].z).tolist() == shown[-1].tolist()
    assert fig.layout.sliders[0].active == 2
    assert all(frame.layout.coloraxis.cmin is None for frame in fig.frames)


def test_small_biases_keep_their_digits() -> None:
    """A fixed number of decimals would show the biases of a small rate as zeros."""
    fig = bias_heatmap([[0.00123456, -0.002]], [1])
    assert fig.data[0].z[0][0] == pytest.approx(0.00123456, rel=1e-2)
    assert fig.layout.coloraxis.cmid == 0 and fig.layout.coloraxis.cmax == pytest.approx(0.002)
