"""Soft-clamped momentum expert bias updates (Arcee Trinity, arXiv 2602.17004)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s15erav3.balancing.rule import LoadRule, RateSchedule, relative_error
from s15erav3.errors import check_number
from s15erav3.model import Router


class SMEBU(LoadRule):
    """A smooth sign rule: bounded for large errors, proportional for small ones, with momentum.

        v_i = tanh(kappa (c̄ - c_i) / c̄),    d_i = u (v_i - mean_j v_j),
        m_i <- beta m_i + (1 - beta) d_i,    b_i <- b_i + m_i.

    Args:
        rate: u (Trinity: 5e-4).
        kappa: steepness; the rule approaches the sign rule as it grows.
        beta: momentum coefficient, 0 to below 1.
        schedule: schedule of u, as in :class:`LoadRule`. After a freeze the momentum decays on.
        freeze_at: as in :class:`LoadRule`.
        centred: as in :class:`LoadRule`.

    Raises:
        UserError: a value is out of range.
    """

    momentum: Tensor

    def __init__(
        self,
        rate: float,
        kappa: float = 2.0,
        beta: float = 0.5,
        schedule: RateSchedule = "constant",
        freeze_at: float = 0.9,
        centred: bool = True,
    ) -> None:
        super().__init__(rate, schedule, freeze_at, centred)
        check_number("balancing.kappa", kappa, above=0)
        check_number("balancing.beta", beta, at_least=0, below=1)
        self.kappa, self.beta = kappa, beta

    def attach(self, routers: Sequence[Router]) -> None:
        """Allocate the momentum buffer, fp32, (L, E)."""
        super().attach(routers)
        self.register_buffer("momentum", torch.zeros(len(routers), len(routers[0].bias), dtype=torch.float32))

    def error(self, loads: Tensor) -> Tensor:
        """Compute v from loads: (L, E) -> (L, E)."""
        return torch.tanh(self.kappa * relative_error(loads))

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Update the momentum and return m: loads (L, E) -> (L, E)."""
        self.momentum.lerp_(super().bias_update(loads, progress), 1 - self.beta)
        return self.momentum.clone()
