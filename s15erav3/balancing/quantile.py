"""Quantile balancing (Kimi K3, arXiv 2607.24653, section 2.3.3): the bias that balances the step, without a rate.

Shapes: N tokens of the step, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from s15erav3.balancing.base import Balancer, MicroBatch, from_all_ranks, mean_over_ranks
from s15erav3.balancing.histogram import halfway, halfway_of_ranks
from s15erav3.balancing.refuse import refuse_groups, require_added_bias, require_choice_by_score
from s15erav3.errors import UserError, check_number
from s15erav3.model import Router, Routing

Scope = Literal["step", "micro", "sequence"]


class Quantile(Balancer):
    """Set each expert's bias so that a fraction K / E of the step's tokens would have chosen it.

    A token takes expert i if ``s_i + b_i`` exceeds its cutoff, the (K+1)-th largest of ``s + b``. So

        alpha_t = (K+1)-th largest over j of s_tj + b_j,
        b*_i = the K / E quantile over tokens t of alpha_t - s_ti,
        b <- ema b + (1 - ema) b*,    centred,

    where the quantile is halfway between the last token that is admitted and the first that is not.

    Args:
        ema: weight of the old bias, 0 to below 1; 0 keeps no history.
        scope: tokens of which a quantile is taken. ``step``: all tokens, over all micro-batches and ranks. ``micro``:
            one rank's micro-batch, and ``sequence``: one sequence, with b* the mean of their quantiles over the step.
        bins: with ``step``, estimate the quantile from histograms of this many bins per layer and expert (K3: 1,000),
            so that ranks exchange counts in place of N E values; ``None`` sorts the values of all ranks. See
            :func:`~s15erav3.balancing.histogram.halfway_of_ranks` for the error.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(self, ema: float = 0.0, scope: Scope = "step", bins: int | None = None) -> None:
        super().__init__()
        check_number("balancing.ema", ema, at_least=0, below=1)
        if scope not in get_args(Scope):
            raise UserError(f"balancing.scope={scope} is unknown; choose one of {', '.join(get_args(Scope))}.")
        if bins is not None:
            check_number("balancing.bins", bins, at_least=2, at_most=1_000_000, whole=True)
            if scope != "step":
                raise UserError(
                    f"balancing.bins={bins} is for balancing.scope=step, found {scope}, whose quantiles are of one "
                    "rank; leave one of them out."
                )
        self.ema, self.scope, self.bins = ema, scope, bins
        # By micro-batch and layer; not a buffer, as checkpoints are saved between steps. With scope=step needed biases
        # (N, E), else solved ones (E,).
        self._found: list[list[Tensor]] = []
        self._biases: list[Tensor] = []
        self._top_k = 0

    def attach(self, routers: Sequence[Router]) -> None:
        """Reject routers whose cutoff is not the (K+1)-th largest score."""
        require_choice_by_score(routers, type(self).__name__)
        refuse_groups(routers, type(self).__name__)
        require_added_bias(routers, type(self).__name__)
        self._top_k = routers[0].top_k
        if self._top_k == len(routers[0].bias):
            raise UserError(
                f"experts.num_experts_per_tok={self._top_k} must be less than the number of experts with "
                "balancing=quantile; lower it."
            )

    def observe(self, micro_batch: MicroBatch) -> None:
        """Store the bias that each token would have needed to choose each expert, or what follows from it."""
        found = []
        for routing in micro_batch.routings:
            needed = self._needed(routing)
            if self.scope == "micro":
                needed = halfway(needed, self._top_k)
            elif self.scope == "sequence":
                by_sequence = needed.view(micro_batch.sequences, -1, needed.shape[-1])
                needed = halfway(by_sequence, self._top_k).mean(dim=0)
            found.append(needed)
        self._found.append(found)
        self._biases = [routing.bias for routing in micro_batch.routings]

    def _needed(self, routing: Routing) -> Tensor:
        """The bias that each token would have needed to choose each expert, (N, E)."""
        cutoff: Tensor = (routing.scores + routing.bias).topk(self._top_k + 1, dim=-1).values[:, -1:]
        return cutoff - routing.scores

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Compute the update of the class docstring: (L, E)."""
        solved = self._solve()
        self._found.clear()
        solved = solved - solved.mean(dim=-1, keepdim=True)
        return (1 - self.ema) * (solved - torch.stack(self._biases)).float()

    def _solve(self) -> Tensor:
        """Compute b* (L, E) from what was stored in this step."""
        if self.scope != "step":
            return mean_over_ranks(torch.stack([torch.stack(layers) for layers in self._found]).mean(dim=0))
        layers = [torch.cat(parts) for parts in zip(*self._found, strict=True)]
        if self.bins is not None:
            return halfway_of_ranks(layers, self._top_k, self.bins)
        return torch.stack([halfway(from_all_ranks(needed), self._top_k) for needed in layers])
