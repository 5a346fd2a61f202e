"""What a sweep tells while it runs and at its end, and how it passes signals on; without training anything."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from s15erav3.cli.hydra_setup import conf_dir
from s15erav3.sweeps import launcher
from s15erav3.sweeps.columns import fitting
from s15erav3.sweeps.label import head, label, varying
from s15erav3.sweeps.live_table import Board
from s15erav3.sweeps.plan import Sweep
from s15erav3.sweeps.planned import Planned
from s15erav3.sweeps.resume import Found
from s15erav3.sweeps.signals import Signals
from s15erav3.sweeps.slots import make_slots
from s15erav3.sweeps.summary import account
from tests.tiny import result


@cache
def composed() -> DictConfig:
    """conf/train.yaml, with Hydra's part."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", return_hydra_config=True)


def planned(folder: Path, number: int, found: Found | None = None) -> Planned:
    """A job of a sweep over seeds."""
    config = composed().copy()
    config.seed = number
    overrides = ["model=pico", f"seed={number}"]
    return Planned(number, overrides, config, folder / str(number), found or Found("fresh", "", {}))


def write(job: Planned, result: dict[str, Any] | None = None, progress: dict[str, Any] | None = None) -> None:
    """Files of a run."""
    (job.folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (job.folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(job.settings))
    for name, content in (("result", result), ("progress", progress)):
        if content is not None:
            (job.folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Console:
    """The program's console, which remembers what it was told."""
    console = Console(record=True, width=100, file=open(os.devnull, "w"), force_terminal=False)  # noqa: SIM115
    monkeypatch.setattr("s15erav3.terminal.console", console)
    monkeypatch.setattr("s15erav3.sweeps.live_table.console", console)
    return console


def test_the_table_shows_who_runs_and_how_it_goes(tmp_path: Path, said: Console) -> None:
    """Of a large sweep all that run are seen, with their figures; the times left follow from the steps done."""
    board = Board(make_slots([0, 1], 1, "auto", 1))
    jobs = [planned(tmp_path, number) for number in range(12)]
    board.add(jobs)
    for job, slot in zip(jobs, board.slots, strict=False):
        board.begun(job, slot)
        write(job, progress={"step": 60, "max_steps": 100, "first_step": 20, "seconds": 40.0, "val/bpb": 1.5})
        board.rows[job.number].look()
    assert board.rows[0].left() == pytest.approx(40.0)
    said.print(board.table())
    text = said.export_text()
    assert "seed=0" in text and "model=pico" not in text
    row = next(line for line in text.splitlines() if line.split()[:2] == ["1", "seed=1"])
    assert row.split()[2:] == ["running", "GPU", "1", "60/100", "1.5000", "0:00:40"]
    assert "0 of 12 ended, 2 running" in text and sum("waiting" in line for line in text.splitlines()) == 4
    write(jobs[0], {"status": "completed", "val/bpb": 1.25, "balance/maxvio_global": 0.5})
    write(jobs[1], {"status": "failed", "reason": "RuntimeError: no"})
    for job in jobs[:2]:
        board.ended(job)
    text = said.export_text()
    assert "[1/12] seed=0 done in 0:00:0" in text and "val/bpb 1.2500, MaxVio 0.500" in text
    assert "failed in" in text and "RuntimeError: no; 2 of 12 ended, 1 failed" in text


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_a_terminal(width: int) -> None:
    """One line for each job; what it sets is cut, and no figure is."""
    sets = "e16 loss_free lr=0.003 rate=0.01 n_routed_experts=16 seed=1"
    cells = ["3", sets, "running", "CPU 1", "12000/20000", "1.5000", "0.213", "1:12:40"]
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(fitting([(cells, "bold"), (["4", sets, "waiting", "", "", "", "", ""], "dim")], width))
    lines = console.export_text().splitlines()
    assert len(lines) == 3 and all(len(line) <= width for line in lines)
    shown = {"3", "running", "12000/20000", "1.5000", "1:12:40"} | ({"0.213", "CPU"} if width > 80 else set())
    assert shown <= set(lines[1].split()) and "e16 loss_free" in lines[1]


def test_a_job_has_a_name(tmp_path: Path) -> None:
    """A group's choice stands for itself, a setting goes by the end of its key; of a search, trials may be repeated."""
    job = planned(tmp_path, 2)
    job.config.hydra.runtime.choices = {"experts": "e16", "balancing": "loss_free"}
    job = job._replace(overrides=["experts=e16", "balancing=loss_free", "optimizer.lr=0.1", "seed=2", "model=pico"])
    told = label(job, varying([job.overrides, ["experts=e8", "model=pico"]]))
    assert told == "e16 loss_free lr=0.1 seed=2"
    assert head(job, 8) == "[3/8]"
    with open_dict(job.config):
        job.config.hydra.sweeper.max_batch_size = 2
        assert head(job, 4) == "[3]"
        job.config.hydra.sweeper = {"n_trials": 5}
        assert head(job, 1) == "[3/5]" and head(job._replace(number=5), 1) == "[6]"


@pytest.mark.parametrize(
    ("second", "status"),
    [
        ({"status": "completed", "val/bpb": 2.0}, 0),
        ({"status": "failed", "reason": "lr=-1 must be", "error": "UserError"}, 2),
        ({"status": "failed", "reason": "train/loss is nan", "error": "Diverged"}, 2),
        ({"status": "failed", "reason": "RuntimeError: no", "error": "RuntimeError"}, 1),
        ({"status": "interrupted", "reason": "stopped by SIGTERM"}, 1),
        ({"status": "completed"}, 2),  # without the objective
        (None, 1),
    ],
)
def test_the_account_is_read_from_the_folders(
    second: dict[str, Any] | None, status: int, tmp_path: Path, said: Console
) -> None:
    """Jobs that ran in other processes leave nothing but folders, and a sweep that lacks a job is not complete."""
    sweep = Sweep(lambda folder: None)
    sweep.folder = tmp_path
    sweep.jobs = {0: planned(tmp_path, 0, Found("done", "", {})), 1: planned(tmp_path, 1)}
    write(sweep.jobs[0], {"status": "completed", "val/bpb": 1.0})
    if second is not None:
        write(sweep.jobs[1], second)
    assert account(sweep, []) == status
    text = said.export_text()
    assert "2 jobs, " in text and "1 skipped" in text
    assert ("sweep.resume=" in text) == (status != 0)
    if second and "reason" in second:
        assert f"job 1 (seed=1) {'stopped' if second['status'] == 'interrupted' else 'failed'}: " in text
        assert second["reason"] in text


def test_a_failure_that_left_no_trace_counts(tmp_path: Path, said: Console) -> None:
    """A job refused in its own process writes nothing into the folder, which may hold an older result."""
    sweep = Sweep(lambda folder: None)
    sweep.folder, sweep.jobs = tmp_path, {0: planned(tmp_path, 0)}
    write(sweep.jobs[0], {"status": "completed", "val/bpb": 1.0})
    assert account(sweep, [RuntimeError("no")]) == 1


def test_a_process_that_could_not_tell_is_told_of(tmp_path: Path) -> None:
    """Killed before it was a run, within its first steps, or on its second attempt: never a run that seems to go on."""
    before = planned(tmp_path, 0)
    before.folder.mkdir()
    launcher.account(before, ended(-signal.SIGKILL), 3.0, stopped=False)
    assert result(before.folder)["reason"] == "killed by SIGKILL" and (before.folder / ".hydra/config.yaml").exists()
    within = planned(tmp_path, 1)
    write(within, progress={"step": 7, "max_steps": 9, "val/bpb": 2.0})
    launcher.account(within, ended(1), 3.0, stopped=True)
    told = result(within.folder)
    assert (told["status"], told["steps"], told["max_steps"], told["val/bpb"]) == ("interrupted", 7, 9, 2.0)
    old = {"status": "interrupted", "reason": "stopped by SIGINT", "steps": 4}
    again = planned(tmp_path, 2, Found("resume", "", old))
    write(again, old)
    launcher.account(again, ended(-signal.SIGKILL), 3.0, stopped=False)
    assert (result(again.folder)["status"], result(again.folder)["steps"]) == ("failed", 4)
    itself = planned(tmp_path, 3)
    write(itself, {"status": "completed"})
    launcher.account(itself, ended(0), 3.0, stopped=False)
    assert result(itself.folder) == {"status": "completed"}


def test_a_run_that_somebody_else_resumed_is_left_alone(tmp_path: Path) -> None:
    """The job refuses and ends; its failure must not be written over a run that is at work."""
    theirs = planned(tmp_path, 0, Found("resume", "", {}))
    write(
        theirs,
        progress={"step": 7, "max_steps": 9, "pid": os.getpid(), "host": socket.gethostname(), "time": time.time()},
    )
    launcher.account(theirs, ended(2), 3.0, stopped=False)
    assert not (theirs.folder / "result.json").exists()


def ended(exit_code: int) -> SimpleNamespace:
    """A process that has ended."""
    return SimpleNamespace(exitcode=exit_code, pid=-1)


def test_a_second_ctrl_c_kills_what_the_first_did_not_end(said: Console) -> None:
    """A job that hangs must not keep the user waiting; what it has started goes with it."""
    script = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout and process.stdout.readline()
    with Signals() as signals:
        signals.pass_on(process)
        assert not signals.received
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # at once: the same request, as service managers make it
        time.sleep(1.1)
        assert process.poll() is None and signals.received == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGKILL and signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "a second signal kills them" in said.export_text()
