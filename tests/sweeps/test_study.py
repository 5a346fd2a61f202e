"""A search from its settings to its best run, with runs that take no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

from s15erav3.errors import UserError
from s15erav3.sweeps.trials import Unfinished, batches, outcome
from tests.sweeps.fake_run import STEPS, Killed, Runs, bpb, part, search, trials
from tests.sweeps.parts import sweep
from tests.tiny import result


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Of a search in a folder that is not there yet."""
    return Runs(tmp_path / "s")


def test_a_search_tells_optuna_what_came_out_and_the_user_what_is_best(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every trial has the value of its own run; the best of them is on the screen and in the file."""
    search(runs, n_trials=4, n_jobs=2)
    found = trials(runs.folder)
    assert [t.values for t in found] == [[result(runs.folder / str(i))["val/bpb"]] for i in range(4)]
    assert [t.value for t in found] == [pytest.approx(bpb(t.params["optimizer.lr"], STEPS[-1])) for t in found]
    best = min(found, key=lambda t: t.value)
    results = yaml.safe_load((runs.folder / "optimization_results.yaml").read_text())
    assert results == {"name": "optuna", "best_params": best.params, "best_value": best.value}
    assert f"best: run {best.number}  {best.value:.4f}  optimizer.lr=" in capsys.readouterr().err
    assert yaml.safe_load((runs.folder / "multirun.yaml").read_text())["hydra"]["sweeper"]["n_trials"] == 4
    assert runs.begun == [0, 1, 2, 3]


def test_the_greatest_is_best_where_that_was_asked_for(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Not the least of what is to be maximised."""
    search(runs, n_trials=4, direction="maximize")
    assert f"best: run {max(trials(runs.folder), key=lambda t: t.value).number}  " in capsys.readouterr().err


def test_the_trials_are_those_of_the_whole_study(runs: Runs) -> None:
    """The same command again has nothing to do; a longer one adds runs in new folders, and a shorter one none."""
    for total, begun in ((2, [0, 1]), (2, [0, 1]), (3, [0, 1, 2]), (1, [0, 1, 2])):
        search(runs, n_trials=total)
        assert runs.begun == begun


def kill_at(runs: Runs, call: int) -> None:
    """Let the run that is begun as number ``call`` take the program with it."""

    def before(job: int) -> None:
        if len(runs.begun) == call:
            raise Killed

    runs.before = before


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii"])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(sampler: str, runs: Runs, tmp_path: Path) -> None:
    """The unfinished runs first, in their own folders; with a fixed seed, the very settings of a search in peace."""
    peaceful, chosen = Runs(tmp_path / "peaceful"), part(f"sampler/{sampler}") | {"seed": 3}
    search(peaceful, n_trials=6, n_jobs=2, sampler=chosen)
    kill_at(runs, 4)
    with pytest.raises(Killed):
        search(runs, n_trials=6, n_jobs=2, sampler=chosen)
    assert [t.state.name for t in trials(runs.folder)] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING"]
    search(runs, n_trials=6, n_jobs=2, sampler=chosen)
    assert runs.begun == [0, 1, 2, 3, 3, 4, 5]
    assert [*runs.lrs[:3], *runs.lrs[4:]] == peaceful.lrs and len(set(peaceful.lrs)) == 6
    assert [t.state.name for t in trials(runs.folder)] == ["COMPLETE"] * 6


def test_a_run_that_kills_the_program_is_begun_three_times(runs: Runs) -> None:
    """Out of memory: it would else be first again for ever."""

    def before(job: int) -> None:
        if job == 0:
            raise Killed

    runs.before = before
    for _ in range(3):
        with pytest.raises(Killed):
            search(runs, n_trials=1)
    search(runs, n_trials=1)
    assert runs.begun == [0, 0, 0, 1]
    assert [t.state.name for t in trials(runs.folder)] == ["FAIL", "COMPLETE"]


def test_a_failed_run_is_a_trial_without_a_value(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no say, and counts as none of the trials; where too many fail, the search ends."""

    def fail(job: int) -> None:
        raise UserError("this one fails")

    runs.before = fail
    search(runs, n_trials=2)
    assert [(t.state.name, t.values) for t in trials(runs.folder)] == [("FAIL", None)] * 2
    assert not (runs.folder / "optimization_results.yaml").exists()
    search(runs, n_trials=5, max_failure_rate=0.5)
    assert len(trials(runs.folder)) == 3
    assert "100% of the last 1 runs failed, more than hydra.sweeper.max_failure_rate=0.5" in capsys.readouterr().err
    runs.before = lambda job: None
    search(runs, n_trials=2)
    assert [t.state.name for t in trials(runs.folder)] == ["FAIL"] * 3 + ["COMPLETE"] * 2
    assert runs.begun == [0, 1, 2, 3, 4]


def test_two_objectives_give_the_front(
    runs: Runs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found here by comparing every trial with every other."""
    monkeypatch.setattr(runs, "_trained", lambda job, lr: [bpb(lr, STEPS[-1]), lr])
    two: Any = {"objective": ["val/bpb", "balance/maxvio_global"], "direction": ["minimize", "minimize"]}
    search(runs, n_trials=8, sampler=part("sampler/nsgaii") | {"seed": 1}, **two)
    points = [t.values for t in trials(runs.folder)]
    front = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]
    said = capsys.readouterr().err
    assert said.count("front: run") == len(front) < 8
    places = [said.index(f"{p[0]:.4f}, {p[1]:.4f}") for p in sorted(front)]
    assert places == sorted(places)
    solutions = yaml.safe_load((runs.folder / "optimization_results.yaml").read_text())["solutions"]
    assert sorted(s["values"] for s in solutions) == sorted(front)


@pytest.mark.filterwarnings("ignore:BruteForceSampler is experimental")
def test_every_combination_once_is_enough(runs: Runs) -> None:
    """Optuna stops a loop of its own then, and there is none here."""
    search(runs, "optimizer.lr=0.01,0.1", n_trials=9, sampler={"_target_": "optuna.samplers.BruteForceSampler"})
    assert sorted(runs.lrs) == [0.01, 0.1]


def more(config: DictConfig, trial: Any) -> None:
    """A space with a condition."""
    if trial.suggest_categorical("optimizer", ["adamw"]) == "adamw":
        trial.suggest_float("optimizer.eps", 1e-9, 1e-7, log=True)


def test_a_space_of_ones_own_may_have_conditions(runs: Runs) -> None:
    """Its settings reach the run as the others do."""
    search(runs, "seed=7", n_trials=1, custom_search_space=f"{__name__}.more")
    (trial,) = trials(runs.folder)
    assert set(trial.params) == {"optimizer.lr", "optimizer", "optimizer.eps"}
    eps = f"optimizer.eps={trial.params['optimizer.eps']}"
    assert trial.user_attrs["settings"][1:] == ["optimizer=adamw", eps, "seed=7"]
    with pytest.raises(UserError, match="suggests optimizer, which is set"):
        search(runs, "optimizer=muon", n_trials=2, custom_search_space=f"{__name__}.more")


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        ([], {"direction": "down"}, "hydra.sweeper.direction=down must be minimize or maximize"),
        ([], {"direction": ["minimize", "minimize"]}, "give one direction for each"),
        ([], {"n_trials": 0}, "hydra.sweeper.n_trials=0 must be a whole number"),
        ([], {"n_jobs": "two"}, "hydra.sweeper.n_jobs=two must be a whole number"),
        ([], {"max_failure_rate": 2}, "hydra.sweeper.max_failure_rate=2 must be"),
        ([], {"storage": "sqlite:///x.db"}, "hydra.sweeper.storage=sqlite:///x.db must be a file"),
        ([], {"sampler": part("sampler/tpe") | {"seed": -1}}, "hydra.sweeper.sampler.seed=-1 must be"),
        ([], {"sampler": {"_target_": "builtins.dict"}}, "not an Optuna sampler"),
        (["optimizer.lr=0.1"], {}, "nothing to search"),
        (["optimizer.lr=interval(1.0,0.1)"], {}, "low <= high"),
        ([], {"pruner": {"_target_": "builtins.dict"}}, "not an Optuna pruner"),
        ([], {"pruner": part("pruner/median"), "objective": "perf/mfu"}, "add hydra/sweeper/pruner=none"),
        (
            [],
            {"pruner": part("pruner/median"), "objective": ["val/bpb", "val/loss"], "direction": ["minimize"] * 2},
            "needs a single objective",
        ),
    ],
)
def test_a_search_that_cannot_be_is_told_and_leaves_nothing(
    words: list[str], settings: dict[str, Any], said: str, runs: Runs
) -> None:
    """Before a file is made or a run is begun."""
    with pytest.raises(UserError) as error:
        search(runs, *words, **settings)
    assert said in str(error.value) and not runs.folder.exists()


