"""Scalar series per expert: every expert for narrow layers, extremes and quantiles for wide ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s15erav3.balancing.diagnostics import max_violation

Metrics = dict[str, float]

MOST_SERIES = 64
"""Maximum number of series per layer for logging every expert (load, bias, update), with ``per_expert=auto``."""
KINDS = ("load", "bias", "bias_update")
QUANTILES = {"q000": 0.0, "q025": 0.25, "q050": 0.5, "q075": 0.75, "q100": 1.0}


def condenses(per_expert: bool | str, experts: int) -> bool:
    """Return whether a layer with this many experts is logged by its extremes and quantiles."""
    return per_expert == "auto" and len(KINDS) * experts > MOST_SERIES


def all_experts(layers: Sequence[int], loads: Tensor, biases: Tensor, update: Tensor) -> Metrics:
    """Return each expert's load (1.0 is the fair share), bias and last bias update, from tables (L, E) on the host."""
    metrics: Metrics = {}
    shares = (loads / loads.mean(dim=-1, keepdim=True)).tolist()
    for layer, *values in zip(layers, shares, biases.tolist(), update.tolist(), strict=True):
        for kind, row in zip(KINDS, values, strict=True):
            metrics |= {f"{kind}_L{layer:02d}/E{expert:02d}": value for expert, value in enumerate(row)}
    return metrics


def layer_balance(layers: Sequence[int], loads: Tensor) -> Metrics:
    """Return ``layer_03/maxvio`` of each layer, from loads (L, E) on the host."""
    values = max_violation(loads).tolist()
    return {f"layer_{layer:02d}/maxvio": value for layer, value in zip(layers, values, strict=True)}


def few_experts(layers: Sequence[int], loads: Tensor, biases: Tensor, update: Tensor, extremes: int) -> Metrics:
    """:func:`condensed` under its names, from tables (L, E) on the host."""
    names = [name for layer in layers for name in condensed_names(layer, loads.shape[-1], extremes)]
    return dict(zip(names, condensed(loads, biases, update, extremes).flatten().tolist(), strict=True))


def condensed(loads: Tensor, biases: Tensor, update: Tensor, extremes: int) -> Tensor:
    """Return the most and least loaded experts of each layer, and quantiles over its experts.

    Args:
        loads, biases, update: (L, E) each.
        extremes: number of experts from each end of the order by load, capped at half of them. Equal loads are ordered
            by expert number.

    Returns:
        (L, S) in double precision, with columns as in :func:`condensed_names`.
    """
    k = _at_most_half(extremes, loads.shape[-1])
    load = loads.double()
    tables = torch.stack([load / load.mean(dim=-1, keepdim=True), biases.double(), update.double()])  # (3, L, E)
    most = torch.sort(load, dim=-1, descending=True, stable=True).indices[:, :k]
    least = torch.sort(load, dim=-1, stable=True).indices[:, :k]
    chosen = torch.cat([most, least], dim=-1)  # (L, 2k)
    values = tables.gather(-1, chosen.expand(len(tables), -1, -1))  # (3, L, 2k)
    at = torch.tensor(list(QUANTILES.values()), dtype=tables.dtype)
    spread = torch.quantile(tables, at, dim=-1).movedim(0, -1)  # (3, L, 5)
    return torch.cat([chosen.double(), *torch.cat([values, spread], dim=-1)], dim=-1)


def condensed_names(layer: int, experts: int, extremes: int) -> list[str]:
    """Return the names of the columns of :func:`condensed` for a layer.

    ``expert_L03/top1`` is the number of the most loaded expert, ``load_L03/top1``, ``bias_L03/top1`` and
    ``bias_update_L03/top1`` are its load, bias and last bias update; ``bottom1`` is the least loaded. ``load_L03/q050``
    is the median over the layer's experts, and so on.
    """
    k = _at_most_half(extremes, experts)
    ends = [f"{end}{place}" for end in ("top", "bottom") for place in range(1, k + 1)]
    numbers = [f"expert_L{layer:02d}/{end}" for end in ends]
    return numbers + [f"{kind}_L{layer:02d}/{name}" for kind in KINDS for name in (*ends, *QUANTILES)]


def _at_most_half(extremes: int, experts: int) -> int:
    return min(extremes, experts // 2)
