"""MaxVio by layer with its floor, and every expert over time."""

from __future__ import annotations

import numpy as np

from s15erav3.balancing.diagnostics import max_violation
from s15erav3.figures.balance import FLOOR, FOLLOWED, experts_over_time, maxvio, maxvio_by_layer
from tests.figures.parts import loads


def test_maxvio_is_that_of_the_diagnostics() -> None:
    """Two definitions of one word would differ some day."""
    import torch

    table = loads(5, 3, 8)
    assert np.allclose(maxvio(table), [max_violation(torch.from_numpy(step)).tolist() for step in table])


def test_each_layer_is_a_line_and_the_floor_goes_all_along() -> None:
    """Catches layers that are swapped, and a floor that ends before the curves do."""
    table = np.array([[[1, 3], [2, 2]], [[2, 2], [0, 4]]])
    fig = maxvio_by_layer(table, [1, 2], [1, 10], floor=0.25)
    lines = {trace.name: list(trace.y) for trace in fig.data}
    assert lines == {"L01": [0.5, 0.0], "L02": [0.0, 1.0], FLOOR: [0.25, 0.25]}
    assert list(fig.data[-1].x) == [1, 10]
    assert FLOOR not in {trace.name for trace in maxvio_by_layer(table, [1, 2], [1, 10]).data}


def test_thirty_layers_have_thirty_colours_and_no_legend() -> None:
    """A legend of thirty lines leaves no room on a phone."""
    fig = maxvio_by_layer(loads(4, 30, 8), range(30), range(4), floor=0.1)
    assert len({trace.line.color for trace in fig.data}) == 31
    assert [trace.name for trace in fig.data if trace.showlegend is not False] == [FLOOR]


def test_few_experts_are_lines_and_many_are_rows() -> None:
    """64 lines cannot be told apart; of a few, rows of colours would show less than lines do."""
    few = experts_over_time(loads(4, 1, FOLLOWED)[:, 0], [1, 2, 3, 4], "t", "load", 1.0)
    assert len(few.data) == FOLLOWED and list(few.data[3].x) == [1, 2, 3, 4]
    assert len({(trace.line.color, trace.line.dash) for trace in few.data}) == FOLLOWED
    table = loads(4, 1, FOLLOWED + 1)[:, 0] / 50
    many = experts_over_time(table, [1, 2, 3, 4], "t", "load", 1.0)
    assert len(many.data) == 1 and np.allclose(np.array(many.data[0].z), table.T, atol=0.006)
