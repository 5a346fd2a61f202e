"""What a micro-batch and an optimizer step yield, as values."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from s15erav3.balancing.base import MicroBatch


class StepRecord(NamedTuple):
    """Results of one optimizer step, kept on the device until callbacks log them."""

    loss: Tensor
    """Nats per token, this rank's mean over the step."""
    bpb: Tensor
    """Bits per UTF-8 byte of the step's targets."""
    mtp_loss: Tensor | None
    """Nats per token of multi-token prediction, mean over its blocks; ``None`` without such blocks."""
    grad_norm: Tensor
    """Before clipping."""
    learning_rate: float
    loads: Tensor | None
    """Global loads of the step, int64, (L, E); ``None`` for a dense model."""
    bias_update: Tensor | None
    """Change of the biases in this step, fp32, (L, E)."""
    balance_loss: Tensor | None
    """The balancing strategy's term in the loss, nats per token; ``None`` without one."""
    dropped: Tensor | None
    """The part of the global loads dropped by full experts, int64, (L, E); ``None`` without a capacity."""
    own_loads: Tensor | None = None
    """The part of the global loads that this rank's tokens are, int64, (L, E); ``None`` where nobody needs it."""


class Passes(NamedTuple):
    """Sums over the micro-batches of a step, after their forward and backward passes."""

    nll: Tensor
    """Nats of all targets, fp32, a scalar."""
    mtp_loss: Tensor | None
    balance_loss: Tensor | None
    loads: Tensor | None
    """Loads of this rank, int64, (L, E)."""
    dropped: Tensor | None
    """The part of them that was dropped."""


class Objective(NamedTuple):
    """Contribution of one micro-batch to the loss of its step."""

    loss: Tensor
    nll: Tensor
    mtp_loss: Tensor | None
    balance_loss: Tensor | None
    routed: MicroBatch
