"""Quantiles over the tokens of all ranks, exactly or from histograms.

Shapes: L layers, N tokens of a layer on this rank, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s15erav3.balancing.base import max_over_ranks, sum_over_ranks


def halfway(values: Tensor, top_k: int) -> Tensor:
    """Quantile K / E over tokens, halfway between the last value within and the next: (..., N, E) -> (..., E)."""
    tokens, n_experts = values.shape[-2:]
    last_in = min(tokens - 1, max(1, round(tokens * top_k / n_experts)))
    ordered = values.sort(dim=-2).values
    return (ordered[..., last_in - 1, :] + ordered[..., last_in, :]) / 2


def halfway_of_ranks(layers: Sequence[Tensor], top_k: int, bins: int) -> Tensor:
    """Estimate :func:`halfway` over the tokens of all ranks: L times (N, E) -> (L, E).

    Ranks exchange the extremes (L, 2, E), then counts (L, E, bins), whatever N is. The error is less than the width of
    a bin, (largest - smallest value of that layer and expert) / bins, plus rounding. Within a bin, values count as
    evenly spaced.
    """
    extremes = max_over_ranks(torch.stack([torch.stack((-v.amin(dim=0), v.amax(dim=0))) for v in layers]).double())
    low = -extremes[:, 0]
    width = ((extremes[:, 1] - low) / bins).clamp(min=1e-30)
    counts = sum_over_ranks(torch.stack([_counts(*each, bins) for each in zip(layers, low, width, strict=True)]))
    up_to = counts.cumsum(dim=-1)
    total = up_to[..., -1:]
    last_in = (total.double() * top_k / counts.shape[1]).round().long().clamp(min=1).minimum(total - 1)
    places = torch.cat((last_in, last_in + 1), dim=-1).clamp(min=1)  # from 1, (L, E, 2)
    bin_of = torch.searchsorted(up_to, places)
    inside = counts.gather(-1, bin_of)
    share = (places - up_to.gather(-1, bin_of) + inside - 0.5) / inside
    return low + width * (bin_of + share).mean(dim=-1)


def _counts(values: Tensor, low: Tensor, width: Tensor, bins: int) -> Tensor:
    """Histogram of each expert's values (N, E) from ``low`` on, in steps of ``width``, (E,): int64, (E, bins)."""
    bin_of = ((values.double() - low) / width).long().clamp(max=bins - 1)
    flat = (bin_of + bins * torch.arange(len(low), device=low.device)).flatten()
    counts = torch.zeros(len(low) * bins, dtype=torch.int64, device=low.device)
    return counts.scatter_add(0, flat, torch.ones_like(flat)).view(-1, bins)
