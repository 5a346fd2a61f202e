"""Anticipatory routing (DeepSeek-V4, arXiv 2606.19348): experts chosen by the weights of some steps before.

Shapes: P elements of all weights and biases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from s15erav3.balancing.base import MicroBatch
from s15erav3.balancing.loss_free import LossFree
from s15erav3.balancing.rule import RateSchedule
from s15erav3.errors import check_number
from s15erav3.model import Output, Router


class Anticipatory(LossFree):
    """In step t a token's experts are those that the whole model of step t - lag would choose; all else, the weights
    of the chosen experts included, is computed by the model of step t. Biases follow the sign rule.

    So routers and experts do not react to each other within a step. The paper describes it as a remedy for spikes of
    the loss. It computes a batch's experts ``lag`` steps ahead, when its weights are the current ones; here the old
    weights are kept and used when the batch comes, which gives the same choice. In training only: evaluation and
    generation choose by the current weights. Written from descriptions of the paper; no implementation was at hand.

    Costs a forward pass without gradients for each micro-batch, and memory for ``lag + 1`` copies of the weights,
    which are in the checkpoint. Before step ``lag + 1`` the weights of the first step are taken.

    Args:
        rate: of the sign rule, as in :class:`LoadRule`.
        lag: age of the weights that choose, in optimizer steps.
        schedule: of the rate, as in :class:`LoadRule`.
        freeze_at: as in :class:`LoadRule`.
        centred: as in :class:`LoadRule`.

    Raises:
        UserError: a value is out of range.
    """

    reads_weights = True

    past: Tensor
    """Weights and biases of the last ``lag + 1`` steps, the oldest first, fp32, (lag + 1, P)."""
    known: Tensor
    """Whether ``past`` holds any; bool, a scalar."""

    def __init__(
        self,
        rate: float,
        lag: int = 1,
        schedule: RateSchedule = "constant",
        freeze_at: float = 0.9,
        centred: bool = True,
    ) -> None:
        super().__init__(rate, schedule, freeze_at, centred)
        check_number("balancing.lag", lag, at_least=1, whole=True)
        self.lag = lag
        self._net: tuple[nn.Module, ...] = ()  # a tuple, which makes it no part of this module
        self._routers: list[Router] = []
        self._kept = False

    def attach_net(self, net: nn.Module) -> None:
        """Store the model."""
        self._net = (net,)

    def attach(self, routers: Sequence[Router]) -> None:
        """Make room for the weights of the last steps."""
        super().attach(routers)
        self._routers = list(routers)
        now = self._now()
        room = torch.zeros(self.lag + 1, sum(part.numel() for part in now), device=now[0].device)
        self.register_buffer("past", room)
        self.register_buffer("known", torch.zeros((), dtype=torch.bool, device=now[0].device))

    def before_forward(self, forward: Callable[[], Output]) -> None:
        """Let the old model choose the experts of the micro-batch; keep the current weights, once a step."""
        now = self._now()
        if not self._kept:
            current = torch.cat([part.detach().flatten().float() for part in now])
            later = torch.cat([self.past[1:], current.unsqueeze(0)])
            self.past.copy_(torch.where(self.known, later, current))
            self.known.fill_(True)
            self._kept = True
        old = torch.split(self.past[0], [part.numel() for part in now])
        with torch.no_grad(), holding(now, old):
            found = forward().routings
        for router, routing in zip(self._routers, found, strict=True):
            router.given = routing.experts

    def observe(self, micro_batch: MicroBatch) -> None:
        """Forget the choice, which is for this micro-batch only."""
        for router in self._routers:
            router.given = None

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """The sign rule; the step is over."""
        self._kept = False
        return super().bias_update(loads, progress)

    def _now(self) -> list[Tensor]:
        """The tensors that decide on routing; looked up each time, since a move to a device replaces them."""
        weights = [weight for net in self._net for weight in net.parameters()]
        return [*weights, *(router.bias for router in self._routers)]


@contextmanager
def holding(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Let tensors hold other values, flat and fp32; nothing of the tensors is copied."""
    own = [tensor.data for tensor in tensors]
    try:
        for tensor, value in zip(tensors, values, strict=True):
            tensor.data = value.view(tensor.shape).to(tensor.dtype)
        yield
    finally:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = data
