"""Sweeps on a Ray cluster of two nodes: jobs that fail or lose their process or node; what cannot run is refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s15erav3.__main__ import main
from s15erav3.sweeps import ray_cluster, ray_worker
from tests.cluster.commands import command, ended, stands, steps
from tests.cluster.slurm import free_port, until
from tests.conftest import ROOT
from tests.sweeps.parts import accidents, record, sweep
from tests.tiny import result

pytest.importorskip("ray", reason="no Ray here (extra s15erav3[ray])")
pytestmark = pytest.mark.slow
SMALL = ["hydra/launcher=ray", "trainer.max_steps=8", "callbacks.telemetry.every_n_steps=1"]
CPU = [*SMALL, "hydra.launcher.num_gpus=0"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node, and one with a GPU in name."""
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        nodes.add_node(num_cpus=1, num_gpus=1)
        patch.setenv("RAY_ADDRESS", nodes.address)
        try:
            yield nodes
        finally:
            nodes.shutdown()
            signal.signal(signal.SIGTERM, before)  # a node sets its own in this process, and other tests come after


def begins(tmp_path: Path) -> list[tuple[str, int]]:
    """Key and step of each time that a job began."""
    return sorted((key, step) for what, key, step, *_ in record(tmp_path) if what == "begin")


def process(tmp_path: Path, key: str) -> int:
    """The process of the job that stands at its step."""
    return int(next(line[4] for line in record(tmp_path) if line[:2] == ["hold", key]))


