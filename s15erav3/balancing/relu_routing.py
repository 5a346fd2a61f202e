"""ReLU routing (ReMoE, arXiv 2412.14711): differentiable gates, kept sparse and even by one adaptive loss.

Shapes: N tokens of a micro-batch, L MoE layers, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from s15erav3.balancing.base import Balancer, MicroBatch, sum_over_ranks
from s15erav3.errors import UserError, check_number
from s15erav3.model import Router


class ReLURouting(Balancer):
    """A token uses every expert with a positive logit, weighted by it. The loss (eq. 8 and 11)

        lambda / L sum_l sum_i f_li mean_t R_lti,    R = ReLU(logits),    f_li = E / (K N) (tokens with R_lti > 0),

    makes gates smaller, those of busy experts most. Its weight follows the share of gates that are 0 (eq. 9):

        lambda <- lambda factor^sign((1 - K / E) - share of zeros in the step),

    so that tokens have K experts on average. At the start they have more; at most ``experts.max_experts_per_tok`` are
    used, those of the largest gates, as routings have a fixed number of slots. Set it to E for the paper's routing.

    ``conf/balancing/relu_routing.yaml`` also sets ``experts.topk_method``, ``experts.scoring_func`` and
    ``experts.norm_topk_prob``. There is no bias.

    Args:
        start: lambda in the first step (the paper: 1e-8).
        factor: its factor, above 1 (the paper: 1.2).

    Raises:
        UserError: a value is out of range.
    """

    selects = True
    router_settings = MappingProxyType({"topk_method": "threshold", "scoring_func": "relu", "norm_topk_prob": False})
    strength: Tensor

    def __init__(self, start: float = 1e-8, factor: float = 1.2) -> None:
        super().__init__()
        check_number("balancing.start", start, above=0)
        check_number("balancing.factor", factor, above=1)
        self.factor = factor
        self.register_buffer("strength", torch.tensor(float(start)))
        self._top_k = 0
        self._gates: list[Tensor] = []  # of each micro-batch: gates above 0 and gates; not a buffer: cleared every step

    def attach(self, routers: Sequence[Router]) -> None:
        """Reject routers with other gates."""
        if not all(router.by_threshold and router.scoring == "relu" for router in routers):
            raise UserError(
                "balancing=relu_routing needs experts.topk_method=threshold and experts.scoring_func=relu, found "
                "others; leave these settings to balancing=relu_routing."
            )
        self._top_k = routers[0].top_k

    def loss(self, micro_batch: MicroBatch) -> Tensor:
        """Compute the loss of the class docstring: a scalar."""
        layers = [routing.scores for routing in micro_batch.routings]  # prediction blocks have fewer tokens
        busy = torch.stack([(gates.detach() > 0).to(gates.dtype).mean(dim=0) for gates in layers])  # (L, E)
        mean = torch.stack([gates.mean(dim=0) for gates in layers])
        return self.strength * (busy * (busy.shape[-1] / self._top_k) * mean).sum(dim=-1).mean()

    def observe(self, micro_batch: MicroBatch) -> None:
        """Count the gates above 0."""
        open_ = torch.stack([(routing.scores > 0).sum() for routing in micro_batch.routings]).sum()
        gates = sum(routing.scores.numel() for routing in micro_batch.routings)
        self._gates.append(torch.stack((open_, torch.full_like(open_, gates))))

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Adapt lambda; return a zero update, (L, E)."""
        open_, gates = sum_over_ranks(torch.stack(self._gates).sum(dim=0)).unbind()
        self._gates.clear()
        too_many = open_ * loads.shape[-1] - gates * self._top_k  # exact, as it is whole
        self.strength *= self.factor ** too_many.sign().to(self.strength.dtype)
        return super().bias_update(loads, progress)
