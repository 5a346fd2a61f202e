"""Quantile balancing (Kimi K3, arXiv 2607.24653, section 2.3.3): the bias that balances the step, without a rate.

Shapes: N tokens of the step, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s15erav3.balancing.base import Balancer, MicroBatch, from_all_ranks
from s15erav3.balancing.refuse import refuse_groups, require_choice_by_score
from s15erav3.errors import UserError, check_number
from s15erav3.model import Router


class Quantile(Balancer):
    """Set each expert's bias so that a fraction K / E of the step's tokens would have chosen it.

    A token takes expert i if ``s_i + b_i`` exceeds its cutoff, the (K+1)-th largest of ``s + b``. So

        alpha_t = (K+1)-th largest over j of s_tj + b_j,
        b*_i = the K / E quantile over tokens t of alpha_t - s_ti,
        b <- ema b + (1 - ema) b*,    centred,

    where the quantile is halfway between the last token that is admitted and the first that is not. All tokens
    of the step count, over all micro-batches and ranks.

    Args:
        ema: weight of the old bias, 0 to below 1; 0 keeps no history.

    Raises:
        UserError: the value is out of range.
    """

    def __init__(self, ema: float = 0.0) -> None:
        super().__init__()
        check_number("balancing.ema", ema, at_least=0, below=1)
        self.ema = ema
        self._needed: list[
            list[Tensor]
        ] = []  # by micro-batch and layer; not a buffer, as checkpoints are saved between steps
        self._biases: list[Tensor] = []
        self._top_k = 0

    def attach(self, routers: Sequence[Router]) -> None:
        """Reject routers whose cutoff is not the (K+1)-th largest score."""
        require_choice_by_score(routers, type(self).__name__)
        refuse_groups(routers, type(self).__name__)
        self._top_k = routers[0].top_k
        if self._top_k == len(routers[0].bias):
            raise UserError(
                f"experts.num_experts_per_tok={self._top_k} must be less than the number of experts with "
                "balancing=quantile; lower it."
            )

    def observe(self, micro_batch: MicroBatch) -> None:
        """Store the bias that each token would have needed to choose each expert, (N, E) in each layer."""
        needed = []
        for routing in micro_batch.routings:
            cutoff = (routing.scores + routing.bias).topk(self._top_k + 1, dim=-1).values[:, -1:]
            needed.append(cutoff - routing.scores)
        self._needed.append(needed)
        self._biases = [routing.bias for routing in micro_batch.routings]

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Compute the update of the class docstring: (L, E)."""
        solved = torch.stack([self._solve(torch.cat(parts)) for parts in zip(*self._needed, strict=True)])
        self._needed.clear()
        solved = solved - solved.mean(dim=-1, keepdim=True)
        return (1 - self.ema) * (solved - torch.stack(self._biases)).float()

    def _solve(self, needed: Tensor) -> Tensor:
        """Compute b* (E,) from this rank's needed biases (N, E)."""
        needed = from_all_ranks(needed)
        tokens, n_experts = needed.shape
        last_in = min(tokens - 1, max(1, round(tokens * self._top_k / n_experts)))
        ordered = needed.sort(dim=0).values
        return (ordered[last_in - 1] + ordered[last_in]) / 2
