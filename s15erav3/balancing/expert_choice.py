"""Expert choice (arXiv 2202.09368): even by construction, but not causal."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from s15erav3.balancing.base import Balancer
from s15erav3.errors import UserError
from s15erav3.model import Router


class ExpertChoice(Balancer):
    """Each expert takes its N K / E highest-scoring tokens of a batch, so loads are always even.

    **Not causal**, in evaluation as in training: whether an expert takes a token depends on later tokens. Losses
    are lower than an autoregressive model could reach, so this serves as a control only; ``sample`` and
    ``export`` reject such a model.

    ``conf/balancing/expert_choice.yaml`` also sets ``experts.topk_method``.
    """

    causal = False
    selects = True
    router_settings = MappingProxyType(
        {"topk_method": "expert_choice", "scoring_func": "softmax", "norm_topk_prob": False}
    )

    def attach(self, routers: Sequence[Router]) -> None:
        """Reject routers in which tokens choose experts."""
        if not all(router.expert_choice for router in routers):
            raise UserError(
                "balancing=expert_choice needs experts.topk_method=expert_choice, found noaux_tc; leave that setting "
                "to balancing=expert_choice."
            )
