"""Sweeps on a Slurm cluster: jobs that fail, are killed, requeued or out of time; commands that do not wait."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from s15erav3.__main__ import main
from tests.cluster.commands import command, ended, stands, steps
from tests.cluster.slurm import Slurm, ask, until
from tests.sweeps.parts import accidents, record, sweep
from tests.tiny import result

pytestmark = pytest.mark.slow
SMALL = [
    *("hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"),
    *("hydra.launcher.mem_gb=1", "trainer.max_steps=8", "callbacks.telemetry.every_n_steps=1"),
]


def names(folder: Path) -> dict[int, str]:
    """The names of a sweep's jobs in the queue."""
    return {int(n): name for n, (name, _) in json.loads((folder / ".sweep" / "queue.json").read_text()).items()}


def logs(folder: Path, job: int) -> str:
    """What a job of a sweep has said, each time it ran."""
    return "".join(file.read_text() for file in (folder / ".submitit" / names(folder)[job]).glob("*_log.out"))


def test_an_array_with_a_job_that_fails_and_one_that_is_killed(
    slurm: Slurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The account names both; the same command again submits these two and no other, and nothing warns of sacct."""
    folder = tmp_path / "sweep"
    plan = {2: ["raise", 4], 3: ["kill", 5]}
    settings = [*SMALL, "seed=1,2,3", *accidents(tmp_path, plan, "seed")]
    assert sweep(folder, *settings) == 1
    said = capfd.readouterr().err
    assert "3 jobs submitted to Slurm, 0 in its queue already" in said
    assert "3 jobs, 1 done, 2 failed" in said
    assert "job 1 (seed=2) failed: RuntimeError: an accident" in said
    first = names(folder)
    assert f"job 2 (seed=3) failed: its Slurm job {first[2]} ended without a result; see" in said
    assert "sacct" not in said
    assert result(folder / "2")["error"] == "Killed"
    assert first == {n: f"{first[0].partition('_')[0]}_{n}" for n in range(3)}

    (tmp_path / "plan.json").unlink()
    assert main(["train", f"sweep.resume={folder}", "trust=tests"]) == 0
    said = capfd.readouterr().err
    assert "2 jobs submitted" in said and "3 jobs, 2 done, 1 skipped" in said
    assert names(folder)[0] == first[0] and names(folder)[1] != first[1]
    begins = [(key, step) for what, key, step, *_ in record(tmp_path) if what == "begin"]
    assert sorted(begins) == [("1", 0), ("2", 0), ("2", 3), ("3", 0), ("3", 4)]
    assert [steps(folder / str(job)) for job in range(3)] == [[*range(1, 9)]] * 3


def test_a_job_that_is_requeued_or_runs_out_of_time_continues_at_its_step(slurm: Slurm, tmp_path: Path) -> None:
    """Once requeued by an operator, once by submitit after SIGUSR2, near the time limit; one account at the end."""
    folder = tmp_path / "sweep"
    limits = ["hydra.launcher.timeout_min=30"]
    with command(folder, *SMALL, *limits, "seed=1,2", *accidents(tmp_path, {"*": ["hold", 4]}, "seed")) as waits:
        until(lambda: stands(tmp_path, "1") and stands(tmp_path, "2"), 300)
        subprocess.run(["scontrol", "requeue", names(folder)[0]], check=True)
        subprocess.run(["scancel", "--signal=USR2", names(folder)[1]], check=True)  # as Slurm does near the limit
        time.sleep(1)
        (tmp_path / "plan.json").unlink()
        said = ended(waits, 0)
    assert "2 jobs, 2 done" in said
    begins = sorted((key, step) for what, key, step, *_ in record(tmp_path) if what == "begin")
    assert begins == [("1", 0), ("1", 4), ("2", 0), ("2", 4)]
    for job in range(2):
        assert steps(folder / str(job)) == [*range(1, 9)]
        assert ("Caught signal SIGUSR2" in logs(folder, job)) == (job == 1)


def test_a_job_at_its_time_limit_continues_at_its_step(slurm: Slurm, tmp_path: Path) -> None:
    """Slurm itself sends SIGUSR2, and SIGCONT with it, up to a minute earlier than asked: two leave one to begin."""
    folder = tmp_path / "sweep"
    limits = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=20"]
    with command(folder, *SMALL, *limits, "seed=1", *accidents(tmp_path, {"*": ["hold", 4]}, "seed")) as waits:
        until(lambda: stands(tmp_path, "1"), 300)
        until(lambda: "Bypassing signal SIGCONT" in logs(folder, 0), 180)
        (tmp_path / "plan.json").unlink()
        assert "1 jobs, 1 done" in ended(waits, 0)
    assert [(what, step) for what, _, step, *_ in record(tmp_path) if what == "begin"] == [("begin", 0), ("begin", 4)]
    assert "Caught signal SIGUSR2" in logs(folder, 0)
    assert steps(folder / "0") == [*range(1, 9)]


def test_jobs_and_their_sweep_outlive_the_scheduler(slurm: Slurm, tmp_path: Path) -> None:
    """Its daemon is killed and started again while jobs run: none is lost, and none begins twice."""
    folder = tmp_path / "sweep"
    with command(folder, *SMALL, "seed=1,2", *accidents(tmp_path, {"*": ["hold", 4]}, "seed")) as waits:
        until(lambda: stands(tmp_path, "1") and stands(tmp_path, "2"), 300)
        slurm.kill_controller()
        try:
            until(lambda: "Slurm does not answer; its jobs go on" in str(waits.stderr and waits.stderr.readline()), 120)
        finally:
            slurm.start_controller()
        until(lambda: names(folder)[0] in ask("squeue", "--noheader", "--array", "--format=%i"), 60)
        (tmp_path / "plan.json").unlink()
        assert "2 jobs, 2 done" in ended(waits, 0)
    assert sorted((key, step) for what, key, step, *_ in record(tmp_path) if what == "begin") == [("1", 0), ("2", 0)]
    assert [steps(folder / str(job)) for job in range(2)] == [[*range(1, 9)]] * 2


def test_ctrl_c_leaves_the_jobs_in_the_queue_and_a_resumed_sweep_waits_for_them(slurm: Slurm, tmp_path: Path) -> None:
    """What runs is not submitted again; nor is what is complete."""
    folder = tmp_path / "sweep"
    holding = accidents(tmp_path, {"2": ["hold", 4]}, "seed")
    with command(folder, *SMALL, "seed=1,2", *holding) as waits:
        until(lambda: stands(tmp_path, "2") and (folder / "0" / "result.json").exists(), 300)
        waits.send_signal(signal.SIGINT)
        said = ended(waits, 130)
    submitted = names(folder)
    assert "jobs in the queue of Slurm" in said and f"scancel {submitted[0].partition('_')[0]}" in said
    assert f"train sweep.resume={folder}" in said
    assert submitted[1] in ask("squeue", "--noheader", "--array", "--format=%i").split()

    with command(folder, *SMALL, "seed=1,3", *holding) as waits:
        assert f"is in the queue as {submitted[1]} with other settings" in ended(waits, 2)
    with command(folder, "trust=tests", resume=True) as waits:
        until(lambda: "jobs submitted" in str(waits.stderr and waits.stderr.readline()), 300)
        (tmp_path / "plan.json").unlink()
        said = ended(waits, 0)
    assert "2 jobs, 1 done, 1 skipped" in said
    assert names(folder) == submitted
    assert [key for what, key, *_ in record(tmp_path) if what == "begin"].count("2") == 1


def test_a_sweep_can_be_submitted_watched_and_collected(
    slurm: Slurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """``sweep.wait=false`` exits at once; ``compare`` shows how far the jobs are; ``sweep.resume`` collects."""
    folder = tmp_path / "sweep"
    assert sweep(folder, *SMALL, "seed=1,2", "sweep.wait=false", *accidents(tmp_path, {"*": ["hold", 4]}, "seed")) == 0
    said = capfd.readouterr().err
    assert "2 jobs submitted to Slurm" in said and f"train sweep.resume={folder}" in said
    until(lambda: stands(tmp_path, "1") and stands(tmp_path, "2"), 300)
    assert main(["compare", str(folder)]) == 0
    shown = "".join(capfd.readouterr())
    assert "2 running" in shown, shown
    with command(folder, "trust=tests", resume=True) as waits:
        said = "0 jobs submitted to Slurm, 2 in its queue already"
        until(lambda: said in str(waits.stderr and waits.stderr.readline()), 300)
        (tmp_path / "plan.json").unlink()
        assert "2 jobs, 2 done" in ended(waits, 0)


def test_what_slurm_refuses_and_a_folder_that_the_nodes_do_not_share(
    slurm: Slurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One sentence each. A node that does not see the folder can write no log there."""
    folder = tmp_path / "sweep"
    assert sweep(folder, *SMALL, "seed=1,2", "hydra.launcher.partition=nope") == 2
    said = capfd.readouterr().err
    assert said.count("error: ") == 1 and "Traceback" not in said
    assert "invalid partition specified: nope" in said and "hydra.launcher has partition=nope" in said

    blind = ["hydra.launcher.setup=['exit 1']", "+hydra.launcher.additional_parameters.output=/dev/null"]
    assert sweep(folder, *SMALL, "seed=1,2", *blind) == 1
    said = capfd.readouterr().err
    assert "2 jobs, 2 failed" in said and "all nodes must share this folder" in said
