"""Who this process is among ranks that srun or torchrun started, from their environment variables."""

from __future__ import annotations

import pytest

from s15erav3.errors import UserError
from s15erav3.ranks import is_first_rank
from s15erav3.ranks.outside import check_ranks, outside

SRUN = {"SLURM_JOB_ID": "71234", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3"}
SRUN |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "gpu[07-08]", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}
TORCHRUN |= {"MASTER_ADDR": "here", "MASTER_PORT": "29500"}


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable of either, and none that they leave behind."""
    for name in (*SRUN, *TORCHRUN):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_process_alone_is_the_first_and_fits_one_node(env: pytest.MonkeyPatch) -> None:
    """Also as the single task of a Slurm job."""
    assert outside() is None and is_first_rank()
    for name, value in (SRUN | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}).items():
        env.setenv(name, value)
    assert outside() is None and is_first_rank()
    check_ranks(1, 8)
    with pytest.raises(UserError, match="neither srun nor torchrun"):
        check_ranks(2, 1)


@pytest.mark.parametrize(
    ("variables", "found"),
    [(SRUN, (3, 4, 2, "gpu07", 16234)), (TORCHRUN, (2, 4, 2, "here", 29500))],
    ids=["srun", "torchrun"],
)
def test_srun_and_torchrun(env: pytest.MonkeyPatch, variables: dict[str, str], found: tuple[object, ...]) -> None:
    """Rank, ranks, nodes, and where the first one is; what the Trainer expects must be the same."""
    for name, value in variables.items():
        env.setenv(name, value)
    assert outside() == found and not is_first_rank()
    check_ranks(2, 2)
    for nodes, devices in ((1, 4), (2, 1), (4, 1)):
        with pytest.raises(UserError, match=r"set trainer=ddp trainer\.num_nodes=2 trainer\.devices=2"):
            check_ranks(nodes, devices)


def test_tasks_without_a_number_per_node_are_refused_by_the_first(env: pytest.MonkeyPatch) -> None:
    """The others end in silence."""
    for name, value in SRUN.items():
        env.setenv(name, value)
    env.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(SystemExit):
        outside()
    env.setenv("SLURM_PROCID", "0")
    with pytest.raises(UserError, match="--nodes=2 --ntasks-per-node=2"):
        outside()
