"""Sinkhorn balancing (S-BASE, arXiv 2202.01169, section 3.1): an entropic optimal transport of the micro-batch.

Shapes: N tokens of a micro-batch, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s15erav3.balancing.base import Balancer
from s15erav3.balancing.refuse import refuse_groups, require_added_bias, require_choice_by_score
from s15erav3.errors import UserError, check_number
from s15erav3.model import Router


class Sinkhorn(Balancer):
    """Choose the top K of a transport plan with even marginals, found by Sinkhorn's algorithm:

        P_ti = u_t exp(s_ti / tau) v_i,    sum_i P_ti = 1 / N,    sum_t P_ti = 1 / E.

    u_t does not change a token's order of experts, so the top K of P are the top K of ``s + tau log v``: a bias. v
    comes from ``rounds`` alternations of both conditions, on each rank's micro-batch alone. Weights are from s without
    it, as everywhere.

    The paper's plan is of logits with tau = 1, for K = 1; here it is of the affinities, at which biases act in this
    package. The algorithm was written from its equation; no other implementation was at hand.

    **Not causal in training**: v depends on all tokens of the micro-batch. Evaluation and generation choose by s
    alone, as in the paper.

    Args:
        rounds: alternations, from v = 1.
        temperature: tau, in units of the affinity; small values approach the even assignment of highest total affinity,
            and need more rounds.

    Raises:
        UserError: a value is out of range.
    """

    causal = False
    selects = True

    def __init__(self, rounds: int = 8, temperature: float = 0.05) -> None:
        super().__init__()
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise UserError(f"balancing.rounds={rounds} must be a whole number of at least 1.")
        check_number("balancing.temperature", temperature, above=0)
        self.rounds, self.temperature = rounds, temperature

    def attach(self, routers: Sequence[Router]) -> None:
        """Install the solver on every router."""
        require_choice_by_score(routers, type(self).__name__)
        refuse_groups(routers, type(self).__name__)
        require_added_bias(routers, type(self).__name__)
        for router in routers:
            router.solver = self.solve

    def solve(self, scores: Tensor, bias: Tensor) -> Tensor:
        """Solve for ``tau log v`` (E,), centred, from scores (N, E); in logarithms, which cannot overflow."""
        kernel = scores / self.temperature
        v = torch.zeros_like(kernel[0])
        for _ in range(self.rounds):
            u = -(kernel + v).logsumexp(dim=1, keepdim=True)
            v = -(kernel + u).logsumexp(dim=0)
        return (self.temperature * (v - v.mean())).to(bias.dtype)
