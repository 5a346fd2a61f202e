"""Places and the queue before them, without any training."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from typing import Any, NamedTuple

import pytest

from s15erav3.errors import UserError
from s15erav3.sweeps import slots
from s15erav3.sweeps.queue import drain
from s15erav3.sweeps.slots import Slot, choose_gpus, make_slots

FORK = multiprocessing.get_context("fork")


@pytest.mark.parametrize("per_gpu", [1, 2])
def test_each_gpu_is_busy_with_exactly_its_number_of_jobs(per_gpu: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that waits for a whole batch leaves GPUs idle; one that counts jobs and not places doubles up."""
    chance = random.Random(per_gpu)
    busy: Counter[str] = Counter()
    started: list[int] = []
    ended: list[int] = []

    class Job(NamedTuple):
        sentinel: int
        exitcode: int = 0

        def join(self) -> None:
            busy[placed[self.sentinel]] -= 1
            ended.append(self.sentinel)

    placed: dict[int, str] = {}

    def start(job: int, slot: Slot) -> Job:
        started.append(job)
        placed[job] = slot.environment["CUDA_VISIBLE_DEVICES"]
        busy[placed[job]] += 1
        return Job(job)

    def wait_for_any(running: list[int], timeout: float) -> list[int]:
        assert max(busy.values()) <= per_gpu and len(running) == min(3 * per_gpu, 24 - len(ended))
        if len(running) == 3 * per_gpu:
            assert dict(busy) == {"0": per_gpu, "1": per_gpu, "2": per_gpu}
        return chance.sample(running, chance.randrange(len(running) + 1))

    monkeypatch.setattr("s15erav3.sweeps.queue.wait", wait_for_any)
    drain(range(24), make_slots([0, 1, 2], per_gpu, "auto", 1), start, lambda *of: None, lambda: True)
    assert started == list(range(24)) and sorted(ended) == started and ended != started


def test_nothing_begins_once_the_end_is_asked_for() -> None:
    """After Ctrl-C the queue waits for what runs, and starts none of the rest."""
    started, ended = [], []

    def start(job: int, slot: str) -> Any:
        started.append(job)
        process = FORK.Process(target=time.sleep, args=(0.05,))
        process.start()
        return process

    drain(range(9), ["a", "b"], start, lambda job, slot, process: ended.append(job), lambda: len(ended) < 2)
    assert len(started) in (2, 3) and sorted(ended) == started


def test_an_exit_code_is_the_jobs_own() -> None:
    """A job that failed gives its place to the next, and its status is told with it."""
    codes = {}

    def start(job: int, slot: str) -> Any:
        process = FORK.Process(target=exit, args=(job,))
        process.start()
        return process

    drain(range(4), ["only"], start, lambda job, slot, process: codes.update({job: process.exitcode}), lambda: True)
    assert codes == {0: 0, 1: 1, 2: 2, 3: 3}


def test_gpus_are_those_that_the_user_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared machine CUDA_VISIBLE_DEVICES=2,5 means that 0 and 1 are somebody else's."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert slots.visible_gpus() == ["2", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert slots.visible_gpus() == ["0", "1"]
    seen = ["2", "GPU-5"]
    assert choose_gpus("auto", lambda: seen) == seen
    assert choose_gpus(1, lambda: seen) == ["2"]
    assert choose_gpus([3, "GPU-7"], lambda: seen) == ["3", "GPU-7"]
    assert choose_gpus(0, lambda: seen) == [] == choose_gpus("auto", list)


def test_threads_and_places_follow_from_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs side by side, each with a thread for every core, are slower than one after the other."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)), raising=False)
    on_gpus = make_slots(["a", "b"], 2, "auto", "auto")
    assert [(slot.name, slot.threads) for slot in on_gpus] == [
        ("GPU a", 4), ("GPU b", 4), ("GPU a", 4), ("GPU b", 4)
    ]  # fmt: skip
    assert on_gpus[1].environment["OMP_NUM_THREADS"] == "4"
    on_cpu = make_slots(0, 1, "auto", "auto")
    assert len(on_cpu) == 16 and {(s.threads, s.environment["CUDA_VISIBLE_DEVICES"]) for s in on_cpu} == {(1, "")}
    assert [slot.threads for slot in make_slots(0, 1, "auto", 8)] == [8, 8]
    assert [slot.threads for slot in make_slots(0, 1, 3, "auto")] == [5, 5, 5]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("gpus", -1), ("gpus", "all"), ("gpus", True), ("gpus", [0, 0]), ("gpus", [1.5]), ("gpus", 3),
        ("jobs_per_gpu", 0), ("cpu_slots", "many"), ("cpu_slots", 0), ("threads_per_job", 1.5),
    ],
)  # fmt: skip
def test_a_bad_setting_is_told(setting: str, value: Any) -> None:
    """One sentence with the key, before anything begins."""
    settings = {"gpus": 0, "jobs_per_gpu": 1, "cpu_slots": "auto", "threads_per_job": "auto"} | {setting: value}
    with pytest.raises(UserError, match=rf"^hydra\.launcher\.{setting}=") as caught:
        make_slots(**settings)
    assert str(caught.value).endswith(".") and str(caught.value).count(". ") == 0
