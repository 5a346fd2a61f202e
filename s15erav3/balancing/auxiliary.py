"""The auxiliary loss of Switch and GShard per micro-batch, per sequence or over the global batch.

Shapes: N tokens (B sequences), K experts per token, E experts in G groups, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from s15erav3.balancing.base import Balancer, MicroBatch, stack_loads, sum_over_ranks
from s15erav3.balancing.refuse import require_choice_by_score
from s15erav3.errors import UserError, check_number
from s15erav3.model import Router, Routing

Scope = Literal["micro", "sequence", "global"]
Counts = Literal["chosen", "unbiased"]


class AuxiliaryLoss(Balancer):
    """Auxiliary load-balancing loss ``alpha sum_l sum_i f_i P_i``, with

        f_i = E / (K N) (tokens that chose expert i),    P_i = mean over tokens of s_i / sum_j s_j,

    minimal where both are uniform, with the value alpha for each layer l (Switch, arXiv 2101.03961, eq. 4; for K
    experts DeepSeek-V3, arXiv 2412.19437, eq. 17-20). Gradients flow through P only.

    With ``groups`` it is the device-level loss of DeepSeek-V2 (arXiv 2405.04434, eq. 26-28): the sum is over groups,
    f is the mean over a group's experts and P their sum. Within a group, loads may differ.

    Args:
        alpha: weight of the loss.
        scope: tokens over which f is counted. ``micro``: one rank's micro-batch. ``sequence``: each sequence
            separately, with averaged losses (DeepSeek-V3's complementary loss). ``global``: all ranks and
            the micro-batches of the step so far (arXiv 2501.11873); P is still that of the micro-batch.
        counts: experts that f counts for a token. ``chosen``: those that it used. ``unbiased``: the top K of its
            affinities, without bias and ``experts.n_group`` (DeepSeek-V3, eq. 18); the same where there are neither.
        groups: G, of E / G neighbouring experts each; ``None`` for single experts.

    Raises:
        UserError: a value is out of range.
    """

    selects = False

    def __init__(
        self, alpha: float, scope: Scope = "micro", counts: Counts = "chosen", groups: int | None = None
    ) -> None:
        super().__init__()
        check_number("balancing.alpha", alpha, above=0, hint="; use balancing=none for no balancing")
        if scope not in get_args(Scope):
            raise UserError(f"balancing.scope={scope} is unknown; choose one of {', '.join(get_args(Scope))}.")
        if counts not in get_args(Counts):
            raise UserError(f"balancing.counts={counts} is unknown; choose one of {', '.join(get_args(Counts))}.")
        if groups is not None:
            check_number("balancing.groups", groups, at_least=2, whole=True)
        self.alpha, self.scope, self.counts, self.groups = alpha, scope, counts, groups
        self._step_loads: Tensor | None = (
            None  # of the step so far, (L, E); not a buffer, as checkpoints are saved between steps
        )

    def attach(self, routers: Sequence[Router]) -> None:
        """Reject expert choice, whose loads are even by construction, and groups of different sizes."""
        require_choice_by_score(routers, type(self).__name__)
        for router in routers:
            if self.groups and len(router.bias) % self.groups:
                raise UserError(
                    f"balancing.groups={self.groups} must divide experts.n_routed_experts={len(router.bias)}."
                )

    def loss(self, micro_batch: MicroBatch) -> Tensor:
        """Compute the loss of the class docstring: a scalar."""
        routings = micro_batch.routings
        if self.counts == "unbiased":
            routings = [unbiased(routing) for routing in routings]
        if self.scope == "sequence":
            losses = [sequence_loss(routing, micro_batch.sequences, self.groups) for routing in routings]
            return self.alpha * torch.stack(losses).sum()
        loads = stack_loads(routings)
        if self.scope == "global":
            loads = sum_over_ranks(loads)
            loads = loads if self._step_loads is None else loads + self._step_loads
            self._step_loads = loads
        loads = of_groups(loads, self.groups)
        share = loads / loads.sum(dim=-1, keepdim=True)  # f_i / E, or of a group f / G
        shares = torch.stack([affinity_share(routing).mean(dim=0) for routing in routings])
        probability = of_groups(shares, self.groups)
        return self.alpha * loads.shape[-1] * (share.to(probability.dtype) * probability).sum()

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Return a zero update and clear the loads of the step."""
        self._step_loads = None
        return super().bias_update(loads, progress)


def unbiased(routing: Routing) -> Routing:
    """The routing with the top K of the affinities as its experts and load."""
    scores = routing.scores.detach()
    experts = scores.topk(routing.experts.shape[-1], dim=-1, sorted=False).indices
    ones = torch.ones_like(experts).flatten()
    return routing._replace(
        experts=experts, load=torch.zeros_like(routing.load).scatter_add(0, experts.flatten(), ones)
    )


def of_groups(values: Tensor, groups: int | None) -> Tensor:
    """Sums over the experts of each group, (..., E) -> (..., G); the values themselves without groups."""
    return values if groups is None else values.view(*values.shape[:-1], groups, -1).sum(dim=-1)


def affinity_share(routing: Routing) -> Tensor:
    """``s_i / sum_j s_j`` of each token, (N, E)."""
    return routing.scores / (routing.scores.sum(dim=-1, keepdim=True) + 1e-20)


def sequence_loss(routing: Routing, sequences: int, groups: int | None = None) -> Tensor:
    """Mean of ``sum_i f_i P_i`` over B sequences (DeepSeek-V3, eq. 17-20 without alpha): a scalar."""
    n_experts = routing.scores.shape[-1]
    chosen = routing.experts.view(sequences, -1)  # (B, T K)
    counts = torch.zeros(sequences, n_experts, device=chosen.device).scatter_add(
        1, chosen, torch.ones_like(chosen, dtype=torch.float32)
    )
    counts = of_groups(counts, groups)
    frequency = counts * (counts.shape[1] / chosen.shape[1])  # f, (B, E) or (B, G)
    probability = of_groups(affinity_share(routing).view(sequences, -1, n_experts).mean(dim=1), groups)  # P
    return (frequency * probability).sum(dim=-1).mean()
