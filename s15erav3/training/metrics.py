"""Metrics that validation accumulates over batches and ranks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class BitsPerByte(Metric):
    """Nats per token and bits per UTF-8 byte of a text.

    Sums are kept instead of means, so that batches and ranks are weighted by their tokens:

        loss = nll / tokens,    bpb = nll / (bytes ln 2).

    End-of-document tokens represent no byte, but their cost is included in ``nll``.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("bytes", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.nll: Tensor
        self.tokens: Tensor
        self.bytes: Tensor

    def update(self, nll: Tensor, byte_lengths: Tensor) -> None:
        """Add a batch: its summed nats and the UTF-8 bytes of each target token (any shape)."""
        self.nll = self.nll + nll.double()
        self.tokens = self.tokens + byte_lengths.numel()
        self.bytes = self.bytes + byte_lengths.sum()

    def compute(self) -> dict[str, Tensor]:
        """``loss``, ``bpb``, ``tokens`` and ``bytes``."""
        return {
            "loss": self.nll / self.tokens,
            "bpb": self.nll / self.bytes / math.log(2),
            "tokens": self.tokens,
            "bytes": self.bytes,
        }


class ExpertLoads(Metric):
    """Tokens that each expert of each layer received: int64, (L, E)."""

    full_state_update = False

    def __init__(self, layers: int, experts: int) -> None:
        super().__init__()
        self.add_state("loads", torch.zeros(layers, experts, dtype=torch.int64), dist_reduce_fx="sum")
        self.loads: Tensor

    def update(self, loads: Tensor) -> None:
        """Add the loads (L, E) of a batch."""
        self.loads = self.loads + loads

    def compute(self) -> Tensor:
        """The sum so far, (L, E)."""
        return self.loads
