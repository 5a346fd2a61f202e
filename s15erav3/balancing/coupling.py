"""Expert-router coupling (ERC, arXiv 2512.23447): a loss that ties each router row to what its expert responds to.

Shapes: E experts, D hidden, F width of an expert.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s15erav3.balancing.base import Balancer, MicroBatch
from s15erav3.errors import UserError, check_number
from s15erav3.model import RoutedExperts, Router


class ExpertRouterCoupling(Balancer):
    """Row R_i of the router stands for the tokens of expert i. Let every expert's gate projection W_j see every row,
    with noise that leaves it closest to itself:

        M_ij = || W_j (R_i * d_i) ||_2,    d_i ~ U(1 - e_i, 1 + e_i)^D,    e_i = min_j ||R_i - R_j|| / (2 ||R_i||)
        loss = alpha sum over layers of 1 / E^2 sum_{i != j} max(M_ij - m M_ii, 0) + max(M_ji - m M_ii, 0).

    So an expert responds most to its own row, and a row gets most response from its own expert. Loads are not used: it
    is a loss to add to a strategy. Its cost depends on E^2 F D, not on the tokens.

    Args:
        alpha: weight of the loss (the paper: 1).
        margin: m, from 0 to 1; lower values ask for more specialised experts (the paper's alpha: 1).

    Raises:
        UserError: a value is out of range.
    """

    reads_weights = True

    def __init__(self, alpha: float = 1.0, margin: float = 1.0) -> None:
        super().__init__()
        check_number("balancing.alpha", alpha, above=0, hint="; use balancing=none for no balancing")
        check_number("balancing.margin", margin, at_least=0, at_most=1)
        self.alpha, self.margin = alpha, margin
        self._pairs: list[tuple[Router, RoutedExperts]] = []
        self._experts: list[RoutedExperts] = []

    def attach_experts(self, experts: Sequence[RoutedExperts]) -> None:
        """Store the experts, whose gate projections the loss reads."""
        self._experts = list(experts)

    def attach(self, routers: Sequence[Router]) -> None:
        """Reject layers with one expert, which has no other to differ from."""
        if len(routers[0].bias) < 2:
            raise UserError(
                "balancing by expert-router coupling needs experts.n_routed_experts of at least 2, found 1."
            )
        self._pairs = list(zip(routers, self._experts, strict=True)) if self._experts else []

    def loss(self, micro_batch: MicroBatch) -> Tensor:
        """Compute the loss of the class docstring: a scalar."""
        return self.alpha * torch.stack([self._of_layer(*pair) for pair in self._pairs]).sum()

    def _of_layer(self, router: Router, experts: RoutedExperts) -> Tensor:
        with torch.autocast(router.weight.device.type, enabled=False):
            rows = router.weight[: len(router.bias)].float()  # zero experts have no gate projection
            noise = torch.empty_like(rows).uniform_(-1, 1) * reach(rows.detach()).unsqueeze(1)
            gates = experts.gate_up_proj[:, : experts.down_proj.shape[-1]].float()  # (E, F, D)
            response = torch.einsum("jfd,id->ijf", gates, rows * (1 + noise)).norm(dim=-1)  # M, (E, E)
            own = self.margin * response.diagonal().unsqueeze(1)
            over: Tensor = (response - own).relu() + (response.t() - own).relu()
            return (over.sum() - over.diagonal().sum()) / over.numel()


def reach(rows: Tensor) -> Tensor:
    """Half the distance of each row to the nearest other one over its own length: (E, D) -> (E,)."""
    distance = (rows.unsqueeze(1) - rows).norm(dim=-1)
    nearest: Tensor = distance.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), torch.inf).amin(
        dim=-1
    )
    lengths: Tensor = rows.norm(dim=-1)
    return nearest / (2 * lengths).clamp(min=1e-20)
