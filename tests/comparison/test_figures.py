"""Pictures of many runs, from plain numbers."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
import pytest

from s15erav3.comparison.differences import against, dots
from s15erav3.comparison.legend import GREY, MOST, legend_traces
from s15erav3.comparison.overlay import Line, overlay
from s15erav3.comparison.parallel import category_axis, number_axis, parallel
from s15erav3.comparison.scatter import Point, trade_off, wrapped

LEGEND = [("a=1", "#0072B2"), ("others", GREY)]


def of_group(figure: go.Figure, group: int) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.meta == {"group": group}]


def point(group: int, x: tuple[float, float, float], *, front: bool = False, runs: object = ()) -> Point:
    return Point(f"g{group}", group, x, (1.5, 1.4, 1.7), 0, front, "1" if front else "", runs)


def test_bars_reach_from_the_lowest_to_the_highest_run() -> None:
    """Bars of equal length on both sides would show runs that never were."""
    fig = trade_off([point(4, (0.3, 0.2, 0.5), runs=[(0.2, 1.4), (0.5, 1.7)])], "MaxVio", "val/bpb", LEGEND)
    runs, median = of_group(fig, 4)
    assert runs.x == (0.2, 0.5) and runs.y == (1.4, 1.7)
    assert (median.x, median.y) == ((0.3,), (1.5,))
    assert [median.error_x.arrayminus[0], median.error_x.array[0]] == pytest.approx([0.1, 0.2])
    assert [median.error_y.arrayminus[0], median.error_y.array[0]] == pytest.approx([0.1, 0.2])


def test_the_front_is_joined_by_steps_from_left_to_right() -> None:
    """A straight line between two points claims groups that nobody ran."""
    fig = trade_off([point(0, (2.0, 2.0, 2.0), front=True), point(1, (1.0, 1.0, 1.0), front=True)], "x", "y", LEGEND)
    (front,) = [trace for trace in fig.data if trace.name == "Pareto front"]
    assert front.x == (1.0, 2.0) and front.line.shape == "hv"
    assert {trace.marker.symbol for trace in fig.data if trace.meta and "group" in trace.meta} == {"star"}


def test_an_even_group_stays_in_a_logarithmic_picture() -> None:
    """The logarithm of MaxVio 0 would remove the best of them."""
    fig = trade_off([point(0, (0.0, 0.0, 0.0)), point(1, (0.1, 0.1, 0.1)), point(2, (5, 5, 5))], "MaxVio", "y", LEGEND)
    assert fig.layout.xaxis.type == "log"
    assert of_group(fig, 0)[0].x == (0.05,)
    assert "MaxVio 0<" in of_group(fig, 0)[0].hovertemplate


def test_groups_without_x_are_lines_and_alone_are_a_picture() -> None:
    """Dense models have no MaxVio."""
    for points in ([], [point(1, (1.0, 1.0, 2.0))]):
        fig = trade_off(points, "x", "y", LEGEND, [("dense", 7, 1.25)])
        assert of_group(fig, 7)[0].y == (1.25, 1.25)


def test_axes_of_categories_and_numbers_share_one_scale() -> None:
    """0 is the bottom and 1 the top of every axis."""
    axis = category_axis("a", ["x", "z", "y"], ["x", "y", "z"])
    assert axis.places == [0.0, 1.0, 0.5] and axis.ticks == [(0.0, "x"), (0.5, "y"), (1.0, "z")]
    assert category_axis("a", ["x"], ["x"]).places == [0.5]
    linear = number_axis("b", [1.0, 2.0, math.nan, 3.0])
    assert np.allclose(linear.places, [0, 0.5, math.nan, 1], equal_nan=True)
    assert np.allclose(number_axis("c", [1e-4, 1e-2, 1.0]).places, [0, 0.5, 1]), "logarithmic"
    assert number_axis("d", [0.0, 100.0, 50.0]).places[2] == 0.5, "no logarithm of 0"
    assert np.allclose(number_axis("e", [2.0, math.nan]).places, [0.5, math.nan], equal_nan=True)
    assert np.isnan(number_axis("f", [math.nan]).places).all()


def test_the_best_line_is_drawn_last_and_what_has_no_score_is_grey() -> None:
    """It would be hidden by the hundreds of others."""
    axes = [category_axis("a", ["x", "y", "x"], ["x", "y"]), number_axis("m", [1.0, math.nan, 3.0])]
    fig = parallel(axes, [1.0, math.nan, 3.0], ["best", "none", "worst"], [5, 6, 7])
    assert [trace.meta["group"] for trace in fig.data] == [6, 7, 5]
    assert fig.data[0].line.color == GREY and fig.data[0].y[1] is None
    assert fig.data[1].line.color != fig.data[2].line.color
    assert [label.text for label in fig.layout.annotations][:2] == ["x", "y"]
    assert len(parallel(axes, [math.nan] * 3, ["a", "b", "c"], [0, 1, 2]).data) == 3


def test_curves_leave_out_what_is_not_finite_and_put_bold_ones_on_top() -> None:
    """A validation metric is NaN at most steps."""
    lines = [
        Line("median", 0, [1, 2, 3], [3.0, math.nan, 1.0], 0, True),
        Line("run", 0, [1, 2], [math.nan, 2.0], 0, False, "dot"),
        Line("empty", 1, [1, 2], [math.nan, math.nan], 1, False),
    ]
    fig = overlay(lines, "steps", "val/bpb", LEGEND)
    assert [trace.name for trace in fig.data][:3] == ["run", "median", "a=1"]
    assert (fig.data[1].x, fig.data[1].y) == ((1, 3), (3.0, 1.0))
    assert [trace.showlegend for trace in fig.data][:3] == [False, False, True]
    assert {trace.line.color for trace in fig.data[:2]} == {"#0072B2"}
    assert overlay(lines, "steps", "y", LEGEND, log=True).layout.yaxis.type == "log"
    end = overlay(lines, "steps", "y", LEGEND, end=True).layout
    assert end.xaxis.range[0] < 1.5 and end.yaxis.range[0] < 1 and end.yaxis.range[1] < 3
    assert len(overlay([], "steps", "y", LEGEND, end=True).data) == 0
    half = overlay(
        [line._replace(x=[3600, 7200, 36_000][: len(line.x)]) for line in lines], "wall clock", "y", LEGEND, end=True
    )
    assert half.layout.xaxis.title.text == "training time (h)" and half.data[1].x == (1.0, 10.0)
    assert 4.8 < half.layout.xaxis.range[0] < 5 < 10 < half.layout.xaxis.range[1] < 10.2


def test_the_legend_has_an_entry_for_each_kind_and_room_for_others() -> None:
    """The page exchanges the names, and has to find as many entries as any colouring needs."""
    entries = legend_traces(LEGEND)
    assert [entry["visible"] for entry in entries] == [True, True, *[False] * (MOST - 2)] and MOST == 8
    assert [entry["meta"] for entry in entries] == [{"legend": i} for i in range(8)]
    assert (entries[1]["name"], entries[1]["legendgroup"]) == ("others", "kind1")
    assert not any(entry["visible"] for entry in legend_traces(LEGEND[:1])), "one kind alone needs none"


def test_differences_have_a_dot_for_each_pair_and_a_diamond_at_the_median() -> None:
    """The median of two pairs is between them."""
    fig = dots("experts", [("e64", [-0.1, -0.3], ["lr=1", "lr=2"]), ("e32", [0.5], [""])], "val/bpb", "e16")
    assert fig.data[0].x == (-0.1, -0.3) and fig.data[1].x == (-0.2,) and fig.data[1].marker.symbol == "diamond"
    assert fig.layout.yaxis.ticktext == ("e64", "e32") and "e16" in fig.layout.xaxis.title.text


def test_a_setting_of_many_numbers_is_drawn_against_the_metric() -> None:
    """Groups without a value of either have no dot."""
    fig = against("lr", [1e-4, 1e-2, math.nan, 1], [1.0, 2.0, 3.0, math.nan], "y", list("abcd"), [0, 1, 2, 3])
    assert [trace.meta["group"] for trace in fig.data] == [0, 1] and fig.layout.xaxis.type == "log"


def test_names_cannot_smuggle_markup_into_a_picture() -> None:
    """A setting's text comes from whoever typed it."""
    assert wrapped("a=<b>&%{x}") == "a=&lt;b>&amp;% {x}"
    assert "<br>" in wrapped("one=1 " * 20)
