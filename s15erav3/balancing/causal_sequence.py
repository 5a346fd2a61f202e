"""A bias within each sequence, from the loads of its earlier tokens alone.

Shapes: B sequences of T tokens, L MoE layers, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s15erav3.balancing.base import MicroBatch, sum_over_ranks
from s15erav3.balancing.loss_free import LossFree
from s15erav3.balancing.rule import RateSchedule
from s15erav3.errors import check_number
from s15erav3.model import Router


class CausalSequenceBias(LossFree):
    """Keep loads even within each sequence, too. A sequence is cut into blocks, and a token t of the block that begins
    with token t0 takes the top K of

        s_ti + b_i + u (t0 K / E - c_i) / ((t0 + w) K / E),    c_i = tokens before t0 that chose i,

    a relative error of the load so far as if w even tokens had come before. So training is causal, unlike that of
    ``bip`` and ``sinkhorn``, which even out the tokens that they route. Blocks are routed one after another, the tokens
    of a block at once; blocks of one token see all earlier tokens, and take the most time.

    In training only: evaluation and generation choose by s + b, and b follows the sign rule on the loads that this
    choice would have had. The idea is that of causal bias (jonathanc.net/blog/causal-routing-bias) and of balance
    within sequences without a loss (kexue.fm/archives/11760), which were at hand in part; this rule is ours.

    Args:
        rate: of the sign rule, as in :class:`LoadRule`.
        strength: u, the bias of an expert that no token of a long sequence has used yet, in units of the affinity.
        prior: w, in tokens.
        block: tokens of a block.
        schedule: of the rate, as in :class:`LoadRule`.
        freeze_at: as in :class:`LoadRule`.
        centred: as in :class:`LoadRule`.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self,
        rate: float,
        strength: float = 0.1,
        prior: float = 16.0,
        block: int = 16,
        schedule: RateSchedule = "constant",
        freeze_at: float = 0.9,
        centred: bool = True,
    ) -> None:
        super().__init__(rate, schedule, freeze_at, centred)
        check_number("balancing.strength", strength, above=0, hint="; use balancing=loss_free for none")
        check_number("balancing.prior", prior, above=0)
        check_number("balancing.block", block, at_least=1, whole=True)
        self.strength, self.prior, self.block = strength, prior, block
        self._routers: list[Router] = []
        self._loads: list[Tensor] = []  # by s + b, (L, E) of each micro-batch; not a buffer: cleared every step

    def attach(self, routers: Sequence[Router]) -> None:
        """Install the bias on every router."""
        super().attach(routers)
        self._routers = list(routers)
        for router in routers:
            router.within = self.within

    def within(self, router: Router, scores: Tensor, bias: Tensor) -> Tensor:
        """Return b and the sequence's bias of each token: scores (B, T, E), b (E,) -> (B, T, E)."""
        fair, length = router.top_k / scores.shape[-1], scores.shape[1]
        counts = torch.zeros_like(scores[:, 0], dtype=torch.int64)  # c, (B, E)
        parts = []
        for start in range(0, length, self.block):
            part = scores[:, start : start + self.block]
            error = (start * fair - counts) / ((start + self.prior) * fair)
            by_token = (bias + self.strength * error).unsqueeze(1).expand_as(part)
            parts.append(by_token)
            if start + self.block < length:
                experts = router.select(part.flatten(0, 1), by_token.flatten(0, 1)).view(len(scores), -1)
                counts = counts.scatter_add(1, experts, torch.ones_like(experts))
        return torch.cat(parts, dim=1)

    def observe(self, micro_batch: MicroBatch) -> None:
        """Count the choices by s + b."""
        loads = []
        for router, routing in zip(self._routers, micro_batch.routings, strict=True):
            experts = router.select(routing.scores, routing.bias).flatten()
            loads.append(torch.zeros_like(routing.load).scatter_add(0, experts, torch.ones_like(experts)))
        self._loads.append(torch.stack(loads))

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Apply the sign rule to the loads by s + b, in place of those of the step: (L, E)."""
        return super().bias_update(self._loads_by_bias(), progress)

    def _loads_by_bias(self) -> Tensor:
        """Loads by s + b of the step, over all ranks, (L, E); the next step starts without them."""
        loads = sum_over_ranks(torch.stack(self._loads).sum(dim=0))
        self._loads.clear()
        return loads
