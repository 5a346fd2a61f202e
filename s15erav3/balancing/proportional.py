"""The proportional rule, a variant of loss-free balancing (arXiv 2408.15664, section 4.3)."""

from __future__ import annotations

from torch import Tensor

from s15erav3.balancing.rule import LoadRule, relative_error


class Proportional(LoadRule):
    """Move each bias by its expert's relative error, so that the bias update shrinks as the loads become even:

        e_i = (c̄ - c_i) / c̄,    b_i <- b_i + u (e_i - mean_j e_j).

    The paper takes the error in tokens; over the mean it does not depend on the size of the batch. Its sum
    over experts is 0, so centring changes nothing but rounding.
    """

    def error(self, loads: Tensor) -> Tensor:
        """See the class; loads (L, E) -> (L, E)."""
        return relative_error(loads)
