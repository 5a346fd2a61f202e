"""How the Trainer writes and reads checkpoint files: whole, and on a GPU while training goes on."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from s15erav3.errors import one_line
from s15erav3.files import whole
from s15erav3.runs.checkpoint import Payload, load_checkpoint
from s15erav3.runs.parts import changed, forget_parts, new_name, parts_of, split, write_part

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
        self._save(checkpoint, partial(write, file=Path(path)))

    def save_parts(self, checkpoint: Payload, path: Any, group: Any) -> None:
        """Let every rank write its part of divided tensors, and the first one the rest; called by all ranks.

        Args:
            group: process group of the hosts, for the writes alone.
        """
        rest, rows = split(checkpoint)
        rest = rest if dist.get_rank() == 0 else {}
        self._save({"rest": rest, "rows": rows}, partial(write_parts, file=Path(path), group=group))

    def _save(self, content: Payload, write: Callable[[Payload], None]) -> None:
        if not self.background:
            write(content)
            return
        self.finish(unwritten=IN_FLIGHT - 1)
        copy = on_host(content)
        self._writer = self._writer or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writes.append(self._writer.submit(write, copy))

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

    def copy(tensor: Tensor, name: str) -> Tensor:
        if tensor.is_meta:  # stands for rows elsewhere
            return tensor
        same = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if same not in copies:
            copies[same] = tensor.detach().to("cpu", non_blocking=True, copy=True)
        return copies[same]

    copied: Payload = changed(checkpoint, copy)
    for device in {same[0] for same in copies if same[0].type == "cuda"}:
        torch.cuda.synchronize(device)
    return copied


def write(checkpoint: Payload, file: Path) -> None:
    """Write a file beside its target, flush it to the disk, and rename it."""
    _replace(checkpoint, file)
    forget_parts(file)


def _replace(checkpoint: Payload, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file, binary=True, durable=True) as target:
        torch.save(checkpoint, target)


def write_parts(content: Payload, file: Path, group: Any) -> None:
    """Write ``rows``, then on the first rank ``rest``, which names all parts; called by all ranks.

    A kill leaves either the old checkpoint with its parts or the new one with its own.

    Raises:
        Exception: that of the first rank that could not write; all raise the same, and the old checkpoint stays.
    """
    rank, rows = dist.get_rank(), content["rows"]
    told: list[Any] = [new_name(file, content["rest"]["global_step"]) if rank == 0 else None]
    dist.broadcast_object_list(told, group=group)
    folder, part = parts_of(file) / told[0], f"{rank:05d}.safetensors"
    try:
        mine: Any = {part: write_part(folder / part, rows)} if rows else {}
    except Exception as error:
        mine = error
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine, group=group)
    failed = next((each for each in found if isinstance(each, Exception)), None)
    if failed is not None:
        if rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        raise failed
    if rank == 0:
        files = {name: size for each in found for name, size in each.items()}
        _replace(content["rest"] | {"parts": {"folder": folder.name, "files": files}}, file)
        forget_parts(file, keep=folder.name)
