"""The clock of tokens per second."""

from __future__ import annotations

import pytest
import torch

from s15erav3.callbacks import throughput
from s15erav3.callbacks.throughput import Throughput


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that tests set by hand."""
    now = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    return now


def test_validation_does_not_count_as_training_time(clock: list[float]) -> None:
    """100 tokens in 2 s of training and 8 s of validation are 50 tokens/s, not 10."""
    speed = Throughput(flops_per_token=10.0, peak_flops=1000.0)
    speed.start()
    speed.add(100)
    clock[0] = 2.0
    speed.pause()
    clock[0] = 10.0
    speed.start()
    measured = speed.since_last(torch.device("cpu"))
    assert measured["perf/tokens_per_second"] == pytest.approx(50.0)
    assert measured["perf/mfu"] == pytest.approx(50.0 * 10.0 / 1000.0)
    assert measured["perf/memory_gb"] > 0.01


def test_memory_is_counted_from_the_begin_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's peak would else be that of the largest earlier job of a sweep."""
    reset: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    for device in map(torch.device, ("cpu", "cuda:1")):
        Throughput(1.0, None).begin(device)
    assert reset == [torch.device("cuda", 1)]


def test_each_row_speaks_of_its_own_interval(clock: list[float]) -> None:
    """A slow first step (compilation) must not slow down the later rows; the whole run is told by overall()."""
    speed = Throughput(1.0, None)
    speed.start()
    speed.add(10)
    clock[0] = 10.0
    assert speed.since_last(torch.device("cpu"))["perf/tokens_per_second"] == pytest.approx(1.0)
    speed.add(30)
    clock[0] = 11.0
    row = speed.since_last(torch.device("cpu"))
    assert row["perf/tokens_per_second"] == pytest.approx(30.0)
    assert "perf/mfu" not in row
    assert speed.overall()["perf/tokens_per_second_overall"] == pytest.approx(40 / 11)
