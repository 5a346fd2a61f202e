"""Who is to blame when several ranks end, or none gets on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from s15erav3.ranks import watch as file
from s15erav3.ranks.watch import RankEnded, Watch

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Over two ranks that sleep; it waits for nothing."""
    for name in ("GRACE", "LEAVING", "PERIOD"):
        monkeypatch.setattr(file, name, 0.1)
    made = Watch(3, 10.0, lambda ended: 1)
    made.processes = {rank: subprocess.Popen(["sleep", "100"]) for rank in (1, 2)}
    yield made
    made.close(False)
    assert all(process.returncode for process in made.processes.values())


def ends(watch: Watch, rank: int, number: int = 0, **report: Any) -> None:
    """A rank leaves word and dies, or ends with the status ``number``."""
    process = watch.processes[rank]
    if report:
        watch.board.report(rank, **report)
        process.kill()
        process.wait()
        process.returncode = number
    else:
        process.send_signal(number)
        process.wait()


def blamed(watch: Watch, error: BaseException = LOST) -> RankEnded:
    found = watch.cause(error)
    assert found is not None
    return found


def test_a_killed_rank_is_to_blame_and_not_those_that_lost_it(watch: Watch) -> None:
    """Whichever ended first."""
    ends(watch, 1, 1, kind="lost", reason="closed")
    ends(watch, 2, signal.SIGKILL)
    found = blamed(watch)
    assert found.reason == f"rank 2 of 3 (process {watch.processes[2].pid}) was killed by SIGKILL"


def test_a_rank_with_an_error_is_to_blame(watch: Watch) -> None:
    """With its own sentence and status, or its traceback."""
    ends(watch, 1, 1, kind="lost", reason="closed")
    ends(watch, 2, 2, kind="UserError", reason="data.path=x is bad.", status=2)
    assert (blamed(watch).reason, blamed(watch).status) == ("data.path=x is bad.", 2)
    watch.board.report(2, kind="bug", reason="TypeError: x", trace="Traceback")
    assert blamed(watch).trace == "Traceback"


def test_a_signal_that_asks_for_the_end_is_no_accident(watch: Watch) -> None:
    """Whether the rank handled it or died of it."""
    ends(watch, 1, signal.SIGTERM)
    assert (blamed(watch).kind, blamed(watch).status) == ("signal", signal.SIGTERM)


def test_the_first_ranks_own_error_is_its_own(watch: Watch) -> None:
    """Others that end as well change nothing."""
    ends(watch, 1, signal.SIGKILL)
    assert watch.cause(TypeError("a bug")) is None
    assert watch.cause(RuntimeError("shapes do not fit")) is None


def test_a_connection_lost_by_all_is_told_as_that(watch: Watch) -> None:
    """No rank is named for nothing."""
    assert blamed(watch).reason == "the connection between the ranks was lost"


@pytest.mark.parametrize(
    ("moves", "running", "said"),
    [
        ((5, 5, 5), (1, 1), "none of 3 ranks has made progress for 10 s"),
        ((5, 4, 5), (1, 1), "rank 1 of 3 .* has made no progress for 10 s"),
        ((4, 5, 5), (1, 1), r"the first of 3 ranks \(process {me}\) has made no progress"),
        ((5, 5, 5), (1, 0), "rank 2 of 3 .* has not run for 10 s"),
        ((4, 5, 5), (0, 1), "rank 1 of 3 .* has not run"),
    ],
)
def test_who_holds_the_others_up(watch: Watch, moves: tuple[int, ...], running: tuple[int, ...], said: str) -> None:
    """A process that does not run before one that does no more; at equal places, nobody knows."""
    for rank, number in enumerate(moves):
        watch.board.put(rank, "moves", number)
    for second in range(11):
        for rank, runs in enumerate(running, start=1):
            watch.board.put(rank, "ticks", second * runs)
        assert watch._stuck(second) is None
    found = watch._stuck(11)
    assert found is not None and found.kind == "stuck"
    assert re.match(said.format(me=os.getpid()), found.reason)


def test_a_rank_that_moves_is_not_stuck(watch: Watch) -> None:
    """All must: ranks wait for each other at every step."""
    for second in range(0, 60, 9):
        for rank in range(3):
            watch.board.count(rank, "moves")
        assert watch._stuck(second) is None


def test_the_watch_ends_the_others_and_leaves_the_rest_to_the_main_thread(watch: Watch) -> None:
    """Whose collective fails, now that they are gone."""
    watch.start()
    watch.processes[1].kill()
    assert watch.processes[2].wait(10) == -signal.SIGKILL
    assert "rank 1 of 3" in blamed(watch).reason


def test_a_main_thread_that_is_stuck_is_ended(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last words said before."""
    said: list[str] = []
    left = threading.Event()
    watch.last_words = lambda ended: said.append(ended.reason) or 7

    def leave(status: int) -> None:
        said.append(str(status))
        left.set()

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(file, "LEAVING", 0.5)
    watch.start()
    watch.processes[1].kill()
    assert left.wait(10)
    assert "was killed" in said[0] and said[1] == "7"


def test_a_job_that_was_stopped_as_a_whole_has_lost_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-Z, and fg an hour later."""
    from s15erav3.ranks.member import PERIOD, Awake

    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    awake = Awake()
    for passed in (PERIOD, PERIOD, 3600.0, PERIOD):
        clock[0] += passed
        seconds = awake.look()
    assert seconds == 5 * PERIOD
