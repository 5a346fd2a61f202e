"""Zero-computation experts (LongCat-Flash, arXiv 2509.01322, section 2.1): tokens need not use all of their experts.

Shapes: L MoE layers, E routed experts, K of them per token on average, Z zero experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from s15erav3.balancing.base import MicroBatch, sum_over_ranks
from s15erav3.balancing.rule import LoadRule, RateSchedule
from s15erav3.errors import UserError
from s15erav3.model import Router


class ZeroExperts(LoadRule):
    """Tokens choose the top K' of E routed and Z zero experts, which return their input; a bias keeps the budget:

        b_i <- b_i + u (N K / E - c_i) / (N K / E)    for a routed expert i with load c_i in a step of N tokens.

    So a token uses K' - K zero experts on average, and each routed expert the same number of tokens. The update is not
    centred: its mean over experts is what moves the budget. The bias of zero experts stays 0.

    The paper's update is ``mu (K / (K' E) - c_i / (K' N))``, where its N, K_e and K are E, K and K' here; it is this
    one with ``u = mu K / (K' E)``. Written from restatements of it. Its loss over groups of experts on a device is left
    out. A token's zero experts are computed like routed ones and weighted with 0, so no time is saved in training.

    ``conf/balancing/zero_experts.yaml`` also sets ``experts.topk_method``, ``experts.scoring_func`` and
    ``experts.norm_topk_prob``. K is ``experts.num_experts_per_tok``, K' ``experts.max_experts_per_tok`` and Z
    ``experts.n_zero_experts``.

    Args:
        rate: u, the bias update of an expert without tokens, in units of the affinity score.
        schedule: as in :class:`LoadRule`.
        freeze_at: as in :class:`LoadRule`.

    Raises:
        UserError: a value is out of range.
    """

    router_settings = MappingProxyType(
        {"topk_method": "zero_experts", "scoring_func": "softmax", "norm_topk_prob": False}
    )

    def __init__(self, rate: float, schedule: RateSchedule = "constant", freeze_at: float = 0.9) -> None:
        super().__init__(rate, schedule, freeze_at, centred=False)
        self._top_k = 0
        self._tokens: list[Tensor] = []  # of each micro-batch and layer; not a buffer: cleared every step

    def attach(self, routers: Sequence[Router]) -> None:
        """Reject routers without zero experts."""
        if not all(router.zeros for router in routers):
            raise UserError(
                "balancing=zero_experts needs experts.topk_method=zero_experts, found another one; leave that setting "
                "to balancing=zero_experts."
            )
        self._top_k = routers[0].top_k

    def observe(self, micro_batch: MicroBatch) -> None:
        """Count the tokens, which loads do not tell here."""
        counts = [routing.load.new_full((), len(routing.scores)) for routing in micro_batch.routings]
        self._tokens.append(torch.stack(counts))

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Apply the rule of the class docstring: loads (L, E) -> (L, E)."""
        update = super().bias_update(loads, progress)
        self._tokens.clear()
        return update

    def error(self, loads: Tensor) -> Tensor:
        """How far each expert is below N K / E, relative to it: (L, E) -> (L, E)."""
        tokens = sum_over_ranks(torch.stack(self._tokens).sum(dim=0)).unsqueeze(1)
        return (1 - loads * (loads.shape[1] / self._top_k) / tokens).float()
