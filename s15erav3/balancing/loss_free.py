"""Loss-free balancing (arXiv 2408.15664; DeepSeek-V3, arXiv 2412.19437, section 2.1.2)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from s15erav3.balancing.base import Balancer
from s15erav3.errors import UserError, check_number

RateSchedule = Literal["constant", "cosine", "freeze"]


class LossFree(Balancer):
    """The sign rule: raise the bias of experts below the mean load, lower it above.

    With the mean load c̄ over experts and load c_i of one optimizer step,

        e_i = sign(c̄ - c_i),    b_i <- b_i + u (e_i - mean_j e_j).

    Centring leaves every choice as it is (only differences of biases matter) and keeps the biases from
    drifting away together when more experts lie on one side of the mean than on the other.

    Args:
        rate: u, in units of the affinity score.
        schedule: ``constant``; ``cosine`` down to 0 at the end; ``freeze``, constant, then 0 from the
            share ``freeze_at`` of training on, as in DeepSeek-V3.
        freeze_at: share of training, 0 to 1; only ``freeze`` reads it.
        centred: subtract the mean of the signs.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self, rate: float, schedule: RateSchedule = "constant", freeze_at: float = 0.9, centred: bool = True
    ) -> None:
        super().__init__()
        check_number("balancing.rate", rate, above=0, hint="; take balancing=none for no balancing")
        if schedule not in get_args(RateSchedule):
            raise UserError(
                f"balancing.schedule={schedule} is unknown; choose one of {', '.join(get_args(RateSchedule))}."
            )
        check_number("balancing.freeze_at", freeze_at, at_least=0, at_most=1)
        self.rate, self.schedule, self.freeze_at, self.centred = rate, schedule, freeze_at, centred

    def rate_at(self, progress: float) -> float:
        """u when the share ``progress`` of training is done."""
        if self.schedule == "cosine":
            return self.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        if self.schedule == "freeze" and progress >= self.freeze_at:
            return 0.0
        return self.rate

    def bias_change(self, loads: Tensor, progress: float) -> Tensor:
        """See the class; loads (L, E) -> (L, E)."""
        # Sums, not means, are compared: in integers a load equal to the mean has sign 0 exactly.
        error = torch.sign(loads.sum(dim=-1, keepdim=True) - loads * loads.shape[-1]).float()
        if self.centred:
            error = error - error.mean(dim=-1, keepdim=True)
        return self.rate_at(progress) * error
