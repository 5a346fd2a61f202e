"""Training in several processes: the first starts the others, all watch, and all end."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.distributed.constants import default_pg_timeout

import __main__
from s15erav3.ranks.board import Board
from s15erav3.ranks.member import VARIABLE, here, lost
from s15erav3.ranks.watch import RankEnded, Watch

NEVER = timedelta(days=1)
"""Timeout of collectives where ranks watch each other: a watch names the rank, and does not count stopped time."""


class Moves(L.Callback):
    """Counts what this rank's main thread does, which is the same in all ranks."""

    def __init__(self, board: Board, rank: int) -> None:
        self.board, self.rank = board, rank

    def _move(self, *args: Any, **settings: Any) -> None:
        self.board.count(self.rank, "moves")

    setup = on_train_start = on_train_batch_start = on_train_batch_end = on_train_end = _move  # type: ignore[assignment]
    on_validation_start = on_validation_batch_start = on_validation_batch_end = on_validation_end = _move  # type: ignore[assignment]


class Launcher(_SubprocessScriptLauncher):
    """Starts the other ranks by the command line of this one, under a :class:`Watch` in place of Lightning's, which
    kills the first rank before it can say why.

    Args:
        like: Lightning's own launcher.
        again: settings to add to the command line, that all ranks agree on what was found out here.
    """

    def __init__(self, like: _SubprocessScriptLauncher, again: Sequence[str], watch: Watch) -> None:
        super().__init__(like.cluster_environment, like.num_processes, like.num_nodes)
        self.again, self.watch = again, watch

    def _call_children_scripts(self) -> None:
        # Lightning looks at self.procs, which stays empty: its own observer then has nothing to do.
        cluster, board = self.cluster_environment, self.watch.board
        environment = os.environ | {
            "MASTER_ADDR": cluster.main_address,
            "MASTER_PORT": str(cluster.main_port),
            "NODE_RANK": str(cluster.node_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
            VARIABLE: f"{board.descriptor}:{board.ranks}:{self.watch.timeout}",
        }
        environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost connection is told by the first rank
        command = [sys.executable, *program(), *sys.argv[1:], *self.again]
        for rank in range(1, self.num_processes):
            self.watch.processes[rank] = subprocess.Popen(
                command, env=environment | {"LOCAL_RANK": str(rank)}, pass_fds=[board.descriptor]
            )
        self.watch.start()

    def kill(self, signum: Any) -> None:
        self.watch.kill()


def program() -> list[str]:
    """How Python was told to run this program."""
    script = Path(sys.argv[0])
    return [str(script.absolute())] if __main__.__spec__ is None and script.stem == "s15erav3" else ["-m", "s15erav3"]


@contextmanager
def together(
    trainer: L.Trainer, again: Sequence[str], timeout: float, last_words: Callable[[RankEnded], int]
) -> Iterator[None]:
    """Let ``trainer`` fit in all its ranks; afterwards this process is alone, and has no process group.

    Args:
        again: settings to add to the command line of ranks that are started here.
        timeout: seconds after which ranks give up one that does not get on.
        last_words: see :class:`Watch`.

    Raises:
        RankEnded: another rank was the cause of what ended this one.
    """
    if trainer.world_size == 1:
        yield
        return
    strategy: Any = trainer.strategy
    starts = isinstance(strategy.launcher, _SubprocessScriptLauncher)
    starts = starts and not strategy.cluster_environment.creates_processes_externally
    member, watch = here(), Watch(strategy.launcher.num_processes, timeout, last_words) if starts else None
    if watch is not None:
        strategy._launcher = Launcher(strategy.launcher, again, watch)
        # Its watchdog would abort the program, with a dump, before the watch can say which rank is gone.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    if getattr(strategy, "_timeout", None) == default_pg_timeout:
        strategy._timeout = NEVER if watch or member else timedelta(seconds=timeout)
    if member is not None:
        trainer.callbacks.insert(0, Moves(member.board, member.rank))  # type: ignore[attr-defined]
    elif watch is not None:
        trainer.callbacks.insert(0, Moves(watch.board, 0))  # type: ignore[attr-defined]
    completed = False
    try:
        yield
        strategy.barrier("the end")
        dist.destroy_process_group()
        completed = True
    except BaseException as error:
        found = watch.cause(error) if watch is not None else None
        if found is None and watch is None and member is None and lost(error):
            found = RankEnded("the connection to another rank was lost", "lost")
        if found is not None:
            raise found from error
        raise
    finally:
        if watch is not None:
            watch.close(completed)
            if not completed and strategy.root_device.type == "cuda":
                atexit.register(_do_not_hang)


def _do_not_hang() -> None:
    """NCCL may wait for dead ranks when the process group is taken down at exit."""
    last = threading.Timer(10, os._exit, [1])
    last.daemon = True
    last.start()
