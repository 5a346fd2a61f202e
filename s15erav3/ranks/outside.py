"""Ranks that srun or torchrun starts: who is the first, and one run folder for all."""

from __future__ import annotations

import atexit
import os
import time
from contextlib import suppress
from datetime import timedelta
from socket import gethostname
from typing import Any, NamedTuple

from s15erav3.errors import UserError

KEY = f"s15erav3/folder/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
"""The name of the folder in the store that the ranks share; torchrun keeps the store when it starts them again."""

PATIENCE = timedelta(minutes=10)
"""How long the other ranks wait for the first one, which may have to tokenize the text."""

LINGER = 60.0
"""Seconds for which the first rank, having failed, stays for others that are still starting."""

_store: Any = None
_here: Outside | None = None


class Outside(NamedTuple):
    """This process, as one of several that srun or torchrun has started."""

    rank: int
    ranks: int
    nodes: int
    address: str
    port: int
    """Where the first rank is reached; Lightning uses the same."""


def outside() -> Outside | None:
    """Return this process's place among ranks that were started together; ``None`` if it is alone.

    Raises:
        UserError: srun was not given the number of tasks per node.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        rank, ranks, nodes, port = (int(env[k]) for k in ("RANK", "WORLD_SIZE", "GROUP_WORLD_SIZE", "MASTER_PORT"))
        return Outside(rank, ranks, nodes, env["MASTER_ADDR"], port) if ranks > 1 else None
    ranks, nodes = int(env.get("SLURM_NTASKS", "1")), int(env.get("SLURM_NNODES", "1"))
    if ranks == 1 or "SLURM_STEP_ID" not in env or env.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    if "SLURM_NTASKS_PER_NODE" not in env:
        if env["SLURM_PROCID"] != "0":
            raise SystemExit(UserError.exit_status)  # the first rank reports it
        raise UserError(
            f"srun has started {ranks} tasks without --ntasks-per-node, by which ranks find each other; give srun or "
            f"sbatch --nodes={nodes} --ntasks-per-node={ranks // nodes}, and train trainer.num_nodes={nodes} "
            f"trainer.devices={ranks // nodes}."
        )
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment  # slow import

    slurm = SLURMEnvironment()
    return Outside(int(env["SLURM_PROCID"]), ranks, nodes, slurm.main_address, slurm.main_port)


def meet(here: Outside) -> str:
    """Wait until the first rank is ready to train, or become the one that the others wait for.

    Returns:
        the run's folder; empty for the first rank, which decides it and calls :func:`announce`.

    Raises:
        UserError: the first rank cannot be reached.
        SystemExit: the first rank has ended; it has reported why.
    """
    global _store, _here
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    first = here.rank == 0
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun
    try:
        # Torch opens the same store again for the process group, which multi_tenant allows.
        _store = TCPStore(
            here.address, here.port, None, first and not hosted, PATIENCE, wait_for_workers=False, multi_tenant=True
        )
    except (DistError, RuntimeError) as error:
        raise UserError(
            f"rank {here.rank} of {here.ranks} cannot reach the first rank at {here.address}:{here.port} "
            f"({type(error).__name__}); check that the name resolves on every node and that the port is free and open."
        ) from error
    _here = here
    if first:
        if not hosted:
            atexit.register(_linger)
        return ""
    try:
        _store.add(f"{KEY}/arrived", 1)
        return str(_store.get(KEY).decode())
    except (DistError, RuntimeError) as error:
        raise SystemExit(1) from error


def _linger() -> None:
    """Keep the store of a first rank that cannot begin until the others have found it: one that starts later would look
    for it for many minutes."""
    end = time.monotonic() + LINGER
    with suppress(Exception):
        while _here is not None and _store.add(f"{KEY}/arrived", 0) < _here.ranks - 1 and time.monotonic() < end:
            time.sleep(0.2)


def announce(folder: str) -> None:
    """Tell the other ranks the run's folder, if there are any, and wait until they are ready to train, too.

    Raises:
        UserError: one of them cannot.
    """
    global _here
    if _store is None or _here is None:
        return
    from torch.distributed import DistError

    _store.set(KEY, folder)
    for rank in range(1, _here.ranks):
        try:
            refusal = _store.get(f"{KEY}/{rank}").decode()
        except (DistError, RuntimeError) as error:
            raise UserError(
                f"rank {rank} of {_here.ranks} was not ready to train {PATIENCE.total_seconds():g} s after the first "
                "one; look for what it has printed, then repeat the command."
            ) from error
        if refusal:
            raise UserError(f"rank {rank} of {_here.ranks}, {refusal} All nodes must see the same files.")
    _here = None


def answer(refusal: UserError | None = None) -> bool:
    """Tell the first rank that this one is ready to train, or why it cannot.

    Returns:
        whether the first rank tells the user: false for a rank that is alone, the first, or ready already.
    """
    global _here
    if _here is None or _here.rank == 0:
        return False
    with suppress(Exception):  # the first rank has gone, and tells why
        _store.set(f"{KEY}/{_here.rank}", f"on {gethostname()}: {refusal}" if refusal else "")
    _here = None
    return refusal is not None


def check_ranks(nodes: int, devices: int) -> None:
    """Compare the processes that srun or torchrun has started with those that the Trainer expects.

    Args:
        nodes, devices: number of nodes, and of devices of each.

    Raises:
        UserError: they differ.
    """
    here = outside()
    if here is None and nodes > 1 and "NODE_RANK" not in os.environ:
        raise UserError(
            f"trainer.num_nodes={nodes}, but neither srun nor torchrun has started this process; start it with one of "
            "them, or set trainer.num_nodes=1."
        )
    if here is not None and (here.nodes, here.ranks) != (nodes, nodes * devices):
        raise UserError(
            f"{here.ranks} processes on {here.nodes} nodes do not fit trainer.num_nodes={nodes} and "
            f"trainer.devices={devices}; set trainer=ddp trainer.num_nodes={here.nodes} "
            f"trainer.devices={here.ranks // here.nodes}."
        )
