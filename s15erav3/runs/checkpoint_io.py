"""How the Trainer writes and reads checkpoint files: whole, and on a GPU while training goes on."""

from __future__ import annotations

import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from s15erav3.errors import one_line
from s15erav3.files import whole
from s15erav3.runs.checkpoint import Payload, load_checkpoint

IN_FLIGHT = 2
"""Copies of checkpoints that are not yet written, at most: best.ckpt and last.ckpt of one validation."""


class WholeFileIO(TorchCheckpointIO):
    """Write a checkpoint to a temporary file beside the target, flush it to the disk, and rename it.

    A kill leaves either the old or the new file. Reading returns exactly what was written.

    In the background, a checkpoint is copied into the host's memory, and one thread writes the copies in the order of
    their saves; a further save waits while ``IN_FLIGHT`` are unwritten. The error of a write is raised by the next
    :meth:`save_checkpoint`, :meth:`finish` or :meth:`teardown`. Lightning's AsyncCheckpointIO takes its copies on the
    device and without limit.

    Args:
        background: on a GPU, whose steps between two checkpoints may be shorter than the write.
    """

    def __init__(self, background: bool = False) -> None:
        self.background = background
        self._writer: ThreadPoolExecutor | None = None
        self._writes: deque[Future[None]] = deque()

    def save_checkpoint(self, checkpoint: Payload, path: Any, storage_options: Any | None = None) -> None:
        if not self.background:
            write(checkpoint, Path(path))
            return
        self.finish(unwritten=IN_FLIGHT - 1)
        copy = on_host(checkpoint)
        self._writer = self._writer or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writes.append(self._writer.submit(write, copy, Path(path)))

    def finish(self, unwritten: int = 0, seconds: float | None = None) -> None:
        """Wait until at most that many checkpoints are unwritten.

        Args:
            seconds: time to wait; ``None`` for as long as it takes.

        Raises:
            TimeoutError: the time is over.
            Exception: a write failed; the file that it would have replaced is as it was.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while self._writes and (len(self._writes) > unwritten or self._writes[0].done()):
            first = self._writes[0]
            try:
                first.result(None if until is None else max(0.0, until - time.monotonic()))
            finally:  # a signal may have ended the wait, and another thread may wait as well
                if first.done() and self._writes and self._writes[0] is first:
                    self._writes.popleft()

    def teardown(self) -> None:
        """Wait for all writes; their error is raised if training has ended well, else told."""
        ended_by = sys.exc_info()[1]
        failed: Exception | None = None
        while self._writes:
            try:
                self.finish()
            except Exception as error:
                failed = failed or error
        if self._writer is not None:
            self._writer.shutdown(wait=False)
            self._writer = None
        if failed is not None and ended_by is None:
            raise failed
        if failed is not None:
            print(f"a checkpoint was not written: {one_line(failed)}", file=sys.stderr)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Payload:
        return load_checkpoint(Path(path))


def on_host(checkpoint: Payload) -> Payload:
    """Copy the tensors of dicts, lists and tuples into the host's memory; a tensor with two names stays one.

    From a GPU they go into pinned memory, all at once.
    """
    copies: dict[Any, Tensor] = {}

    def copy(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: copy(of) for key, of in value.items()}
        if type(value) in (list, tuple):
            return type(value)(map(copy, value))
        if not isinstance(value, Tensor):
            return value
        same = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if same not in copies:
            copies[same] = value.detach().to("cpu", non_blocking=True, copy=True)
        return copies[same]

    copied: Payload = copy(checkpoint)
    for device in {same[0] for same in copies if same[0].type == "cuda"}:
        torch.cuda.synchronize(device)
    return copied


def write(checkpoint: Payload, file: Path) -> None:
    """Write a file beside its target, flush it to the disk, and rename it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file, binary=True, durable=True) as target:
        torch.save(checkpoint, target)
