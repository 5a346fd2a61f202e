"""One run on two nodes: started by srun and by torchrun, refused, and continued after a node is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cluster.slurm import NODES, Slurm, ask, free_port, until
from tests.conftest import ROOT
from tests.tiny import TINY, result, rows

pytestmark = pytest.mark.slow
PROGRAM = [sys.executable, "-m", "s15erav3", "train"]
CPU = [*TINY, "trainer=ddp", "trainer.accelerator=cpu", "callbacks.samples.max_new_tokens=0", "trainer.max_steps=6"]
TWO = [*CPU, "trainer.devices=1", "trainer.num_nodes=2"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights and biases of a run's last checkpoint."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def the_run(folder: Path) -> Path:
    """The only run below ``outputs/`` of a folder, in which no other rank has left a folder of its own."""
    (day,) = (folder / "outputs").iterdir()
    (run,) = day.iterdir()
    return run


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run as two ranks of one machine."""
    folder = tmp_path_factory.mktemp("local")
    subprocess.run([*PROGRAM, *CPU, "trainer.devices=2"], cwd=folder, check=True, capture_output=True)
    return the_run(folder)


def check(folder: Path, local: Path) -> None:
    """Compare a run of two nodes with that of one."""
    run, like = weights(the_run(folder)), weights(local)
    assert all(torch.equal(run[name], like[name]) for name in like)
    assert result(the_run(folder))["status"] == "completed"


def test_srun_on_two_nodes_trains_what_two_local_ranks_train(slurm: Slurm, tmp_path: Path, local: Path) -> None:
    """One folder, one banner, bit-identical weights."""
    srun = ["srun", "--nodes=2", "--ntasks-per-node=1", *PROGRAM, *TWO]
    said = subprocess.run(srun, cwd=tmp_path, text=True, capture_output=True)
    assert said.returncode == 0, said.stderr
    assert said.stderr.count("folder  ") == 1
    check(tmp_path, local)


def test_torchrun_on_two_nodes_trains_what_two_local_ranks_train(tmp_path: Path, local: Path) -> None:
    """Two torchrun agents on loopback, as two machines would run them."""
    statuses, said = torchrun(TWO, tmp_path, tmp_path)
    assert statuses == [0, 0], said
    assert "".join(said).count("folder  ") == 1
    check(tmp_path, local)


def test_a_node_that_does_not_see_the_folder(tmp_path: Path, local: Path) -> None:
    """The first rank tells it and ends, and does not wait until it is given up."""
    (tmp_path / "elsewhere").mkdir()
    here = local.parents[2]
    resumed = [f"resume={local.relative_to(here)}", "trainer.max_steps=8"]
    two = ["trainer.devices=1", "trainer.num_nodes=2"]
    statuses, said = torchrun([*resumed, *two], here, tmp_path / "elsewhere")
    errors = [line for line in "".join(said).splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith("error: rank 1 of 2, on "), said
    assert errors[0].endswith("All nodes must see the same files.") and errors[0] in said[0]
    assert statuses == [1, 1] and all("exitcode  : 2" in one for one in said)
    assert result(local)["steps"] == 6


def torchrun(settings: list[str], *folders: Path) -> tuple[list[int], list[str]]:
    """Train by one torchrun agent in each folder; return their statuses and what they said."""
    with free_port() as taken:
        port = taken.getsockname()[1]
    words = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={len(folders)}", "--nproc-per-node=1"]
    words += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    agents = [
        subprocess.Popen(
            [*words, f"--node-rank={node}", "-m", "s15erav3", "train", *settings],
            cwd=folder, text=True, stderr=subprocess.PIPE,
        )
        for node, folder in enumerate(folders)
    ]  # fmt: skip
    said = [agent.communicate(timeout=400)[1] for agent in agents]
    return [agent.returncode for agent in agents], said


@pytest.mark.parametrize(
    ("srun", "settings", "sentence"),
    [
        (["-n2"], CPU, "without --ntasks-per-node"),
        (
            ["-N2", "--ntasks-per-node=1"],
            [*CPU, "trainer.devices=1"],
            "set trainer=ddp trainer.num_nodes=2 trainer.devices=1",
        ),
        (["-N2", "--ntasks-per-node=1"], ["-m", *TWO, "seed=1,2"], "-m cannot run in 2 ranks"),
        (["-N1", "--ntasks-per-node=1"], TWO, "neither srun nor torchrun has started this process"),
    ],
)
def test_what_does_not_fit_is_said_once(
    slurm: Slurm, tmp_path: Path, srun: list[str], settings: list[str], sentence: str
) -> None:
    """By the first rank, in one sentence and with status 2."""
    said = subprocess.run(["srun", *srun, *PROGRAM, *settings], cwd=tmp_path, text=True, capture_output=True)
    errors = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and sentence in errors[0], said.stderr
    assert said.returncode == 2 and "Traceback" not in said.stderr
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_rank_that_starts_late_finds_a_first_rank_that_has_failed(slurm: Slurm, tmp_path: Path) -> None:
    """Seen to hang for a quarter of an hour, as the late one looked for the first."""
    late = ["bash", "-c", 'sleep $((12 * SLURM_PROCID)); exec "$@"', "-", *PROGRAM, *CPU, "trainer.devices=1"]
    srun = ["srun", "-N2", "--ntasks-per-node=1", "--job-name=late", *late]
    said = subprocess.run(srun, cwd=tmp_path, text=True, capture_output=True, timeout=100)
    assert said.stderr.count("error: 2 processes on 2 nodes do not fit") == 1, said.stderr
    assert "Traceback" not in said.stderr and said.returncode in (1, 2)


def test_a_run_that_loses_a_node_is_requeued_and_continues(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the template of the docs has it: every step is there once."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    template = (ROOT / "docs" / "multi_node.sbatch").read_text()
    script, run = tmp_path / "job.sbatch", tmp_path / "run"
    script.write_text(template.replace("#SBATCH --gpus-per-node=8\n", ""))
    options = ["--parsable", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=10"]
    settings = [*TINY, "trainer.accelerator=cpu", "callbacks.samples.max_new_tokens=0", "trainer.max_steps=100"]
    settings += ["trainer.val_check_interval=100", "callbacks.progress=null"]
    number = subprocess.check_output(
        ["sbatch", *options, str(script), str(run), *settings], cwd=tmp_path, text=True
    ).strip()
    log = tmp_path / f"s15erav3-{number}.log"
    try:
        until(lambda: (run / "checkpoints" / "last.ckpt").exists(), 300)
        slurm.kill_node(NODES[1])
        assert not (run / "result.json").exists() or result(run)["status"] != "completed"
        until(lambda: ask("squeue", "--noheader", f"--jobs={number}", "--format=%T") != "RUNNING", 120)
        slurm.start_node(NODES[1])
        until(lambda: not ask("squeue", "--noheader", f"--jobs={number}"), 400)
    finally:
        print(log.read_text() if log.exists() else "no log")
    assert result(run)["status"] == "completed" and result(run)["resumed"]
    assert [row["step"] for row in rows(run / "balance.jsonl")] == [1, *range(2, 101, 2)]
