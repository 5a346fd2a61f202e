"""What experts prefer and which work together, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from s15erav3.figures.specialisation import coactivation_heatmap, information_by_layer, lift, lift_heatmap


def test_lift_is_the_share_of_the_value_over_the_share_of_all() -> None:
    """Of 100 slots the first expert has 40, of the value's 20 it has 16: 16 / 20 over 40 / 100 is 2."""
    found = lift([[16, 4], [24, 56]])
    assert found.times[0].tolist() == pytest.approx([2.0, 4 / 20 / 0.6])
    assert found.expected[0].tolist() == pytest.approx([8.0, 12.0])
    assert np.isnan(lift([[0, 0], [1, 3]]).times[0]).all()


def test_values_come_by_how_often_they_occur_and_absent_ones_not() -> None:
    """Alphabetic order would bury the phases of an innings below a dozen rare ones; a value that does not occur in
    what was read has no preference."""
    fig = lift_heatmap([[1, 1], [0, 0], [40, 8], [2, 3]], ["rare", "absent", "usual", "some"], "t", at_most=2)
    trace = fig.data[0]
    assert list(trace.y) == ["usual", "some"]
    assert np.array(trace.customdata)[0].tolist() == pytest.approx([40 / 48 / (43 / 55), 8 / 48 / (12 / 55)], abs=0.01)
    assert trace.z[0][0] == pytest.approx(np.log2(40 / 48 / (43 / 55)), abs=0.002)


def test_what_never_happens_has_the_last_colour() -> None:
    """The logarithm of 0 is no JSON."""
    assert lift_heatmap([[0, 5], [5, 5]], ["a", "b"], "t").data[0].z[1][0] == -3


def test_long_names_are_cut_on_the_axis_alone() -> None:
    """A bowler of thirty letters would leave no room for the picture on a phone."""
    fig = lift_heatmap([[1, 2]], ["Varun Chakravarthy Vinod"], "t")
    assert fig.layout.yaxis.ticktext == ("Varun Chakravarth\u2026",)
    assert list(fig.data[0].y) == ["Varun Chakravarthy Vinod"]


def test_company_is_measured_against_independent_choices_and_oneself_is_none() -> None:
    """Catches rows and columns that are swapped, and a diagonal of 100 % that outshines the rest."""
    trace = coactivation_heatmap([[1, 0.4], [0.1, 1]], 0.2, "t").data[0]
    assert [list(row) for row in trace.z] == [[None, 1.0], [-1.0, None]]
    assert trace.customdata[0][1] == 40.0


def test_without_an_even_share_the_mean_is_the_middle() -> None:
    """Where experts choose tokens there is no K."""
    trace = coactivation_heatmap([[1, 0.4], [0.1, 1]], None, "t").data[0]
    assert trace.z[0][1] == pytest.approx(np.log2(0.4 / 0.25), abs=0.001)


def test_a_domain_is_a_line_over_the_layers() -> None:
    """Catches a transposed table."""
    fig = information_by_layer({"phase": [0.1, 0.2], "part": [0.3, 0.4]}, [1, 7], "t", "bits")
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in fig.data] == [
        ("phase", ["L01", "L07"], [0.1, 0.2]),
        ("part", ["L01", "L07"], [0.3, 0.4]),
    ]
