"""Detect and skip steps with non-finite loss or gradient on the device; report them when the host next reads it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from s15erav3.training.optim import MuonAdamW


class Diverged(Exception):
    """The loss or the gradient is no longer finite; weights and biases are from before that step."""


class Guard:
    """Count bad steps on the device. After more than ``tolerated`` in a row, every later step is skipped as well.

    Args:
        tolerated: consecutive bad steps after which training still continues.
    """

    def __init__(self, tolerated: int = 0) -> None:
        self.tolerated = tolerated
        self._counts: Tensor | None = None
        self._batches: dict[int, Tensor] = {}

    def see(self, bad: Tensor, loss: Tensor, step: int, batch: Tensor) -> Tensor:
        """Count a step without waiting for the device.

        Args:
            bad: whether the step is bad on any rank; bool, a scalar.
            loss: loss of this rank, a scalar.
            step: number of the step, from 1.
            batch: kept until the next read, for the diagnosis.

        Returns:
            Whether the step is skipped; bool, a scalar.
        """
        self._batches[step] = batch
        if self._counts is None:
            self._counts = torch.zeros(5, dtype=torch.int64, device=bad.device)
        row, total, first, loss_bad, stopped = self._counts.unbind()
        over = stopped.bool()
        now = torch.where(bad, row + 1, 0)
        begins = now == 1
        counts = torch.stack(
            [
                now,
                total + bad,
                torch.where(begins, step, first),
                torch.where(begins, ~torch.isfinite(loss), loss_bad.bool()).long(),
                (now > self.tolerated).long(),
            ]
        )
        self._counts = torch.where(over, self._counts, counts)
        return bad | self._counts[4].bool()

    @property
    def counts(self) -> Tensor:
        """Input of :meth:`first_bad`, (5,).

        The number of bad steps in a row and in total, the first step of the row, whether its loss was bad, and
        whether training has ended.
        """
        assert self._counts is not None
        return self._counts

    @property
    def started(self) -> bool:
        """Whether a step has been seen."""
        return self._counts is not None

    def first_bad(self, counts: list[float]) -> tuple[int, bool, Tensor] | None:
        """The cause of the end of training, from ``counts`` on the host; ``None`` while training continues.

        The first bad step of the row, whether its loss was bad, and the batch of that step, or of the next step
        whose batch is still kept.
        """
        batches, self._batches = self._batches, {}
        if not counts[4]:
            return None
        step = int(counts[2])
        kept = min((s for s in batches if s >= step), default=step)
        self._batches = batches
        return step, bool(counts[3]), batches[kept]


def skips_on_device(optimizer: Optimizer) -> bool:
    """Whether setting ``found_inf`` on the optimizer makes its step a no-op, as torch's GradScaler relies on.

    torch's fused SGD supports it as well, but its first momentum would then never be written.
    """
    if isinstance(optimizer, torch.optim.Adam):  # includes AdamW
        return all(group["fused"] for group in optimizer.param_groups)
    return isinstance(optimizer, MuonAdamW)


def copies(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's buffers, to be restored by :func:`put_back`."""
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


@torch.no_grad()
def put_back(module: nn.Module, before: dict[str, Tensor], where: Tensor) -> None:
    """Restore the former values of the buffers if ``where``, a bool scalar on the device, is true."""
    for name, buffer in module.named_buffers():
        if name in before:
            buffer.copy_(torch.where(where, before[name], buffer))
