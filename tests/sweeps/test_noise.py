"""Repetitions of jobs with other rounding. Each docstring names mutations that the test was seen to fail with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from s15erav3.comparison.groups import BPB, groups, value
from s15erav3.errors import UserError
from s15erav3.runs.checkpoint import load_checkpoint
from s15erav3.runs.identity import changes, is_repeated
from s15erav3.runs.reader import Run, find_runs, read_run
from s15erav3.session.build import loss_chunk
from s15erav3.sweeps.noise import noise_jobs
from tests.sweeps.parts import sweep

JOBS = [[f"balancing={b}", f"seed={s}"] for b in ("none", "aux") for s in (2, 1)]


def test_each_group_is_repeated_with_its_first_seed() -> None:
    """Seen to fail with a repetition of each job, and with groups in place of rounds."""
    none, aux = ["balancing=none", "seed=2"], ["balancing=aux", "seed=2"]
    assert noise_jobs(JOBS, 2) == [[*job, f"rounding={n}"] for n in (1, 2) for job in (none, aux)]
    assert noise_jobs(JOBS, 1) == noise_jobs(JOBS, 2)[:2]
    assert noise_jobs(JOBS, 0) == noise_jobs([["rounding=1"]], 0) == []
    with pytest.raises(UserError, match=r"sweep\.noise_runs=1 sets rounding"):
        noise_jobs([["rounding=3"]], 1)


@pytest.mark.parametrize(("chunk", "rounding", "used"), [(512, 0, 512), (512, 2, 126), (50, 2, 48), (1, 3, 1)])
def test_the_chunk_is_shorter_than_it_would_be(chunk: int, rounding: int, used: int) -> None:
    """A micro-batch of 128 tokens: 510 would change nothing. Seen to fail with chunks not limited to its tokens."""
    data = {"batch_size": 4, "sequence_length": 32}
    assert loss_chunk(OmegaConf.create({"loss_chunk": chunk, "rounding": rounding, "data": data})) == used


def test_runs_with_other_rounding_are_repetitions_and_harmless_to_resume() -> None:
    assert is_repeated("rounding")
    assert [change.kind for change in changes({"rounding": 0}, {"rounding": 1})] == ["harmless"]


@pytest.mark.slow
def test_a_sweep_with_noise_runs(tmp_path: Path) -> None:
    """Two seeds and two repetitions of the first, in one group: the same but for rounding. Complete jobs are kept when
    another round is added. Seen to fail with noise runs counted as seeds."""
    few = ["trainer.max_steps=8", "seed=1,2"]
    assert sweep(tmp_path / "sweep", *few, "sweep.noise_runs=1") == 0
    first = (tmp_path / "sweep" / "2" / "result.json").read_bytes()
    assert sweep(tmp_path / "sweep", *few, "sweep.noise_runs=2") == 0
    assert (tmp_path / "sweep" / "2" / "result.json").read_bytes() == first
    (group,) = groups([read_run(folder) for folder in find_runs(tmp_path / "sweep")])
    assert [run.config["seed"] for run in group.counted] == [1, 2]
    assert sorted((run.config["seed"], run.config["rounding"]) for run in group.noise) == [(1, 1), (1, 2)]
    own, weights = group.values(BPB), trained(group.counted[0])
    for run in group.noise:
        assert abs(value(run, BPB) - own[0]) < 1e-3 * own[0] < abs(own[1] - own[0])
        other = trained(run)
        assert any(not torch.equal(weights[name], other[name]) for name in weights)


def trained(run: Run) -> dict[str, Tensor]:
    """The weights of the run's last checkpoint."""
    weights: dict[str, Tensor] = load_checkpoint(run.folder / "checkpoints" / "last.ckpt")["state_dict"]
    return weights


def test_a_search_adds_no_noise_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path / "sweep", "sweep=search", "sweep.noise_runs=1") == 2
    assert "sweep.noise_runs=1" in capsys.readouterr().err
