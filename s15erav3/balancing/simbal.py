"""SimBal: load balancing by similarity-preserving routers (arXiv 2506.14038)."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from s15erav3.balancing.base import Balancer, MicroBatch
from s15erav3.errors import check_number
from s15erav3.model import Router


class SimBal(Balancer):
    """Keep the rows of each router's matrix R (E, D) close to orthonormal, with the loss

        alpha sum over layers of || R R^T - I ||_1,    the sum of the absolute values of all entries.

    It does not use loads: similar tokens get similar logits, and no direction of token states can be
    preferred by all experts at once. ``conf/balancing/simbal.yaml`` also sets ``experts.router_init`` (section 3.1).

    Args:
        alpha: weight of the loss (the paper: 0.1).

    Raises:
        UserError: the value is out of range.
    """

    reads_weights = True
    router_settings = MappingProxyType({"router_init": "orthogonal"})

    def __init__(self, alpha: float = 0.1) -> None:
        super().__init__()
        check_number("balancing.alpha", alpha, above=0, hint="; use balancing=none for no balancing")
        self.alpha = alpha
        self._routers: list[Router] = []

    def attach(self, routers: Sequence[Router]) -> None:
        """Store the routers, whose matrices the loss reads."""
        self._routers = list(routers)

    def loss(self, micro_batch: MicroBatch) -> Tensor:
        """Compute the loss of the class docstring: a scalar."""
        rows = torch.stack([router.weight for router in self._routers]).float()  # (L, E, D)
        with torch.autocast(rows.device.type, enabled=False):
            return self.alpha * (rows @ rows.mT - torch.eye(rows.shape[1], device=rows.device)).abs().sum()
