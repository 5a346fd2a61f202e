"""What a training had spent at each row, against a clock that wrote the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s15erav3.figures.ruler import CLOCK, FLOPS, STEPS, TOKENS
from s15erav3.figures.spent import spent

NAN = np.nan
BETWEEN = st.lists(st.tuples(st.integers(1, 1000), st.floats(0.01, 100.0), st.booleans()), min_size=1, max_size=12)


@given(between=BETWEEN)
def test_seconds_are_those_of_the_clock_that_gave_the_speeds(between: list[tuple[int, float, bool]]) -> None:
    """Rows at random steps, some followed by a validation, whose time is not counted. Seen to fail with the speed of
    the row before, and without the stretch before the first row."""
    columns: dict[str, list[float]] = {"step": [], "tokens": [], "flops": [], "perf/tokens_per_second": []}
    steps, clock, wanted = 0, 0.0, []
    for more, seconds, validated in between:
        steps, clock = steps + more, clock + seconds
        rows = [(steps, 256 * steps, 3e6 * 256 * steps, 256 * more / seconds), (steps, 256 * steps, NAN, NAN)]
        for row in rows[: 1 + validated]:
            wanted.append(clock)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    found = spent({name: np.array(column) for name, column in columns.items()})
    assert found[STEPS].tolist() == columns["step"] and found[TOKENS].tolist() == columns["tokens"]
    assert found[FLOPS] == pytest.approx(3e6 * np.array(columns["tokens"]))
    assert found[CLOCK] == pytest.approx(np.array(wanted))


def test_a_validation_between_rows_and_after_the_last_has_its_place() -> None:
    """By its tokens, or, in the files of version 0.1, by its step. A minute for 10 steps, then half of one."""
    metrics = {
        "step": np.array([5.0, 10, 15, 20, 25]),
        "tokens": np.array([NAN, 1000.0, 1500.0, 2000.0, 2500.0]),
        "flops": np.array([NAN, 2000.0, NAN, 4000.0, NAN]),
        "perf/tokens_per_second": np.array([NAN, 1000 / 60, NAN, 1000 / 30, NAN]),
    }
    found = spent(metrics)
    assert found[TOKENS][1:].tolist() == metrics["tokens"][1:].tolist()
    assert found[FLOPS][1:].tolist() == [2000, 3000, 4000, 5000]
    assert found[CLOCK][1:] == pytest.approx([60, 75, 90, 105])
    metrics["tokens"][2] = NAN
    assert spent(metrics)[TOKENS][2] == 1500 and spent(metrics)[CLOCK][2] == pytest.approx(75)


def test_what_is_not_recorded_is_left_out() -> None:
    """Runs of older versions have no FLOPs; those that have not logged yet have nothing."""
    steps, tokens, speed = np.array([1.0, 2.0]), np.array([8.0, 16.0]), np.array([4.0, 4.0])
    assert [*spent({"step": steps, "tokens": tokens, "perf/tokens_per_second": speed})] == [STEPS, TOKENS, CLOCK]
    assert [*spent({"step": steps, "tokens": tokens, "flops": np.full(2, NAN)})] == [STEPS, TOKENS]
    assert [*spent({"step": steps, "tokens": np.full(2, NAN)})] == [*spent({"step": steps})] == [STEPS]
    assert spent({}) == {}
