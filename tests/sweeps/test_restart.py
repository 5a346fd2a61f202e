"""A sweep stopped, failed or repeated, in this process: what every launcher has in common."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import s15erav3
from s15erav3.__main__ import main
from tests.sweeps.parts import QUICK, accidents, contents, record, sweep
from tests.tiny import TINY, result


@pytest.mark.slow
def test_only_what_is_missing_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Complete jobs stay untouched, a failed one goes on from its checkpoint, one without begins anew; a sweep of
    other settings in the same folder is refused, and nothing of it is written."""
    folder = tmp_path / "a sweep"
    settings = ["trainer.max_steps=4", "seed=1,2,3", *accidents(tmp_path, {2: ["raise", 4], 3: ["raise", 2]}, "seed")]
    assert sweep(folder, *settings) == 1
    said = capsys.readouterr().err
    assert "3 jobs, 1 done, 2 failed" in said and f"sweep.resume='{folder}'" in said
    assert "job 1 (seed=2) failed: RuntimeError: an accident" in said
    first = contents(folder)

    assert sweep(folder, *settings, "optimizer.lr=0.5") == 2
    assert "optimizer.lr=0.004, here optimizer.lr=0.5" in capsys.readouterr().err
    assert sweep(folder, "trainer.max_steps=4", "seed=one") == 2
    assert contents(folder) == first

    (tmp_path / "plan.json").unlink()
    assert main(["train", f"sweep.resume={folder}", "trust=tests"]) == 0
    assert "3 jobs, 2 done, 1 skipped" in capsys.readouterr().err
    begins = [(key, step) for what, key, step, *_ in record(tmp_path) if what == "begin"]
    assert begins == [("1", 0), ("2", 0), ("3", 0), ("2", 3), ("3", 0)]
    now = contents(folder)
    assert all(now[file] == first[file] for file in first if file.is_relative_to(folder / "0"))
    aside = folder / ".superseded" / "2-1"
    assert all(now[aside / f.relative_to(folder / "2")] == first[f] for f in first if f.is_relative_to(folder / "2"))
    assert [result(folder / str(job))["status"] for job in range(3)] == ["completed"] * 3

    assert sweep(folder, *settings) == 0
    assert "3 jobs, 3 skipped" in capsys.readouterr().err
    assert {f: c for f, c in contents(folder).items() if ".sweep" not in f.parts} == {
        f: c for f, c in now.items() if ".sweep" not in f.parts
    }


@pytest.mark.slow
def test_a_run_of_other_code_is_kept_until_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of work are never thrown away unasked; nor are results of two versions put together in silence."""
    monkeypatch.chdir(tmp_path)
    command = ["sweep.name=mine", "trainer.max_steps=1", "seed=1"]
    folder = tmp_path / "multirun" / "mine"
    assert sweep(folder, *command) == 0
    before = contents(folder / "0")
    for place in ("runs.result", "sweeps.resume"):
        monkeypatch.setattr(f"s15erav3.{place}.code", lambda: "other")
    capsys.readouterr()
    assert sweep(folder, *command) == 0
    said = capsys.readouterr().err
    assert "1 skipped" in said and "job 0: kept, although trained by different code; add sweep.code=retrain" in said
    assert contents(folder / "0") == before
    assert sweep(folder, *command, "sweep.code=again") == 2
    assert "sweep.code=again must be keep or retrain" in capsys.readouterr().err
    assert sweep(folder, *command, "sweep.code=retrain") == 0
    assert "starts again: it was trained by different code" in capsys.readouterr().err
    assert result(folder / "0")["code"] == "other" != result(folder / ".superseded" / "0-1")["code"]


@pytest.mark.slow
def test_an_objective_is_told_to_the_sweeper_and_a_wrong_one_to_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt metric must not look like a sweep that went well."""
    assert sweep(tmp_path, "trainer.max_steps=1", "seed=1", "sweep.objective=val/bbp") == 2
    said = capsys.readouterr().err
    assert (
        "sweep.objective=val/bbp is not a metric of result.json: did you mean 'val/bpb'" in said and "1 failed" in said
    )
    assert sweep(tmp_path, "trainer.max_steps=1", "seed=1", "sweep.objective=[val/bpb,balance/maxvio_global]") == 0
    assert "1 skipped" in capsys.readouterr().err


def test_a_bad_sweep_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sweepers write multirun.yaml before they look at the jobs."""
    for bad, words in (
        (["seeds=1,2"], "'seeds' is not a setting"),
        (["hydra/launcher=gpu_queue", "hydra.launcher.gpus=-2"], "hydra.launcher.gpus=-2"),
        (["sweep.objective=3"], "sweep.objective=3 must be a metric"),
        (["balancing=loss_free,los_free"], "los_free"),
    ):
        assert sweep(tmp_path / "sweep", *bad) == 2
        said = capsys.readouterr().err
        assert words in said and len(said.splitlines()) == 1
        assert not (tmp_path / "sweep").exists()


def test_resuming_what_is_no_sweep_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, status 2, nothing written."""
    for arguments in (
        [f"sweep.resume={tmp_path / 'none'}"],
        [f"sweep.resume={tmp_path}"],
        ["sweep.resume="],
        ["resume=last", f"sweep.resume={tmp_path}"],
    ):
        assert main(["train", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_command_is_remembered_with_the_folder(tmp_path: Path) -> None:
    """``sweep.resume`` works for every sweeper and launcher, as it does not need multirun.yaml."""
    assert sweep(tmp_path, "seed=-1,-2") == 2
    kept = json.loads((tmp_path / ".sweep" / "command.json").read_text())
    assert kept["folder"] == str(Path.cwd()) and kept["arguments"][-1] == "seed=-1,-2"


@pytest.mark.slow
@pytest.mark.parametrize(("what", "number"), [("SIGINT", 2), ("val SIGTERM", 15)])
def test_a_signal_in_the_last_step_of_a_job_ends_the_sweep(what: str, number: int, tmp_path: Path) -> None:
    """The job is complete, and no other begins; the same command goes on with the next."""
    command = [sys.executable, "-m", "s15erav3", "train", "-m", *TINY, *QUICK, "trainer.max_steps=3", "seed=1,2,3"]
    command += ["hydra.sweep.dir=s", *accidents(tmp_path, {2: [what, 3]}, "seed")]
    package = str(Path(s15erav3.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 128 + number, run.stderr
    assert "[1/3] seed=1" in run.stderr and "[2/3] seed=2" in run.stderr and "[3/3]" not in run.stderr
    assert "3 jobs, 2 done, 1 not begun" in run.stderr and "Traceback" not in run.stderr
    assert f"stopped by {what.split()[-1]}; resume with:" in run.stderr
    assert [result(tmp_path / "s" / str(job))["status"] for job in range(2)] == ["completed"] * 2
    assert not (tmp_path / "s" / "2").exists()
    begins = [(key, step) for told, key, step, *_ in record(tmp_path) if told == "begin"]
    assert begins == [("1", 0), ("2", 0)]