def test_a_search_whose_first_runs_are_refused_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through Hydra: what is searched is no setting, which shows when the first runs are planned."""
    bad = ["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=2", "balancing.rates=interval(0.1,1)"]
    assert sweep(tmp_path / "s", *bad) == 2
    said = capsys.readouterr().err
    assert "'balancing.rates' is not a setting" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_another_search_is_not_mixed_into_a_study(runs: Runs) -> None:
    """Optuna would take the study's directions, or stop in the middle."""
    search(runs, n_trials=1)
    other: list[tuple[list[str], dict[str, Any]]] = [
        (["optimizer.lr=interval(0.1,1)"], {}),
        (["optimizer.lr=0.1,0.2"], {}),
        ([], {"direction": "maximize"}),
    ]
    for words, settings in other:
        with pytest.raises(UserError, match=r"choose another sweep\.name"):
            search(runs, *words, n_trials=2, **settings)
    search(runs, "optimizer.lr=tag(log,interval(1e-3,0.1))", n_trials=2)
    assert runs.begun == [0, 1]
    (runs.folder / "study.journal").rename(runs.folder / "study.db")
    with pytest.raises(UserError, match="is a study of Optuna 2"):
        search(runs)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"settings":["', '"settings":["hydra.run.dir=/tmp/x","', "does more than choose settings"),
        ('{"job":0}', '{"job":"../.."}', "was not written by this program"),
        ('{"job":0}', '{"job":-1}', "was not written by this program"),
    ],
)
def test_a_command_in_the_file_chooses_settings_alone(before: str, after: str, said: str, runs: Runs) -> None:
    """Sweeps are handed on: going on with one must not run what its file says."""
    kill_at(runs, 1)
    with pytest.raises(Killed):
        search(runs)
    file = runs.folder / "study.journal"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    with pytest.raises(UserError, match=said):
        search(runs)
    assert runs.begun == [0]


