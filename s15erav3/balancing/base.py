"""Base class of balancing strategies (a loss term, a bias update, or both), and the loads they receive.

Shapes: L MoE layers, E routed experts, N tokens of a micro-batch in one layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from s15erav3.model import Output, RoutedExperts, Router, Routing


class MicroBatch(NamedTuple):
    """Routings of one training forward pass."""

    routings: Sequence[Routing]
    """One per MoE layer, with gradients in ``scores``, ``logits`` and ``weights``."""
    sequences: int
    """B: the N tokens of a routing are B concatenated sequences of equal length."""


class Balancer(nn.Module):
    """Base class of all strategies. Override :meth:`loss`, :meth:`bias_update`, or both.

    Keep state between steps in buffers: these are checkpointed and moved with the model.
    """

    causal: bool = True
    """Whether a training token's experts depend only on earlier tokens and steps."""
    router_settings: Mapping[str, Any] = MappingProxyType({})
    """The ``experts.*`` settings that the strategy's config file also sets."""

    selects: bool = False
    """Whether the strategy decides which experts a token uses, other than through a loss. True for a class that
    overrides :meth:`bias_update` and does not say otherwise."""

    reads_weights: bool = False
    """Whether the strategy reads weights of the model, which a sharded strategy of training divides over ranks."""

    def __init_subclass__(cls, **settings: Any) -> None:
        """Derive ``selects``; accept ``bias_change``, the method's name until version 0.2, as ``bias_update``."""
        super().__init_subclass__(**settings)
        if "bias_change" in vars(cls) and "bias_update" not in vars(cls):
            warnings.warn(f"{cls.__qualname__}.bias_change is now called bias_update", DeprecationWarning, stacklevel=2)
            cls.bias_update = cls.bias_change  # type: ignore[method-assign,attr-defined]
        if "bias_update" in vars(cls) and "selects" not in vars(cls):
            cls.selects = True

    def prepare(self, token_counts: Callable[[], NDArray[np.int64]]) -> None:
        """Read what the strategy needs of the text: called before :meth:`attach`, for a run that trains.

        Args:
            token_counts: counts how often each token occurs in the training part, (V,); this reads the whole part.
        """

    def parts(self) -> Iterator[Balancer]:
        """The strategies that this one is made of: itself."""
        yield self

    def attach_net(self, net: nn.Module) -> None:
        """Store the model: called before :meth:`attach`, for a run that trains."""

    def attach_experts(self, experts: Sequence[RoutedExperts]) -> None:
        """Store the experts, in the order of the routers: called before :meth:`attach`, for a run that trains."""

    def attach(self, routers: Sequence[Router]) -> None:
        """Set up the strategy for the routers of a model, in the order of its routings.

        Called once, before training or loading. Use it to set the routers' rules, allocate buffers, or reject
        models that the strategy does not support.

        Raises:
            UserError: the strategy does not support these routers.
        """

    def before_forward(self, forward: Callable[[], Output]) -> None:
        """Prepare the training forward pass of one micro-batch, which ``forward`` runs with the model as it is now."""

    def loss(self, micro_batch: MicroBatch) -> Tensor | None:
        """Return a term of the training loss of one micro-batch, in nats per token; ``None`` for no term."""
        return None

    def observe(self, micro_batch: MicroBatch) -> None:
        """Inspect the routings of one micro-batch, without gradients: for rules that need more than loads."""

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Return the change of each router's bias after one optimizer step.

        Args:
            loads: tokens received in that step, summed over micro-batches and ranks, int64, (L, E).
            progress: fraction of training completed, 0 to 1.

        Returns:
            fp32, (L, E).
        """
        return torch.zeros(loads.shape, dtype=torch.float32, device=loads.device)


def stack_loads(routings: Sequence[Routing]) -> Tensor:
    """Stack the loads of all layers into one tensor, int64, (L, E)."""
    return torch.stack([routing.load for routing in routings])


_apart: ContextVar[bool] = ContextVar("apart", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Disable communication between ranks: inside this context, sums over ranks return this rank's values."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and not _apart.get()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum values over all ranks: one in-place all-reduce, or none in a single process."""
    if _several():
        dist.all_reduce(values)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return :func:`sum_over_ranks` divided by the world size."""
    return sum_over_ranks(values) / (dist.get_world_size() if _several() else 1)


def max_over_ranks(values: Tensor) -> Tensor:
    """Take the largest values of all ranks, as in :func:`sum_over_ranks`."""
    if _several():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def from_all_ranks(values: Tensor) -> Tensor:
    """Gather rows (N, ...) of all ranks into (ranks N, ...); N must be the same on each rank."""
    if not _several():
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def of_trained(routers: Sequence[Router], update: Tensor) -> Tensor:
    """Zero the rows of ``update`` (L, E) for frozen routers: if the matrix is not trained, neither is the bias."""
    trained = [router.weight.requires_grad for router in routers]
    return update if all(trained) else update * update.new_tensor(trained).unsqueeze(1)


@torch.no_grad()
def update_biases(routers: Sequence[Router], update: Tensor) -> None:
    """Add row l of ``update`` (L, E) to the bias of router l, in place."""
    torch._foreach_add_([router.bias for router in routers], list(update.unbind()))
