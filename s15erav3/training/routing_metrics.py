"""Routing statistics of a text, accumulated as sums over batches and ranks.

Shapes: L MoE layers, E routed experts, N tokens of a batch, S slots, V values of a label.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from s15erav3.balancing.routing_diagnostics import coactivation, slots
from s15erav3.model import Routing


class CountTable(Metric):
    """Count how often tokens of each label value went to each expert of each layer.

    Args:
        layers: L.
        values: V; labels are below it.
        experts: E.
    """

    full_state_update = False

    def __init__(self, layers: int, values: int, experts: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(layers, values, experts, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros(values, dtype=torch.int64), dist_reduce_fx="sum")
        self.counts: Tensor
        self.tokens: Tensor

    def update(self, labels: Tensor, routings: Sequence[Routing]) -> None:
        """Add a batch: the label of each token, int64, (N,), and the routings of the L layers."""
        values, experts = self.counts.shape[1:]
        cells = []
        for layer, routing in enumerate(routings):
            token, expert = slots(routing)
            cells.append((layer * values + labels[token]) * experts + expert)
        self.counts = (self.counts.flatten() + _tally(torch.cat(cells), self.counts.numel())).view_as(self.counts)
        self.tokens = self.tokens + _tally(labels, values)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Slots per layer, value and expert, int64, (L, V, E), and tokens per value, int64, (V,)."""
        return self.counts, self.tokens


class Coactivation(Metric):
    """Number of tokens that use both experts of a pair: int64, (L, E, E)."""

    full_state_update = False

    def __init__(self, layers: int, experts: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(layers, experts, experts, dtype=torch.int64), dist_reduce_fx="sum")
        self.counts: Tensor

    def update(self, routings: Sequence[Routing]) -> None:
        """Add a batch: the routings of the L layers."""
        self.counts = self.counts + torch.stack([coactivation(routing) for routing in routings])

    def compute(self) -> Tensor:
        """The sum so far, (L, E, E)."""
        return self.counts


class TokenMean(Metric):
    """A per-layer value averaged over tokens: fp64, (L,). Batches are weighted by their tokens."""

    full_state_update = False

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(layers, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.total: Tensor
        self.tokens: Tensor

    def update(self, means: Sequence[Tensor], tokens: int) -> None:
        """Add a batch: the mean of each layer over ``tokens`` tokens, L scalars."""
        self.total = self.total + torch.stack(list(means)).double() * tokens
        self.tokens = self.tokens + tokens

    def compute(self) -> Tensor:
        """The mean so far, (L,)."""
        return self.total / self.tokens


def _tally(indices: Tensor, size: int) -> Tensor:
    """How often each of 0 .. size - 1 occurs: int64, (size,). bincount would synchronise with the GPU."""
    return torch.zeros(size, dtype=torch.int64, device=indices.device).scatter_add(0, indices, torch.ones_like(indices))
