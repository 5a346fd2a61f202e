"""Balancing by binary integer programming (arXiv 2502.15451): an even assignment of the current micro-batch.

Shapes: N tokens of a micro-batch, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s15erav3.balancing.base import Balancer, MicroBatch, mean_over_ranks
from s15erav3.balancing.refuse import refuse_groups, require_added_bias, require_choice_by_score
from s15erav3.errors import check_number
from s15erav3.model import Router


class BIP(Balancer):
    """Maximise the scores of the chosen experts with K experts per token and at most N K / E tokens per expert.

    The dual of the relaxed program has a price p_t for each token and q_i for each expert. Before a micro-batch
    is routed, a few rounds of

        p_t = max(0, (K+1)-th largest over i of s_ti - q_i),
        q_i = max(0, (N K / E + 1)-th largest over t of s_ti - p_t)

    start from the last q; then each token takes the top K of ``s - q``.

    **Not causal in training**: q is solved for the same tokens that it routes, so a token's experts depend on later
    tokens. Evaluation and generation use the bias ``-q`` from earlier training steps, and are causal.

    Args:
        rounds: iterations of the two lines above, at least 1 (the paper: 2 to 14).

    Raises:
        UserError: the value is out of range.
    """

    causal = False

    def __init__(self, rounds: int = 4) -> None:
        super().__init__()
        check_number("balancing.rounds", rounds, at_least=1, whole=True)
        self.rounds = rounds
        self._top_k = 0
        self._solved: list[
            Tensor
        ] = []  # (L, E) of each micro-batch; not a buffer, as checkpoints are saved between steps
        self._routers: list[Router] = []

    def attach(self, routers: Sequence[Router]) -> None:
        """Install the solver on every router."""
        require_choice_by_score(routers, type(self).__name__)
        refuse_groups(routers, type(self).__name__)
        require_added_bias(routers, type(self).__name__)
        self._top_k = routers[0].top_k
        self._routers = list(routers)
        for router in routers:
            router.solver = self.solve

    def solve(self, scores: Tensor, bias: Tensor) -> Tensor:
        """Solve for ``-q`` (E,) from scores (N, E), starting at ``bias`` (E,)."""
        tokens, n_experts = scores.shape
        if self._top_k == n_experts:  # nothing to choose
            return bias
        places = tokens * self._top_k // n_experts
        q = -bias
        for _ in range(self.rounds):
            p = (scores - q).topk(self._top_k + 1, dim=1).values[:, -1:].clamp(min=0)
            q = (scores - p).topk(places + 1, dim=0).values[-1].clamp(min=0)
        return -q

    def observe(self, micro_batch: MicroBatch) -> None:
        """Store the solved biases."""
        self._solved.append(torch.stack([routing.bias for routing in micro_batch.routings]))

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Move each bias to the mean of the solutions of this step over micro-batches and ranks; (L, E)."""
        solved = mean_over_ranks(torch.stack(self._solved).mean(dim=0))
        self._solved.clear()
        return (solved - torch.stack([router.bias for router in self._routers])).float()
