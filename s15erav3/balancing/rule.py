"""Base class of load-based bias rules: update rate, schedule, centring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from s15erav3.balancing.base import Balancer
from s15erav3.balancing.refuse import require_choice_by_score
from s15erav3.errors import UserError, check_flag, check_number
from s15erav3.model import Router

RateSchedule = Literal["constant", "cosine", "freeze"]


class LoadRule(Balancer):
    """Bias update from the error e of the loads with rate u: ``b_i <- b_i + u (e_i - mean_j e_j)``.

    Centring does not change the selection (only differences of biases matter) and prevents a common drift of
    the biases when more experts are on one side of the mean than on the other.

    Args:
        rate: u, the update rate: the bias update for an error of 1, in units of the affinity score.
        schedule: ``constant``; ``cosine``, decaying to 0 at the end; ``freeze``, constant, then 0 after the
            fraction ``freeze_at`` of training, as in DeepSeek-V3.
        freeze_at: fraction of training, 0 to 1; used only by ``freeze``.
        centred: subtract the mean of the errors.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self, rate: float, schedule: RateSchedule = "constant", freeze_at: float = 0.9, centred: bool = True
    ) -> None:
        super().__init__()
        check_number("balancing.rate", rate, above=0, hint="; use balancing=none for no balancing")
        if schedule not in get_args(RateSchedule):
            raise UserError(
                f"balancing.schedule={schedule} is unknown; choose one of {', '.join(get_args(RateSchedule))}."
            )
        check_number("balancing.freeze_at", freeze_at, at_least=0, at_most=1)
        check_flag("balancing.centred", centred)
        self.rate, self.schedule, self.freeze_at, self.centred = rate, schedule, freeze_at, centred

    def attach(self, routers: Sequence[Router]) -> None:
        """Reject expert choice, which does not use the bias."""
        require_choice_by_score(routers, type(self).__name__)

    def error(self, loads: Tensor) -> Tensor:
        """Return how far each expert is below its fair share, fp32, (L, E), from loads (L, E)."""
        raise NotImplementedError

    def rate_at(self, progress: float) -> float:
        """Return u at the training fraction ``progress``."""
        if self.schedule == "cosine":
            return self.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        if self.schedule == "freeze" and progress >= self.freeze_at:
            return 0.0
        return self.rate

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Apply the rule of the class docstring: loads (L, E) -> (L, E)."""
        error = self.error(loads)
        if self.centred:
            error = error - error.mean(dim=-1, keepdim=True)
        return self.rate_at(progress) * error


def relative_error(loads: Tensor) -> Tensor:
    """``(c̄ - c_i) / c̄`` with the mean load c̄: 1 for an expert without tokens; (L, E) -> fp32, (L, E)."""
    mean = loads.sum(dim=-1, keepdim=True) / loads.shape[-1]
    return ((mean - loads) / mean).float()
