"""Training in several processes: the first rank starts the others, all monitor each other, and all end together."""

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
"""Timeout of collectives where ranks are monitored: the watch names the lost rank, and ignores suspended time."""


class Moves(L.Callback):
    """Counts the progress of this rank's main thread, which is the same in all ranks."""

    def __init__(self, board: Board, rank: int) -> None:
        self.board, self.rank = board, rank

    def _move(self, *args: Any, **settings: Any) -> None:
        self.board.count(self.rank, "moves")

    setup = on_train_start = on_train_batch_start = on_train_batch_end = on_train_end = _move  # type: ignore[assignment]
    on_validation_start = on_validation_batch_start = on_validation_batch_end = on_validation_end = _move  # type: ignore[assignment]


class Launcher(_SubprocessScriptLauncher):
    """Starts the other ranks with this process's command line, monitored by a :class:`Watch`.

    Lightning's own observer would kill the first rank before it can report the reason.

    Args:
        like: Lightning's own launcher.
        again: overrides to add to the command line, so that all ranks use the values determined here.
    """

    def __init__(self, like: _SubprocessScriptLauncher, again: Sequence[str], watch: Watch) -> None:
        super().__init__(like.cluster_environment, like.num_processes, like.num_nodes)
        self.again, self.watch = again, watch

    def _call_children_scripts(self) -> None:
        # Lightning monitors self.procs, which stays empty, so its own observer is idle.
        cluster, board = self.cluster_environment, self.watch.board
        environment = os.environ | {
            "MASTER_ADDR": cluster.main_address,
            "MASTER_PORT": str(cluster.main_port),
            "NODE_RANK": str(cluster.node_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
            VARIABLE: f"{board.descriptor}:{board.ranks}:{self.watch.timeout}",
        }
        environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the first rank reports a lost connection
        command = [sys.executable, *program(), *sys.argv[1:], *self.again]
        for rank in range(1, self.num_processes):
            self.watch.processes[rank] = subprocess.Popen(
                command, env=environment | {"LOCAL_RANK": str(rank)}, pass_fds=[board.descriptor]
            )
        self.watch.start()

    def kill(self, signum: Any) -> None:
        self.watch.kill()


def program() -> list[str]:
    """Return the interpreter arguments that start this program."""
    script = Path(sys.argv[0])
    return [str(script.absolute())] if __main__.__spec__ is None and script.stem == "s15erav3" else ["-m", "s15erav3"]


@contextmanager
def together(
    trainer: L.Trainer, again: Sequence[str], timeout: float, last_words: Callable[[RankEnded], int]
) -> Iterator[None]:
    """Let ``trainer`` fit in all ranks within the block; afterwards this process is alone, without a process group.

    Args:
        again: overrides to add to the command line of ranks that are started here.
        timeout: seconds without progress after which a rank is given up.
        last_words: see :class:`Watch`.

    Raises:
        RankEnded: this process ended because of another rank.
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
        # NCCL's watchdog would abort the program, with a dump, before the watch can report which rank is gone.
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
    """Limit the exit to 10 seconds, as NCCL may wait for dead ranks when the process group is destroyed."""
    last = threading.Timer(10, os._exit, [1])
    last.daemon = True
    last.start()
