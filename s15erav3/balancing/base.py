"""What every balancing strategy is: a loss term, a change of bias, or both; and the loads they see.

Shapes: L MoE layers, E routed experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s15erav3.model import Router, Routing


class Balancer(nn.Module):
    """Base of all strategies. Override :meth:`loss`, :meth:`bias_change`, or both.

    State between steps belongs in buffers: they are checkpointed and moved with the model.
    """

    def loss(self, routings: Sequence[Routing]) -> Tensor | None:
        """A term added to the training loss of one micro-batch, in nats per token; ``None`` for no term.

        Args:
            routings: one per MoE layer, with gradients in ``scores`` and ``weights``.
        """
        return None

    def bias_change(self, loads: Tensor, progress: float) -> Tensor:
        """How far each router's bias moves after one optimizer step.

        Args:
            loads: tokens received in that step, summed over micro-batches and ranks, int64, (L, E).
            progress: share of training done, 0 to 1.

        Returns:
            fp32, (L, E).
        """
        return torch.zeros(loads.shape, dtype=torch.float32, device=loads.device)


def stack_loads(routings: Sequence[Routing]) -> Tensor:
    """Loads of all layers in one tensor, int64, (L, E)."""
    return torch.stack([routing.load for routing in routings])


def sum_over_ranks(loads: Tensor) -> Tensor:
    """Global loads from each rank's own: one all-reduce for all layers, none in a single process."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(loads)
    return loads


@torch.no_grad()
def move_biases(routers: Sequence[Router], change: Tensor) -> None:
    """Add row l of ``change`` (L, E) to the bias of router l, in place."""
    torch._foreach_add_([router.bias for router in routers], list(change.unbind()))
