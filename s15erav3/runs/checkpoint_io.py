"""How the Trainer writes and reads checkpoint files: written in the background, and each of them whole."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from s15erav3.files import whole
from s15erav3.runs.checkpoint import Payload, load_checkpoint

IN_FLIGHT = 2
"""Checkpoints in memory that are not yet written, at most: best.ckpt and last.ckpt of one validation."""


class BackgroundFileIO(TorchCheckpointIO):
    """Copy a checkpoint into the host's memory, and write it while training goes on.

    Files are written in the order in which they were saved, by one thread. A further one waits while ``IN_FLIGHT`` are
    unwritten. The error of a write is raised by the next :meth:`save_checkpoint`, :meth:`finish` or :meth:`teardown`.

    Lightning's AsyncCheckpointIO takes its copies on the device and without limit.
    """

    def __init__(self) -> None:
        self._writer: ThreadPoolExecutor | None = None
        self._writes: deque[Future[None]] = deque()

    def save_checkpoint(self, checkpoint: Payload, path: Any, storage_options: Any | None = None) -> None:
        self.finish(unwritten=IN_FLIGHT - 1)
        copy = on_host(checkpoint)
        self._writer = self._writer or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writes.append(self._writer.submit(write, copy, Path(path)))

    def finish(self, unwritten: int = 0, seconds: float | None = None) -> None:
        """Wait until at most that many checkpoints are unwritten.

        Args:
            seconds: for each of them, at most; ``None`` for any time.

        Raises:
            TimeoutError: the seconds are over.
            Exception: a write failed; the file that it would have replaced is as it was.
        """
        while self._writes and (len(self._writes) > unwritten or self._writes[0].done()):
            self._writes.popleft().result(seconds)

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            self._writes.clear()
            if self._writer is not None:
                self._writer.shutdown()
                self._writer = None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Payload:
        """Read exactly what was written."""
        return load_checkpoint(Path(path))


def on_host(checkpoint: Payload) -> Payload:
    """Copy all tensors into the host's memory; a tensor with two names stays one.

    From a GPU they go into pinned memory, all at once.
    """
    copies: dict[Any, Tensor] = {}

    def copy(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: copy(of) for key, of in value.items()}
        if isinstance(value, list | tuple):
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
    """Write a file beside its target, flush it to the disk, and rename it: a kill leaves the old or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file, binary=True, durable=True) as target:
        torch.save(checkpoint, target)
