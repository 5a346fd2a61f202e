"""Loss-free balancing (arXiv 2408.15664, algorithm 1; DeepSeek-V3, arXiv 2412.19437, section 2.1.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from s15erav3.balancing.rule import LoadRule


class LossFree(LoadRule):
    """The sign rule: raise the bias of experts below the mean load, lower it above.

    With the mean load c̄ over experts and load c_i of one optimizer step,

        e_i = sign(c̄ - c_i),    b_i <- b_i + u (e_i - mean_j e_j).
    """

    def error(self, loads: Tensor) -> Tensor:
        """Compute e from loads: (L, E) -> (L, E)."""
        # Compare sums, not means: with integers a load equal to the mean has sign 0 exactly.
        return torch.sign(loads.sum(dim=-1, keepdim=True) - loads * loads.shape[-1]).float()
