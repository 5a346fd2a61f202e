"""Steps whose loss or gradient is not finite: found and left out on the device, told when the host next reads it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from s15erav3.training.optim import MuonAdamW


class Diverged(Exception):
    """The loss or the gradient is no longer finite; weights and biases are as before that."""


class Guard:
    """Counts bad steps on the device. More of them in a row than ``tolerated``, and every later step is left out, too.

    Args:
        tolerated: bad steps in a row after which training goes on.
    """

    def __init__(self, tolerated: int = 0) -> None:
        self.tolerated = tolerated
        self._counts: Tensor | None = None
        self._batches: dict[int, Tensor] = {}

    def see(self, bad: Tensor, loss: Tensor, step: int, batch: Tensor) -> Tensor:
        """Count a step; nothing is waited for.

        Args:
            bad: whether it is, on any rank; bool, a scalar.
            loss: this rank's, a scalar.
            step: its number, from 1.
            batch: kept until the next read, to find out what was bad.

        Returns:
            whether the step is left out; bool, a scalar.
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
        """For :meth:`first_bad`: bad steps in a row and in all, the row's first, its loss's fault, the end; (5,)."""
        assert self._counts is not None
        return self._counts

    @property
    def started(self) -> bool:
        """Whether a step has been seen."""
        return self._counts is not None

    def first_bad(self, counts: list[float]) -> tuple[int, bool, Tensor] | None:
        """What ended training, from ``counts`` on the host: the first bad step of the row, whether its loss was bad,
        and the batch of that step, or of the next one that is still kept; ``None`` as long as training goes on."""
        batches, self._batches = self._batches, {}
        if not counts[4]:
            return None
        step = int(counts[2])
        kept = min((s for s in batches if s >= step), default=step)
        self._batches = batches
        return step, bool(counts[3]), batches[kept]


def skips_on_device(optimizer: Optimizer) -> bool:
    """Whether ``found_inf``, set on the optimizer, makes its step do nothing, as torch's GradScaler has it.

    torch's fused SGD knows it as well, but its first momentum is then never written.
    """
    if isinstance(optimizer, torch.optim.Adam):  # AdamW is one
        return all(group["fused"] for group in optimizer.param_groups)
    return isinstance(optimizer, MuonAdamW)


def copies(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of a module, to be put back by :func:`put_back`."""
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


@torch.no_grad()
def put_back(module: nn.Module, before: dict[str, Tensor], where: Tensor) -> None:
    """Give the buffers their former values if ``where``, a scalar on the device, says so."""
    for name, buffer in module.named_buffers():
        if name in before:
            buffer.copy_(torch.where(where, before[name], buffer))
