"""Metrics of loads and biases. For metrics of routings see ``routing_diagnostics.py``.

Shapes: L MoE layers, E routed experts.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def max_violation(loads: Tensor) -> Tensor:
    """MaxVio = (max load - mean load) / mean load per layer: (L, E) -> (L,) (arXiv 2408.15664, eq. 4)."""
    loads = loads.double()
    mean = loads.mean(dim=-1)
    violation: Tensor = (loads.amax(dim=-1) - mean) / mean
    return violation


def min_violation(loads: Tensor) -> Tensor:
    """(mean load - min load) / mean load per layer: (L, E) -> (L,), 0 when even, 1 with a dead expert."""
    loads = loads.double()
    mean = loads.mean(dim=-1)
    violation: Tensor = (mean - loads.amin(dim=-1)) / mean
    return violation


def gini(loads: Tensor) -> Tensor:
    """Gini coefficient per layer: (L, E) -> (L,), 0 when even, 1 - 1 / E when one expert has all tokens.

    The mean of |x - y| over all ordered pairs of experts (including pairs of an expert with itself), divided by twice
    the mean load.
    """
    ascending = loads.double().sort(dim=-1).values
    n = loads.shape[-1]
    rank = torch.arange(1, n + 1, dtype=torch.float64, device=loads.device)
    return ((2 * rank - n - 1) * ascending).sum(dim=-1) / (n * ascending.sum(dim=-1))


def load_entropy(loads: Tensor) -> Tensor:
    """Entropy of the load distribution divided by its maximum log E: (L, E) -> (L,), 1 when perfectly even."""
    share = loads.double() / loads.sum(dim=-1, keepdim=True)
    entropy: Tensor = torch.special.entr(share).sum(dim=-1)
    return entropy / math.log(max(2, loads.shape[-1]))


def dead_experts(loads: Tensor) -> Tensor:
    """Number of experts that received no token: (L, E) -> (L,), int64."""
    return (loads == 0).sum(dim=-1)


def rank_loads(loads: Tensor, ranks: int) -> Tensor:
    """Tokens that travel to each of R ranks that share the experts, E / R each: (L, E) -> (L, R)."""
    return loads.view(len(loads), ranks, -1).sum(dim=-1)


def coefficient_of_variation(loads: Tensor) -> Tensor:
    """Standard deviation of the loads divided by their mean: (L, E) -> (L,)."""
    loads = loads.double()
    return loads.std(dim=-1, correction=0) / loads.mean(dim=-1)


def evenness(loads: Tensor) -> dict[str, Tensor]:
    """``maxvio``, ``minvio``, ``entropy``, ``cv`` and ``gini`` of each layer: (L, E) -> (L,) each."""
    return {
        "maxvio": max_violation(loads),
        "minvio": min_violation(loads),
        "entropy": load_entropy(loads),
        "cv": coefficient_of_variation(loads),
        "gini": gini(loads),
    }


PERCENTILES = (5, 50, 95)


def load_percentiles(loads: Tensor) -> dict[str, Tensor]:
    """``load_p05``, ``load_p50`` and ``load_p95`` of the loads over their fair shares, over all experts of all layers.

    (L, E) -> fp64, scalars; interpolated linearly between experts.
    """
    shares = (loads.double() / loads.double().mean(dim=-1, keepdim=True)).flatten()
    values = torch.quantile(shares, shares.new_tensor(PERCENTILES) / 100)
    return {f"load_p{percent:02d}": value for percent, value in zip(PERCENTILES, values, strict=True)}


def bias_norm(biases: Tensor) -> Tensor:
    """L2 norm of each layer's biases: (L, E) -> (L,)."""
    norm: Tensor = torch.linalg.vector_norm(biases.double(), dim=-1)
    return norm


def bias_spread(biases: Tensor) -> Tensor:
    """Largest minus smallest bias of each layer: (L, E) -> (L,).

    Unlike the norm it ignores a common offset, which does not affect the selection.
    """
    return (biases.amax(dim=-1) - biases.amin(dim=-1)).double()


@lru_cache(maxsize=256)
def random_floor(tokens: int, n_experts: int, top_k: int) -> float:
    """Expected MaxVio of uniformly random routing: no strategy stays below it by chance.

    Each of N tokens picks K of E experts uniformly. The loads have mean N p and variance N p (1 - p) with
    p = K / E, and correlations -1 / (E - 1). By normal approximation their maximum lies

        sqrt(N p (1 - p)) sqrt(E / (E - 1)) m_E

    above the mean, where m_E is the expected maximum of E independent standard normals.
    """
    if top_k >= n_experts or tokens == 0:
        return 0.0
    p = top_k / n_experts
    spread = math.sqrt(tokens * p * (1 - p) * n_experts / (n_experts - 1))
    return spread * _expected_maximum(n_experts) / (tokens * p)


def _expected_maximum(n: int) -> float:
    """E[max of n standard normals] = integral of (1 - F^n) over x > 0 minus that of F^n over x < 0."""
    x = np.linspace(0.0, 10.0, 20_001)
    cdf = 0.5 * (1 + torch.erf(torch.from_numpy(x) / math.sqrt(2)).numpy())
    return float(np.trapezoid(1 - cdf**n - (1 - cdf) ** n, x))
