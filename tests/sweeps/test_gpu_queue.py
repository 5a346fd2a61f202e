"""``hydra/launcher=gpu_queue`` with real processes: accidents, places, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from s15erav3.__main__ import main
from tests.sweeps.parts import QUICK, accidents, contents, record, sweep
from tests.tiny import TINY, result

QUEUE = ["hydra/launcher=gpu_queue", "hydra.launcher.gpus=0", "hydra.launcher.cpu_slots=2"]
pytestmark = pytest.mark.slow


def test_24_jobs_of_which_three_meet_with_accidents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad value, an exception and a SIGKILL cost their own jobs alone, are told, and are all that is run again."""
    folder = tmp_path / "sweep"
    rates = [f"{0.001 * job:g}" for job in range(1, 25)]
    bad = [*rates[:5], "-1", *rates[6:]]
    plan = {rates[9]: ["raise", 4], rates[17]: ["kill", 4]}
    common = ["trainer.max_steps=4", "callbacks.checkpoint.every_n_steps=2", *QUEUE]
    common += accidents(tmp_path, plan, "optimizer.lr")
    assert sweep(folder, *common, f"optimizer.lr={','.join(bad)}") == 1
    said = capsys.readouterr().err
    assert "24 jobs, 21 done, 3 failed" in said
    assert "job 5 (optimizer.lr=-1) failed: optimizer.lr=-1 must be a number, greater than 0." in said
    assert "job 9 (optimizer.lr=0.01) failed: RuntimeError: an accident" in said
    assert "job 17 (optimizer.lr=0.018) failed: killed by SIGKILL" in said
    assert str(folder / "9" / "train.log") in said and "an accident" in (folder / "9" / "train.log").read_text()
    statuses = Counter(result(folder / str(job))["status"] for job in range(24))
    assert statuses == {"completed": 21, "failed": 3}
    first = contents(folder)

    (tmp_path / "plan.json").unlink()
    assert sweep(folder, *common, f"optimizer.lr={','.join(rates)}") == 0
    said = capsys.readouterr().err
    assert "24 jobs, 3 done, 21 skipped" in said
    assert said.count(" starts at CPU") == 3
    begins = [(key, step) for what, key, step, *_ in record(tmp_path) if what == "begin"]
    assert sorted(begins[-3:]) == [("0.006", 0), ("0.01", 2), ("0.018", 2)]
    now = contents(folder)
    untouched = [f for f in first if f.parts[len(folder.parts)] not in ("5", "9", "17", ".sweep", "multirun.yaml")]
    assert len(untouched) > 21 * 8 and all(now[file] == first[file] for file in untouched)
    assert {result(folder / str(job))["steps"] for job in range(24)} == {4}
    assert (folder / "9" / "train.log").read_text().count("--- ") == 2


def test_jobs_see_their_own_gpu_alone(tmp_path: Path) -> None:
    """Two jobs on one GPU while another idles, or a job that sees every GPU and takes the first."""
    settings = ["trainer.max_steps=4", "seed=range(6)", "hydra/launcher=gpu_queue", "hydra.launcher.gpus=[0,3,5]"]
    settings += ["hydra.launcher.threads_per_job=1", *accidents(tmp_path, {}, "seed")]
    assert sweep(tmp_path / "sweep", *settings) == 0
    seen = sorted(record(tmp_path), key=lambda line: line[3])
    assert len({line[4] for line in seen}) == 6  # a process for each
    assert {line[6] for line in seen} == {"1"} and {line[5] for line in seen} == {"0", "3", "5"}
    busy: Counter[str] = Counter()
    for what, *_, gpu, _ in seen:
        busy[gpu] += 1 if what == "begin" else -1
        assert max(busy.values()) <= 1


def started(folder: Path, *settings: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A sweep as a program of its own, with two jobs at work; and their processes."""
    program = subprocess.Popen(
        [sys.executable, "-m", "s15erav3", "train", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    began, deadline = time.time(), time.monotonic() + 300
    while time.monotonic() < deadline and program.poll() is None:
        at_work = [json.loads(file.read_text()) for file in folder.glob("*/progress.json")]
        fresh = [p["pid"] for p in at_work if p["time"] > began and p["step"] > p["first_step"]]
        if len(fresh) == 2:
            return program, fresh
        time.sleep(0.1)
    program.kill()
    pytest.fail("the jobs did not begin: " + "".join(program.communicate()))


def gone(processes: list[int]) -> bool:
    """Whether all processes end within some seconds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in processes):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_however_the_sweep_is_stopped_its_jobs_save_and_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After kill -9 of the program no job goes on alone. Ctrl-C, and the SIGTERM of service managers, go to its whole
    group: the jobs save all the same, and the status tells. What is left can be done."""
    folder = tmp_path / "sweep"
    settings = ["trainer.max_steps=40", "trainer.val_check_interval=40", "seed=1,2,3", *QUEUE]
    settings += [f"hydra.sweep.dir={folder}", *accidents(tmp_path, {"*": ["slow", 0]}, "seed")]
    program, processes = started(folder, "-m", *TINY, *QUICK, *settings)
    program.kill()
    program.communicate()
    assert gone(processes)
    assert [result(folder / job)["status"] for job in "01"] == ["interrupted"] * 2
    assert not (folder / "2").exists()

    program, processes = started(folder, f"sweep.resume={folder}", "trust=tests")
    os.killpg(program.pid, signal.SIGINT)
    _, said = program.communicate(timeout=120)
    assert program.returncode == 130, said
    assert gone(processes)
    assert "3 jobs, 2 stopped, 1 not begun" in said and f"train sweep.resume={folder}" in said
    steps = [result(folder / job)["steps"] for job in "01"]
    assert all(0 < step < 40 for step in steps)

    program, processes = started(folder, f"sweep.resume={folder}", "trust=tests")
    os.killpg(program.pid, signal.SIGTERM)
    _, said = program.communicate(timeout=120)
    assert program.returncode == 128 + signal.SIGTERM, said
    assert gone(processes)
    assert [result(folder / job)["reason"] for job in "01"] == ["stopped by SIGINT"] * 2
    later = [result(folder / job)["steps"] for job in "01"]
    assert all(step < more for step, more in zip(steps, later, strict=True))
    steps = later

    (tmp_path / "plan.json").unlink()
    assert main(["train", f"sweep.resume={folder}", "trust=tests"]) == 0
    assert "3 jobs, 3 done" in capsys.readouterr().err
    begins = {(key, step) for what, key, step, *_ in record(tmp_path) if what == "begin"}
    assert {("1", steps[0]), ("2", steps[1]), ("3", 0)} <= begins
