"""Expert threshold routing (arXiv 2603.11535): the causal counterpart of expert choice."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from s15erav3.balancing.quantile import Quantile
from s15erav3.errors import UserError
from s15erav3.model import Router, Routing


class ExpertThreshold(Quantile):
    """A token uses every expert whose affinity is above that expert's threshold, so tokens have any number of experts:

        token t uses expert i  if  s_ti > c_i,
        c_i <- ema c_i + (1 - ema) (the 1 - K / E quantile over the step's tokens of s_ti),

    in training as in evaluation. If the affinities stay as they were, a fraction K / E of the tokens uses each expert.
    The router's bias is ``-c``. A token below all thresholds is left to the shared experts; one above more than
    ``experts.max_experts_per_tok`` uses those that it exceeds by the most, as routings have a fixed number of slots.
    Slots that are not used cost as much as those that are.

    The first steps average all steps so far, as a threshold of 0 says nothing. Written from the paper's abstract and
    first section; the value of ``ema`` is ours.

    ``conf/balancing/expert_threshold.yaml`` also sets ``experts.topk_method`` and ``experts.norm_topk_prob``: weights
    are the affinities themselves.

    Args:
        ema: weight of the old threshold, 0 to below 1.
        bins: as in :class:`Quantile`.

    Raises:
        UserError: a value is out of range.
    """

    router_settings = MappingProxyType({"topk_method": "threshold", "norm_topk_prob": False})
    steps: Tensor

    def __init__(self, ema: float = 0.9, bins: int | None = None) -> None:
        super().__init__(ema=ema, bins=bins)
        self.register_buffer("steps", torch.zeros(()))

    def attach(self, routers: Sequence[Router]) -> None:
        """Reject routers without thresholds."""
        if not all(router.by_threshold for router in routers):
            raise UserError(
                "balancing=expert_threshold needs experts.topk_method=threshold, found another one; leave that setting "
                "to balancing=expert_threshold."
            )
        self._top_k = routers[0].top_k

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Compute the change of ``-c``: (L, E)."""
        solved = self._solve()
        self._found.clear()
        kept = (self.steps / (self.steps + 1)).clamp(max=self.ema)
        self.steps += 1
        return ((1 - kept) * (solved - torch.stack(self._biases))).float()

    def _needed(self, routing: Routing) -> Tensor:
        return -routing.scores