def test_what_a_run_returns_is_a_value_pruned_or_failed() -> None:
    """Infinite or missing numbers would end the study."""
    seen = [outcome(returned, 1)[0].name for returned in (1.5, [1.5], None, "pruned")]
    assert seen == ["COMPLETE", "COMPLETE", "FAIL", "PRUNED"]
    assert outcome([1, 2], 2)[1] == [1.0, 2.0]
    for bad in (float("nan"), [float("inf"), 1.0], [1.0], "pruned", None, object()):
        assert outcome(bad, 2)[0].name == "FAIL"


def test_trials_are_launched_together_where_their_numbers_follow_each_other() -> None:
    """Launchers count on from the first."""
    jobs = [0, 1, 2, 5, 6, 9]
    made = batches([Unfinished(job, job, []) for job in jobs], 2)
    assert [[trial.job for trial in batch] for batch in made] == [[0, 1], [2], [5, 6], [9]]


def test_what_was_typed_again_is_the_users_own(runs: Runs) -> None:
    """A class of one's own on the command line needs no trust, nor does it when the search goes on."""
    own = "+callbacks.mine._target_=mine.Callback"
    kill_at(runs, 1)
    with pytest.raises(Killed):
        search(runs, own)
    with pytest.raises(UserError, match="does more than choose settings"):
        search(runs, n_trials=1)
    search(runs, own, n_trials=1)
    assert runs.begun == [0, 0]
