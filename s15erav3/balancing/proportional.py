"""The proportional rule, a variant of loss-free balancing (arXiv 2408.15664, section 4.3)."""

from __future__ import annotations

from torch import Tensor

from s15erav3.balancing.rule import LoadRule, relative_error


class Proportional(LoadRule):
    """Change each bias by its expert's relative error, so that the update shrinks as the loads become even:

        e_i = (c̄ - c_i) / c̄,    b_i <- b_i + u (e_i - mean_j e_j).

    The paper uses the error in tokens; dividing by the mean makes it independent of the batch size. It sums
    to 0 over experts, so centring only affects rounding.
    """

    def error(self, loads: Tensor) -> Tensor:
        """Compute e from loads: (L, E) -> (L, E)."""
        return relative_error(loads)
