"""Selection from scores: experts per token or tokens per expert, and dropping beyond capacity.

Shapes: N tokens, E routed experts, K experts per token, C places per expert.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from s15erav3.model.checks import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainingRules:
    """Router behaviour in training only; evaluation and generation have no jitter and drop nothing.

    Raises:
        ConfigError: a value is out of range.
    """

    router_jitter: float = 0.0
    """Half-width j of a factor U(1 - j, 1 + j) on each of the router's inputs (arXiv 2101.03961, section 2.4)."""
    capacity_factor: float | None = None
    """Places per expert relative to its fair share N K / E; further tokens are dropped. ``None`` drops nothing."""
    expert_dropout: float = 0.0
    """Probability p that a chosen expert's weight is set to 0; the others are scaled by 1 / (1 - p) (arXiv 2207.04672,
    section 6.2.2)."""

    def __post_init__(self) -> None:
        for name in ("router_jitter", "expert_dropout"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
                raise ConfigError(f"{name}={value} must be a number of at least 0 and less than 1")
        factor = self.capacity_factor
        if factor is not None and (isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0):
            raise ConfigError(f"capacity_factor={factor} must be null (drop nothing) or a number greater than 0")


def capacity(tokens: int, n_experts: int, top_k: int, factor: float = 1.0) -> int:
    """Places of each expert: the fair share of ``tokens`` times ``factor``, rounded up, at most ``tokens``."""
    return min(tokens, math.ceil(tokens * top_k * factor / n_experts))


def within_capacity(experts: Tensor, load: Tensor, places: int) -> Tensor:
    """Mark the choices within capacity: the first ``places`` tokens of each expert in batch order.

    So a later token of a sequence never displaces an earlier one.

    Args:
        experts: (N, K), distinct within each row.
        load: tokens that chose each expert, (E,).

    Returns:
        bool, (N, K).
    """
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    first = load.cumsum(0) - load
    queued = torch.arange(flat.numel(), device=flat.device) - first[flat[order]]
    return torch.empty_like(flat, dtype=torch.bool).scatter(0, order, queued < places).view_as(experts)


def experts_choose(scores: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """Expert choice (arXiv 2202.09368, section 3.2): each expert takes its ``places`` highest-scoring tokens.

    A token's experts then depend on later tokens, so the model is not causal.

    Args:
        scores: (N, E).

    Returns:
        token and expert of each slot, sorted by expert, int64, (E * C,) both.
    """
    n_experts = scores.shape[1]
    tokens = scores.topk(places, dim=0, sorted=False).indices.t().flatten()
    experts = torch.arange(n_experts, device=scores.device).repeat_interleave(places)
    return tokens, experts
