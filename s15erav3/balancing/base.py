"""What every balancing strategy is: a loss term, a bias update, or both; and the loads they see.

Shapes: L MoE layers, E routed experts, N tokens of a micro-batch in one layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s15erav3.model import Router, Routing


class MicroBatch(NamedTuple):
    """What one forward pass of training routed."""

    routings: Sequence[Routing]
    """One per MoE layer, with gradients in ``scores``, ``logits`` and ``weights``."""
    sequences: int
    """B: the N tokens of a routing are B sequences of equal length, one after the other."""


class Balancer(nn.Module):
    """Base of all strategies. Override :meth:`loss`, :meth:`bias_update`, or both.

    State between steps belongs in buffers: they are checkpointed and moved with the model.
    """

    causal: bool = True
    """Whether a training token's experts depend on earlier tokens and steps alone."""
    router_settings: Mapping[str, Any] = MappingProxyType({})
    """What the strategy's config file sets of ``experts.*`` along with it."""

    def __init_subclass__(cls, **settings: Any) -> None:
        """Take ``bias_change``, as the method was called until version 0.2, for ``bias_update``."""
        super().__init_subclass__(**settings)
        if "bias_change" in vars(cls) and "bias_update" not in vars(cls):
            warnings.warn(f"{cls.__qualname__}.bias_change is now called bias_update", DeprecationWarning, stacklevel=2)
            cls.bias_update = cls.bias_change  # type: ignore[method-assign,attr-defined]

    def attach(self, routers: Sequence[Router]) -> None:
        """Called once, before anything is trained or loaded, with the routers of the model in the order of its
        routings: to set their rules, to size buffers, or to refuse a model that the strategy is not for.

        Raises:
            UserError: the strategy is not for such routers.
        """

    def loss(self, micro_batch: MicroBatch) -> Tensor | None:
        """A term added to the training loss of one micro-batch, in nats per token; ``None`` for no term."""
        return None

    def observe(self, micro_batch: MicroBatch) -> None:
        """See what one micro-batch routed, without gradients: for rules that need more than loads."""

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """What one optimizer step adds to each router's bias.

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


_apart: ContextVar[bool] = ContextVar("apart", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within it this rank asks the others for nothing, and what is summed over ranks are its own values."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and not _apart.get()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sums over all ranks of each rank's own values: one all-reduce, in place; none in a single process."""
    if _several():
        dist.all_reduce(values)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """As :func:`sum_over_ranks`, over the number of ranks."""
    return sum_over_ranks(values) / (dist.get_world_size() if _several() else 1)


def from_all_ranks(values: Tensor) -> Tensor:
    """Rows (N, ...) of every rank one after the other, (ranks N, ...); each rank has as many."""
    if not _several():
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def of_trained(routers: Sequence[Router], update: Tensor) -> Tensor:
    """``update`` (L, E) with rows of 0 for frozen routers: where the matrix learns nothing, the bias stays, too."""
    trained = [router.weight.requires_grad for router in routers]
    return update if all(trained) else update * update.new_tensor(trained).unsqueeze(1)


@torch.no_grad()
def update_biases(routers: Sequence[Router], update: Tensor) -> None:
    """Add row l of ``update`` (L, E) to the bias of router l, in place."""
    torch._foreach_add_([router.bias for router in routers], list(update.unbind()))
