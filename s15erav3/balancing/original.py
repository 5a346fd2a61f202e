"""The rule of the original course project, as a baseline."""

from __future__ import annotations

from torch import Tensor

from s15erav3.balancing.rule import LoadRule


class OriginalRule(LoadRule):
    """Change each bias by the signed square of the expert's deviation from its fair share of the load.

    With the load fraction f_i of expert i among E experts,

        d_i = f_i - 1 / E,    b_i <- b_i - rate |d_i| d_i.

    The original computed f from other inputs than those it routed, and also trained the bias as a parameter.
    Here the loads are those of the routing, and only the rule updates the bias.

    Args:
        rate: the update rate, 0.1 in the original.

    Raises:
        UserError: the rate is not positive.
    """

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__(rate, centred=False)

    def error(self, loads: Tensor) -> Tensor:
        """Compute ``-|d_i| d_i`` from loads: (L, E) -> (L, E)."""
        distance = loads.float() / loads.sum(dim=-1, keepdim=True) - 1 / loads.shape[-1]
        return -distance.abs() * distance
