"""A rank that is killed, hangs or is stopped: all end, and one tells why."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.ranks.several import result, run, sentences, start, wait

LONG = ["trainer.max_steps=12"]
STUCK = ["trainer.rank_timeout=25"]


KILLED = {
    "preparing": "CommentaryData.prepare = lambda self: hit(9)",
    "training": "at(3, lambda _: hit(9))",
    "validating": "at(4, lambda _: hit(9), name='validation_step')",
    "saving": "at(3, lambda _: hit(9), owner=LastCheckpoint, name='_save')",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "strategy"), [*((when, "ddp") for when in KILLED), ("training", "fsdp"), ("training", "expert_parallel")]
)
def test_a_killed_rank_ends_all(tmp_path: Path, when: str, strategy: str) -> None:
    """Within 30 s, with one sentence and the cause in result.json."""
    ended = run(tmp_path, f"if RANK == 1: {KILLED[when]}", *LONG, f"trainer.strategy={strategy}")
    assert (ended.status, ended.seconds < 30) == (1, True)
    (said,) = sentences(ended.said)
    assert "error: rank 1 of 2 (process " in said and "was killed by SIGKILL, which ends the run" in said
    assert result(tmp_path)["status"] == "failed"
    assert said == f"error: {result(tmp_path)['reason']}"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["training", "validating", "saving"])
def test_a_killed_first_rank_ends_all(tmp_path: Path, when: str) -> None:
    """Another rank tells it; none is left. The run can be resumed."""
    ended = run(tmp_path, f"if RANK == 0: {KILLED[when]}", *LONG, "data.batch_size=1", ranks=3)
    assert (ended.status, ended.seconds < 30) == (-signal.SIGKILL, True)
    (said,) = sentences(ended.said)
    assert "the first of 3 ranks" in said and "was killed" in said
    if when == "validating":
        assert run(tmp_path, "", f"resume={tmp_path / 'run'}", "trainer.max_steps=6").status == 0
        assert result(tmp_path)["steps"] == 6


LOADS_SLOWLY = """
if RANK == 1:
    right = TrainingWindows.__getitems__
    TrainingWindows.__getitems__ = lambda self, places: right(self, places) if max(places) < 20 else time.sleep(1000)
"""


STUCK_RANKS = {
    "has not run for": "if RANK == 1: at(3, lambda _: hit(signal.SIGSTOP))",
    "has made no progress for": LOADS_SLOWLY,
}


@pytest.mark.slow
def test_a_stuck_rank_ends_all(tmp_path: Path) -> None:
    """After trainer.rank_timeout. Both runs wait at the same time."""
    folders = {said: tmp_path / str(i) for i, said in enumerate(STUCK_RANKS)}
    started = {said: start(folders[said], body, *LONG, *STUCK) for said, body in STUCK_RANKS.items()}
    for said, folder in folders.items():
        ended = wait(started[said], folder)
        assert ended.status == 1
        (sentence,) = sentences(ended.said)
        assert "error: rank 1 of 2 (process" in sentence and f"{said} 25 s (trainer.rank_timeout)" in sentence
        assert sentence == f"error: {result(folder)['reason']}"


@pytest.mark.slow
def test_a_stopped_first_rank_ends_the_others(tmp_path: Path) -> None:
    """And says why, once it is let go."""
    process = start(tmp_path, "if RANK == 0: at(3, lambda _: hit(signal.SIGSTOP))", *LONG, *STUCK)
    until = time.time() + 120
    while "error:" not in (tmp_path / "said").read_text() and time.time() < until:
        time.sleep(0.2)
    (said,) = sentences((tmp_path / "said").read_text())
    assert "the first of 2 ranks" in said and "has not run for 25 s" in said
    process.send_signal(signal.SIGCONT)
    assert wait(process, tmp_path).status == 1
    assert said == f"error: {result(tmp_path)['reason']}"


@pytest.mark.slow
def test_a_job_that_is_stopped_as_a_whole_goes_on(tmp_path: Path) -> None:
    """For longer than the timeout."""
    body = "if RANK == 0: at(3, lambda _: open('hit', 'w').write('0') and time.sleep(3))"
    process = start(tmp_path, body, *LONG, "trainer.rank_timeout=20")
    until = time.time() + 120
    while not (tmp_path / "hit").exists() and time.time() < until:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(25)
    os.killpg(process.pid, signal.SIGCONT)
    assert wait(process, tmp_path).status == 0
    assert result(tmp_path)["steps"] == 12
