"""Curves of many runs, thinned and summed up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from s15erav3.comparison.curves import curves
from s15erav3.comparison.groups import BPB, groups
from s15erav3.figures.ruler import CLOCK, FLOPS, STEPS, TOKENS
from s15erav3.runs.reader import find_runs, read_run
from tests.comparison.sweeps import write_metrics, write_run


def test_rows_of_one_step_are_one_point_and_medians_are_of_shared_steps(tmp_path: Path) -> None:
    """The logger writes validation in a row of its own, without tokens."""
    for seed, (rows, bpb) in enumerate([(20, 1.0), (10, 3.0), (10, 2.0)]):
        write_metrics(write_run(tmp_path / str(seed), f"seed={seed}"), rows=rows, columns=0, bpb=bpb)
    found = curves(groups([read_run(run) for run in find_runs(tmp_path)]), [BPB, "train/loss"])
    first, middle = found[0], found[-1]
    assert first.steps.tolist() == list(range(2, 42, 2))
    assert first.spent[TOKENS][4] == 5 * 2048 and np.isfinite(first.values[BPB]).sum() == 4
    assert np.isfinite(first.values["train/loss"]).all(), "the row of validation has no loss, the step does"
    assert middle.run is None and len(found) == 4
    assert middle.steps.tolist() == list(range(2, 22, 2))
    assert middle.values[BPB][4].round(9) == 2.2 and np.isnan(middle.values[BPB][3])


def test_no_more_curves_than_asked_for_the_first_groups_first(tmp_path: Path) -> None:
    """Thousands of curves are neither drawn nor read; runs that have not logged take no place."""
    for i in range(6):
        run = write_run(tmp_path / str(i), f"optimizer.lr=0.{i // 2 + 1}", f"seed={i}")
        if i != 1:
            write_metrics(run, rows=5, columns=0)
    runs = [read_run(run) for run in find_runs(tmp_path)]
    found = curves(groups(runs), [BPB], at_most=3)
    assert [curve.group for curve in found if curve.run] == [0, 1, 1]
    assert [curve.group for curve in found if not curve.run] == [1]


def test_a_run_that_does_not_count_is_drawn_but_not_in_the_median(tmp_path: Path) -> None:
    """It may be at its very beginning."""
    for seed, (status, bpb) in enumerate([("completed", 1.0), ("completed", 2.0), ("failed", 9.0)]):
        write_metrics(write_run(tmp_path / str(seed), f"seed={seed}", status=status), rows=5, columns=0, bpb=bpb)
    found = curves(groups([read_run(run) for run in find_runs(tmp_path)]), [BPB])
    assert [curve.counted for curve in found] == [True, True, False, True]
    assert found[-1].values[BPB][-1].round(9) == 1.7


def test_each_ruler_has_its_own_median(tmp_path: Path) -> None:
    """Seeds of unlike speed need unlike time for the same steps. Seen to fail with the rulers of the first run."""
    for seed, speed in enumerate((2048.0, 1024.0, 512.0)):
        write_metrics(write_run(tmp_path / str(seed), f"seed={seed}"), rows=10, columns=0, speed=speed)
    *runs, middle = curves(groups([read_run(run) for run in find_runs(tmp_path)]), [BPB])
    assert [[*curve.spent] for curve in runs] == [[STEPS, TOKENS, FLOPS, CLOCK]] * 3
    assert [curve.spent[CLOCK][-1] for curve in runs] == [10, 20, 40]
    assert middle.spent[CLOCK].tolist() == [2.0 * i for i in range(1, 11)]
    assert middle.spent[FLOPS].tolist() == [2048e6 * i for i in range(1, 11)]