def test_three_jobs_of_which_one_fails(cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The others end, each in a process of its own; ``compare`` reads them; a resumed sweep runs what failed alone."""
    folder = tmp_path / "sweep"
    assert sweep(folder, *CPU, "seed=1,2,3", *accidents(tmp_path, {"2": ["raise", 4]}, "seed")) == 1
    said = capfd.readouterr().err
    assert "3 jobs, 2 done, 1 failed" in said and "Traceback" not in said
    assert f"job 1 (seed=2) failed: RuntimeError: an accident (see {folder / '1' / 'train.log'})" in said
    assert f"starts at {socket.gethostname()}" in said
    assert "an accident" in (folder / "1" / "train.log").read_text()
    assert len({line[4] for line in record(tmp_path)}) == 3
    assert {tuple(line[5:]) for line in record(tmp_path)} == {("", "1")}  # no GPU, one thread
    assert main(["compare", str(folder)]) == 0
    shown = "".join(capfd.readouterr())
    assert "2 completed" in shown and "1 failed" in shown, shown

    (tmp_path / "plan.json").unlink()
    assert main(["train", f"sweep.resume={folder}", "trust=tests"]) == 0
    assert "3 jobs, 1 done, 2 skipped" in capfd.readouterr().err
    assert begins(tmp_path) == [("1", 0), ("2", 0), ("2", 3), ("3", 0)]
    assert [steps(folder / str(job)) for job in range(3)] == [[*range(1, 9)]] * 3


def test_a_job_that_loses_its_process_or_its_node_continues_at_its_step(cluster: Any, tmp_path: Path) -> None:
    """Once by SIGKILL, once with its node; each step is there once, and the account has nothing to tell."""
    folder, lost = tmp_path / "sweep", cluster.add_node(num_cpus=1, resources={"third": 1})
    options = "+hydra.launcher.options.resources.third=0.1"
    with command(folder, *CPU, "seed=1,2", options, *accidents(tmp_path, {"1": ["hold", 4]}, "seed")) as waits:
        until(lambda: stands(tmp_path, "1"), 300)
        os.kill(process(tmp_path, "1"), signal.SIGKILL)
        until(lambda: [key for key, _ in begins(tmp_path)].count("1") == 2, 300)
        cluster.remove_node(lost, allow_graceful=False)
        fresh = cluster.add_node(num_cpus=1, resources={"third": 1})
        (tmp_path / "plan.json").unlink()
        said = ended(waits, 0)
    cluster.remove_node(fresh)
    assert "seed=1: its process was killed; started again, 1 of 3" in said
    assert "seed=1: its node was lost; started again, 2 of 3" in said
    assert "2 jobs, 2 done" in said and "raylet" not in said
    assert begins(tmp_path) == [("1", 0), ("1", 3), ("1", 3), ("2", 0)]
    assert [steps(folder / str(job)) for job in range(2)] == [[*range(1, 9)]] * 2
    assert result(folder / "0")["resumed"]


def test_a_job_that_is_lost_every_time_is_given_up(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is in the account, with its steps, and the other one ends."""
    folder = tmp_path / "sweep"
    plan = {"1": ["kill", 5]}
    again = "hydra.launcher.max_retries=1"
    assert sweep(folder, *CPU, again, "seed=1,2", *accidents(tmp_path, plan, "seed")) == 1
    said = capfd.readouterr().err
    assert "2 jobs, 1 done, 1 failed" in said
    assert "job 0 (seed=1) failed: its process was killed, 2 times" in said
    assert begins(tmp_path) == [("1", 0), ("1", 4), ("2", 0)]
    assert result(folder / "0")["error"] == "Killed" and result(folder / "0")["steps"] > 0


def test_ctrl_c_lets_jobs_save_and_kill_9_of_the_command_ends_them(cluster: Any, tmp_path: Path) -> None:
    """Nothing goes on alone, and nothing is lost but the steps since the last checkpoint."""
    folder = tmp_path / "sweep"
    slow = [*accidents(tmp_path, {"*": ["slow", 0]}, "seed"), "trainer.max_steps=20", "trainer.val_check_interval=20"]
    slow += ["callbacks.checkpoint.every_n_steps=100"]  # so that Ctrl-C alone has saved
    with command(folder, *CPU, "seed=1,2,3", *slow) as waits:
        until(lambda: len(begins(tmp_path)) == 2, 300)
        time.sleep(3)
        waits.send_signal(signal.SIGINT)
        said = ended(waits, 130)
    assert "3 jobs, 2 stopped, 1 not begun" in said and "stopped by SIGINT" in said, said
    begun = [folder / str(int(key) - 1) for key, _ in begins(tmp_path)]
    assert [result(run)["status"] for run in begun] == ["interrupted"] * 2
    assert sum((folder / job / ".hydra").exists() for job in "012") == 2
    saved = [result(run)["steps"] for run in begun]
    assert all(saved)

    with command(folder, "trust=tests", resume=True) as waits:
        until(lambda: len(begins(tmp_path)) == 4, 300)
        waits.kill()
        waits.wait()
    ours = {int(line[4]) for line in record(tmp_path)}
    until(lambda: not any(Path(f"/proc/{number}").exists() for number in ours), 60)

    (tmp_path / "plan.json").unlink()
    assert main(["train", f"sweep.resume={folder}", "trust=tests"]) == 0
    assert {(str(int(run.name) + 1), step) for run, step in zip(begun, saved, strict=True)} <= set(begins(tmp_path))
    assert [steps(folder / job) for job in "012"] == [[*range(1, 21)]] * 3


def test_jobs_share_a_gpu_and_see_no_other(cluster: Any, tmp_path: Path) -> None:
    """``num_gpus=auto`` is 1 where a node has one, and 0.5 lets two jobs share it."""
    for number, gpus in enumerate(("auto", "0.5")):
        where = tmp_path / str(number)
        where.mkdir()
        settings = [*SMALL, "seed=1,2", f"hydra.launcher.num_gpus={gpus}", "hydra.launcher.num_cpus=0.5"]
        plan = {"*": ["hold", 4]} if gpus == "0.5" else {}
        with command(where / "sweep", *settings, *accidents(where, plan, "seed")) as waits:
            if plan:
                until(lambda where=where: stands(where, "1") and stands(where, "2"), 300)  # type: ignore[misc]
            (where / "plan.json").unlink()
            assert "2 jobs, 2 done" in ended(waits, 0)
        assert {line[5] for line in record(where)} == {"0"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["num_cpus=64"], "no node of the Ray cluster has what a job asks for (CPU 64;"),
        (["num_gpus=3"], "lower hydra.launcher.num_cpus, num_gpus or options"),
        (["+options.resources.fast=1"], "fast 1; 2 nodes, the most of one is CPU 1, fast 0"),
        (["+options.nope=1"], "hydra.launcher.options={'nope': 1} cannot be used: Invalid option keyword nope"),
        (["num_cpus=0"], "hydra.launcher.num_cpus=0 must be"),
        (["num_gpus=many"], "hydra.launcher.num_gpus=many must be"),
        (["address=nonsense"], "hydra.launcher.address=nonsense cannot be used (ValueError: Invalid address format"),
        (["address='ray://127.0.0.1:{port}'"], "is that of Ray's client, which cannot be used; give HOST:PORT of a"),
        (["address='127.0.0.1:{port}'"], "no Ray cluster answers there within 4 s; give HOST:PORT of a running head"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(
    cluster: Any,
    settings: list[str],
    sentence: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With status 2 and within seconds; nothing has run."""
    monkeypatch.setattr(ray_cluster, "PATIENCE", 4.0 if "address=" in settings[0] else 30.0)
    with free_port() as taken:
        port = taken.getsockname()[1]
        words = [word.replace("{port}", str(port)) for word in ("node_timeout_s=1", *settings)]
        words = [f"{'+' * word.startswith('+')}hydra.launcher.{word.lstrip('+')}" for word in words]
        assert sweep(tmp_path / "sweep", *CPU, *words, "seed=1,2") == 2
    said = capfd.readouterr().err
    assert said.count("error: ") == 1 and "Traceback" not in said, said
    assert sentence in said
    assert not list(tmp_path.glob("sweep/*/.hydra"))


def test_without_the_package_its_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is written."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sweep(tmp_path / "sweep", *SMALL, "seed=1,2") == 2
    assert "error: hydra/launcher=ray needs the package ray: pip install 's15erav3[ray]'." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_job_waits_until_its_lost_process_is_silent(tmp_path: Path) -> None:
    """A node that is lost to Ray may still write the run's folder."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("seed: 1\n")
    progress = tmp_path / "progress.json"
    progress.write_text(json.dumps({"host": "lost", "pid": 1, "time": time.time() - 58, "step": 3}))
    begin = time.monotonic()
    ray_worker.await_silence(tmp_path)
    assert 1 < time.monotonic() - begin < 10
    progress.write_text(json.dumps({"host": "lost", "pid": 1, "time": time.time(), "step": 4}))
    begin = time.monotonic()
    ray_worker.await_silence(tmp_path, seconds=0.5)  # and the job is refused then, as the other process may be alive
    assert time.monotonic() - begin < 5


def test_a_node_without_the_shared_folder_says_so(tmp_path: Path) -> None:
    """The result that the sweep's process then writes for it."""
    status, why = ray_worker.main(None, None, None, tmp_path, tmp_path / "sweep", tmp_path / "sweep" / "0", {}, 0)  # type: ignore[arg-type]
    assert status == 2
    assert f"does not see {tmp_path / 'sweep' / '.sweep' / 'command.json'}; all nodes must share this folder" in why
