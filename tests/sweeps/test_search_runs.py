"""Searches of real, tiny runs: killed and continued, pruned under every launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s15erav3.__main__ import main
from s15erav3.runs.checkpoint import load_checkpoint
from s15erav3.runs.progress import is_alive
from tests.sweeps.fake_run import trials
from tests.sweeps.parts import QUICK, accidents, record
from tests.tiny import TINY, result

ROOT = Path(__file__).parent.parent.parent
COMMAND = ["train", "-m", *TINY, *QUICK, "trainer.max_steps=8", "hydra/sweeper=optuna", "sweep.name=s"]
S = Path("multirun/s")


def wait_until(true: Callable[[], bool], seconds: float = 300) -> None:
    """Look ten times a second."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def progress(job: str) -> dict[str, Any]:
    """What a run tells of itself."""
    file = S / job / "progress.json"
    return json.loads(file.read_text()) if file.exists() else {"step": -1}


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_and_prunes_what_is_hopeless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two at once in processes of their own; sweep and jobs are killed within the second pair of runs."""
    monkeypatch.chdir(tmp_path)
    command = [*COMMAND, "hydra/launcher=gpu_queue", "hydra.launcher.gpus=0", "hydra.launcher.cpu_slots=2"]
    command += ["hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler.seed=0"]
    command += ["hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=2"]
    command += [
        "optimizer.lr=0.004,0.005,1e-7",
        *accidents(tmp_path, {"2": ["hold", 4], "3": ["hold", 4]}, "hydra:job.num"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = subprocess.Popen(
        [sys.executable, "-m", "s15erav3", *command], env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: sum(what == "hold" for what, *_ in record(tmp_path)) == 2)
        os.killpg(program.pid, signal.SIGSTOP)  # so that neither the sweep nor its jobs see the other's end
        for job in "23":
            os.kill(progress(job)["pid"], signal.SIGKILL)
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    wait_until(lambda: not any(is_alive(progress(job)) for job in "23"))
    assert [t.state.name for t in trials(S)] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING"]
    (tmp_path / "plan.json").unlink()
    assert main(command) == 0
    said = capsys.readouterr().err
    found = trials(S)
    assert [t.user_attrs["job"] for t in found] == list(range(6))
    pruned = [t.number for t in found if t.state.name == "PRUNED"]
    assert pruned and {t.state.name for t in found} == {"COMPLETE", "PRUNED"}
    assert all(found[n].params["optimizer.lr"] == 1e-7 for n in pruned)
    assert "best: run" in said  # what was pruned before the kill is skipped now
    for t in found:
        run = result(S / str(t.number))
        assert run["status"] == ("pruned" if t.number in pruned else "completed")
        assert t.intermediate_values[4] > t.value or t.params["optimizer.lr"] == 1e-7
        assert run["steps"] == (4 if t.number in pruned else 8) and t.value == pytest.approx(run["val/bpb"])
    begins = [(int(key), step) for what, key, step, *_ in record(tmp_path) if what == "begin"]
    assert sorted(job for job, _ in begins) == [0, 1, 2, 2, 3, 3, 4, 5]
    assert sum(step >= 3 for _, step in begins) == 2  # those that were killed, from their checkpoints
    capsys.readouterr()
    assert main(["compare", str(S)]) == 0
    assert f"{len(pruned)} pruned" in "".join(capsys.readouterr())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_pruned_run_has_saved_and_can_be_trained_to_its_end(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every run is hopeless here. The one that is resumed by hand becomes the run that nobody ended."""
    monkeypatch.chdir(tmp_path)
    place = f"hydra.sweep.dir='{tmp_path / S}'"  # workers of joblib outlive a test, in the folder of an earlier one
    command = [*COMMAND, place, f"hydra/launcher={launcher}", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"]
    command += ["hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner", "+hydra.sweeper.pruner.upper=0"]
    assert main([*command, "optimizer.lr=0.004,0.005"]) == 0
    assert "2 jobs, 2 pruned" in capfd.readouterr().err
    for job in "01":
        run = result(S / job)
        assert (run["status"], run["steps"]) == ("pruned", 4) and "(ThresholdPruner)" in run["reason"]
        assert load_checkpoint(S / job / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert [(t.state.name, list(t.intermediate_values)) for t in trials(S)] == [("PRUNED", [4])] * 2
    if launcher == "joblib":
        return
    assert main(["train", f"resume={S / '0'}"]) == 0
    lr = f"optimizer.lr={trials(S)[0].params['optimizer.lr']}"
    assert main(["train", *TINY, *QUICK, "trainer.max_steps=8", lr, "hydra.run.dir=peaceful"]) == 0
    ended, peaceful = result(S / "0"), result(Path("peaceful"))
    assert ended["status"] == "completed" and ended["val/bpb"] == peaceful["val/bpb"]
    assert main(["report", str(S / "1")]) == 0
    assert "A search pruned the run" in (S / "1" / "report.html").read_text()
