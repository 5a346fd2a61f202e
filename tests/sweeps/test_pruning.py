"""Hopeless runs end early, in order, and are no failures."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from s15erav3.callbacks.pruning import Pruned, Pruning
from s15erav3.comparison.groups import states
from s15erav3.errors import UserError
from s15erav3.pages.summary import summary_section
from s15erav3.runs.code import code
from s15erav3.runs.folder import write_config
from s15erav3.runs.reader import find_runs, read_run
from s15erav3.runs.result import write_result
from s15erav3.sweeps import job
from s15erav3.sweeps.judge import SWEEPER, TrialJudge, pruning
from tests.sweeps.fake_run import STEPS, Runs, bpb, part, search, trials
from tests.tiny import result

MEDIAN = part("pruner/median") | {"n_startup_trials": 2}


def hopeless(lrs: list[float]) -> list[int]:
    """The runs that the median rule ends at the first validation, worked out here: two are complete, and the value is
    worse than their median."""
    complete: list[float] = []
    ended = []
    for number, lr in enumerate(lrs):
        if len(complete) >= 2 and bpb(lr, STEPS[0]) > median(complete):
            ended.append(number)
        else:
            complete.append(bpb(lr, STEPS[0]))
    return ended


def test_a_hopeless_run_is_pruned(tmp_path: Path) -> None:
    """By the median of the complete runs at the same step; it counts as a trial, and is not started again."""
    runs = Runs(tmp_path)
    search(runs, n_trials=8, pruner=MEDIAN)
    found = trials(tmp_path)
    ended = [t.number for t in found if t.state.name == "PRUNED"]
    assert ended == hopeless(runs.lrs) and ended
    for t in found:
        assert list(t.intermediate_values) == ([STEPS[0]] if t.number in ended else list(STEPS))
    reason = result(tmp_path / str(ended[0]))["reason"]
    assert re.fullmatch(r"val/bpb \d\.\d{4} at step 10 is too far behind other trials \(MedianPruner\)", reason)
    search(runs, n_trials=8, pruner=MEDIAN)
    assert runs.begun == list(range(8))


def test_readers_know_a_pruned_run(tmp_path: Path) -> None:
    """It is none of the unknown states, and its page says why it ended and how it may go on."""
    search(Runs(tmp_path), n_trials=8, pruner=MEDIAN)
    runs = [read_run(folder) for folder in find_runs(tmp_path)]
    counted = states(runs)
    assert list(counted) == ["completed", "pruned"] and sum(counted.values()) == 8
    pruned = next(run for run in runs if run.status == "pruned")
    (pruned.folder / "checkpoints").mkdir()
    (pruned.folder / "checkpoints" / "last.ckpt").touch()
    page = "".join(block.markup for block in summary_section(pruned).blocks)
    assert "A search pruned the run" in page and "is too far behind other trials" in page
    assert "train resume=" in page


def test_a_warm_up_lets_every_run_come_so_far(tmp_path: Path) -> None:
    """The steps of the config are optimizer steps."""
    search(Runs(tmp_path), n_trials=8, pruner=MEDIAN | {"n_warmup_steps": 15})
    ended = [list(t.intermediate_values) for t in trials(tmp_path) if t.state.name == "PRUNED"]
    assert ended and all(steps == [10, 20] for steps in ended)


def config(
    monkeypatch: pytest.MonkeyPatch, folder: Path, number: int, pruner: Any, target: str = SWEEPER
) -> DictConfig:
    """The config of a job of a sweep in ``folder``, and Hydra's of this process."""
    sweeper = {"_target_": target, "pruner": pruner, "study_name": "study", "storage": str(folder / "study.journal")}
    hydra = OmegaConf.create({"sweeper": sweeper, "job": {"num": number}, "sweep": {"dir": str(folder)}})
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    return OmegaConf.create({"sweep": {"objective": "val/bpb", "code": "keep"}, "run_dir": str(folder / str(number))})


