"""Expert choice (arXiv 2202.09368): even by construction, and no language model."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from s15erav3.balancing.base import Balancer
from s15erav3.errors import UserError
from s15erav3.model import Router


class ExpertChoice(Balancer):
    """Each expert takes the N K / E tokens of a batch that score highest with it: nothing is left to balance.

    **The future leaks**, in evaluation as in training: whether an expert takes a token depends on the tokens
    after it. Losses are lower than any that a model could reach word by word, so this is a control only;
    ``sample`` and ``export`` refuse such a model.

    ``conf/balancing/expert_choice.yaml`` sets ``experts.topk_method`` along with it.
    """

    causal = False
    router_settings = MappingProxyType(
        {"topk_method": "expert_choice", "scoring_func": "softmax", "norm_topk_prob": False}
    )

    def attach(self, routers: Sequence[Router]) -> None:
        """Refuse routers whose tokens choose."""
        if not all(router.expert_choice for router in routers):
            raise UserError(
                "balancing=expert_choice needs experts.topk_method=expert_choice, found noaux_tc; leave that setting "
                "to balancing=expert_choice."
            )
