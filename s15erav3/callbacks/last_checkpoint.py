"""last.ckpt: saved every N steps, when a signal requests the end, and at the end; with optional permanent copies."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint

from s15erav3.runs.checkpoint_io import WholeFileIO
from s15erav3.training.hosts import group_of_hosts

REQUEUE = getattr(signal, "SIGUSR2", None)
"""Signal that submitit sends near the time limit. If it has a handler, the step is saved before that one runs."""

STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""Signals besides Ctrl-C that ask a run to save and end: from a cluster, a closed terminal, a service manager."""

TOGETHER = 1.0
"""Seconds within which several signals count as one request: a cluster or a service manager signals every process of a
sweep, and the sweep's process forwards its own signals too."""


class Interrupted(BaseException):
    """A signal requested the end; the last checkpoint holds the step just completed, unless the signal came twice.

    Like KeyboardInterrupt it is not an Exception, so that a sweep ends with its job.
    """

    def __init__(self, signal_number: int, run_dir: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_status, self.run_dir = 128 + signal_number, run_dir
        self._made_of = signal_number, run_dir

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int, Path]]:
        return type(self), self._made_of  # worker processes pickle it


class LastCheckpoint(Checkpoint):
    """Save between two optimizer steps, when no step is in progress; after the validation of a step that has one.

    Ctrl-C and SIGTERM let the current step finish, save, and raise :class:`Interrupted`; a second one stops at once.
    The last step also triggers a validation, which Lightning would skip if the number of steps is not a multiple of its
    interval. This is a Checkpoint by type, so that Lightning calls it after all other callbacks, whose state for this
    step is then complete.

    Args:
        file: where to save.
        every_n_steps: optimizer steps between two saves.
        keep_every_n_steps: optimizer steps between two permanent copies, ``step_000500.ckpt`` beside ``file``; ``None``
            keeps none.
    """

    def __init__(self, file: Path, every_n_steps: int, keep_every_n_steps: int | None = None) -> None:
        self.file, self.every_n_steps, self.keep_every_n_steps = file, every_n_steps, keep_every_n_steps
        self._received: int | None = None
        self._at = 0.0
        self._handlers: dict[int, Any] = {}
        self._hosts: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._hosts = group_of_hosts(trainer)
        # Lightning tells all ranks of a SIGTERM, which it never gets, in every step; with NCCL all devices wait for it.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        for number in (signal.SIGINT, *STOPS):
            if signal.getsignal(number) != signal.SIG_IGN or number in (signal.SIGINT, signal.SIGTERM):  # as with nohup
                self._handlers[number] = signal.signal(number, self._receive)

    @property
    def received(self) -> int:
        """Return the signal that requested the end, else 0; it may have arrived in the last step."""
        return self._received or 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        first = self._received is None
        if not first and not {number, self._received} & {REQUEUE} and time.monotonic() - self._at > TOGETHER:
            raise Interrupted(number, self.file.parent.parent)  # Lightning turns a KeyboardInterrupt into exit status 1
        if first:
            self._at = time.monotonic()
        if first or number == REQUEUE:  # Slurm may send SIGTERM before or after it
            self._received = number

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        step = trainer.global_step
        last = trainer.should_stop = trainer.should_stop or step >= trainer.max_steps
        validates = trainer.limit_val_batches > 0 and (last or step % int(trainer.val_check_batch or 1) == 0)
        if not validates:
            self._save(trainer, due=last or step % self.every_n_steps == 0)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._save(trainer, due=True)

    def _save(self, trainer: L.Trainer, due: bool) -> None:
        received = self._received or 0
        if trainer.world_size > 1:  # a signal may have reached one rank only, and all ranks must save together
            numbers = torch.tensor(received)
            dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._hosts)
            received = int(numbers)
        keep = self.keep_every_n_steps and trainer.global_step % self.keep_every_n_steps == 0
        if received or due:
            trainer.save_checkpoint(self.file)
        if keep:
            trainer.save_checkpoint(self.file.with_name(f"step_{trainer.global_step:06d}.ckpt"))
        if received or trainer.should_stop:
            self._finish(trainer)
        if received and not trainer.should_stop:
            if REQUEUE and self._received == REQUEUE and callable(self._handlers.get(REQUEUE)):
                self._handlers[REQUEUE](REQUEUE, None)  # requeues the job and exits, or reports why it does not
            raise Interrupted(received, self.file.parent.parent)

    def _finish(self, trainer: L.Trainer) -> None:
        """Wait for the files while signals are still handled, and before the job may begin again elsewhere."""
        if not isinstance(files := trainer.strategy.checkpoint_io, WholeFileIO) or not files.background:
            return
        files.finish()
        if trainer.world_size > 1:  # a rank that left would end the one that writes
            dist.barrier(group=self._hosts)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