def test_only_jobs_of_a_search_with_a_pruner_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others do not even look for the study, which is not there."""
    basic = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
    for pruner, target in ((part("pruner/none"), SWEEPER), (None, SWEEPER), (MEDIAN, basic)):
        assert pruning(config(monkeypatch, tmp_path, 0, pruner, target)) == []
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="holds no study"):
        pruning(config(monkeypatch, tmp_path, 0, MEDIAN))
    search(Runs(tmp_path), n_trials=1)
    with pytest.raises(UserError, match="no unfinished trial of job 0"):
        pruning(config(monkeypatch, tmp_path, 0, MEDIAN))


def test_a_job_that_was_pruned_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program may be killed between the end of a run and the study's being told: it must not run again."""

    def train(cfg: DictConfig, resumed: Any = None, callbacks: Any = ()) -> Any:
        write_config(Path(cfg.run_dir), cfg, OmegaConf.create({"hydra": {"overrides": {"task": []}}}))
        write_result(Path(cfg.run_dir), {"status": "pruned", "reason": "bad", "code": code()})
        calls.append(1)
        raise Pruned("bad")

    calls: list[int] = []
    monkeypatch.setattr(job, "train", train)
    cfg = config(monkeypatch, tmp_path, 0, None)
    assert [job.work(cfg), job.work(cfg)] == ["pruned", "pruned"] and calls == [1]


def test_several_jobs_write_into_one_study(tmp_path: Path) -> None:
    """Each has opened the file for itself; what one wrote, all read."""
    seen: list[TrialJudge] = []
    runs = Runs(tmp_path)

    def before(number: int) -> None:
        seen.append(TrialJudge(tmp_path / "study.journal", "study", OmegaConf.create(MEDIAN), number))
        for judge in seen:
            judge.report(number, float(number))

    runs.before = before
    search(runs, n_trials=2, n_jobs=2)
    assert [t.intermediate_values for t in trials(tmp_path)] == [{0: 0.0, 1: 1.0}, {1: 1.0}]


class Fixed:
    """A judge whose verdict is known beforehand."""

    def __init__(self, last: int | None = None, hopeless_at: int = 0) -> None:
        self.last, self.hopeless_at = last, hopeless_at
        self.told: list[tuple[int, float]] = []

    def last_step(self) -> int | None:
        return self.last

    def report(self, step: int, value: float) -> None:
        self.last = step
        self.told.append((step, value))

    def verdict(self) -> str:
        return "is bad" if self.last == self.hopeless_at else ""


def trainer(step: int, fn: str = "fit") -> Any:
    """At a step of 30."""
    return SimpleNamespace(
        state=SimpleNamespace(fn=fn),
        global_step=step,
        max_steps=30,
        should_stop=False,
        callback_metrics={"val/bpb": 2.0},
    )


def ends(callback: Pruning, step: int) -> bool:
    """Whether the next step does not begin."""
    try:
        callback.on_train_batch_start(trainer(step))
    except Pruned as verdict:
        return str(verdict) == "val/bpb is bad"
    return False


def test_the_end_comes_before_the_next_step_and_never_after_the_last() -> None:
    """The checkpoint of the step has been saved by then; a run without a step left is complete."""
    nothing: Any = None
    for step, expected in ((10, True), (20, False), (30, False)):
        judge = Fixed(hopeless_at=step if expected or step == 30 else 0)
        callback = Pruning("val/bpb", judge)
        callback.on_validation_end(trainer(step, "validate"), nothing)
        assert judge.told == []
        callback.on_validation_end(trainer(step), nothing)
        assert judge.told == [(step, 2.0)]
        assert ends(callback, step) == expected


@pytest.mark.parametrize(
    ("last", "step", "expected"),
    [(None, 0, False), (10, 10, True), (10, 12, True), (10, 5, False), (10, 0, False), (10, 30, False)],
)
def test_a_run_that_was_killed_on_its_way_out_ends_when_it_goes_on(last: int | None, step: int, expected: bool) -> None:
    """If its checkpoint holds the step that it was judged at; else it will be judged there again."""
    callback = Pruning("val/bpb", Fixed(last, hopeless_at=10))
    nothing: Any = None
    callback.on_train_start(trainer(step), nothing)
    assert ends(callback, step) == expected
