"""The charts of what a run learned, over what the reader chooses."""

from __future__ import annotations

import numpy as np

from s15erav3.figures.ruler import RULERS
from s15erav3.pages.learning import learning_section
from s15erav3.pages.page import Chart, Choice

NAN = np.nan
METRICS = {
    "step": np.array([1.0, 2, 2, 3]),
    "tokens": np.array([100.0, 200, 200, 300]),
    "flops": np.array([1e9, 2e9, NAN, 3e9]),
    "perf/tokens_per_second": np.array([10.0, 100.0, NAN, 50.0]),
    "train/bpb": np.array([4.0, 3.0, NAN, 2.0]),
    "val/bpb": np.array([NAN, NAN, 3.5, NAN]),
    "train/grad_norm": np.array([1.0, 1.0, NAN, 1.0]),
}


def test_bits_per_byte_over_each_ruler() -> None:
    """Of either curve the points that it has. Catches rulers of all rows beside values of some."""
    bpb, norm, speed = learning_section(METRICS).blocks
    assert isinstance(bpb, Choice) and isinstance(norm, Chart) and isinstance(speed, Chart)
    assert [*bpb.options] == [(over,) for over in RULERS]
    drawn = [[(line.x, line.y) for line in figure.data] for figure in bpb.options.values()]  # type: ignore[union-attr]
    assert [one[0] for one in drawn] == [
        (x, (4.0, 3.0, 2.0)) for x in ((1, 2, 3), (100, 200, 300), (1e9, 2e9, 3e9), (10, 11, 13))
    ]
    assert [one[1] for one in drawn] == [((x,), (3.5,)) for x in (2, 200, 2e9, 11)]


def test_a_run_that_recorded_steps_alone_has_nothing_to_choose() -> None:
    """A select with one option would be noise; neither has a run that has not logged any chart."""
    (chart,) = learning_section({"step": METRICS["step"], "train/bpb": METRICS["train/bpb"]}).blocks
    assert isinstance(chart, Chart)
    assert learning_section({}).blocks == [] == learning_section({"step": METRICS["step"]}).blocks
