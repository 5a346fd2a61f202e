"""The Switch Transformer's recipe (arXiv 2101.03961, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from s15erav3.balancing.auxiliary import AuxiliaryLoss
from s15erav3.balancing.refuse import refuse_groups
from s15erav3.errors import UserError
from s15erav3.model import Router


class Switch(AuxiliaryLoss):
    """One expert per token with a softmax gate, a capacity and an auxiliary loss.

    Tokens beyond the capacity are dropped to the residual stream. The loss is ``alpha E sum_i f_i P_i`` of a
    micro-batch in each layer.

    ``conf/balancing/switch.yaml`` also sets the gate and the capacity (``balancing.capacity_factor``). Shared
    experts, if any, still process dropped tokens.

    Args:
        alpha: weight of the loss (the paper: 0.01).

    Raises:
        UserError: the value is out of range.
    """

    router_settings = MappingProxyType({"num_experts_per_tok": 1, "scoring_func": "softmax", "norm_topk_prob": False})

    def __init__(self, alpha: float = 0.01) -> None:
        super().__init__(alpha, "micro")

    def attach(self, routers: Sequence[Router]) -> None:
        """Reject gates other than Switch's."""
        super().attach(routers)
        refuse_groups(routers, type(self).__name__)
        for router in routers:
            found = {
                "num_experts_per_tok": router.top_k,
                "scoring_func": router.scoring,
                "norm_topk_prob": router.normalise,
            }
            wrong = [name for name, needed in self.router_settings.items() if found[name] != needed]
            if wrong:
                raise UserError(
                    f"{_settings(found, wrong)} conflicts with balancing=switch, which uses one expert per token, a "
                    f"softmax gate without normalisation, and sets {_settings(self.router_settings, wrong)} itself; "
                    "leave that out, or use another strategy, such as balancing=aux."
                )


def _settings(values: Mapping[str, Any], names: Sequence[str]) -> str:
    """Format settings as they are typed on the command line."""
    return " and ".join(f"experts.{name}={str(values[name]).lower()}" for name in names)
