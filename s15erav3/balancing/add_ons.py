"""Add-ons for any strategy: further losses, z-loss, capacity with dropping, router jitter, expert dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from s15erav3.balancing.base import Balancer, MicroBatch
from s15erav3.balancing.refuse import refuse_any_number, refuse_expert_choice
from s15erav3.errors import UserError, check_number
from s15erav3.model import ConfigError, Output, RoutedExperts, Router, TrainingRules


class AddOns(Balancer):
    """Router z-loss and the routers' :class:`TrainingRules`.

    Args:
        z_loss: weight of ``sum_l mean over tokens of logsumexp(logits)^2`` (ST-MoE, arXiv 2202.08906, eq. 5: 1e-3);
            0 disables it.
        router_jitter: see :class:`TrainingRules`.
        capacity_factor: see :class:`TrainingRules`.
        expert_dropout: see :class:`TrainingRules`.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self,
        z_loss: float = 0.0,
        router_jitter: float = 0.0,
        capacity_factor: float | None = None,
        expert_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_number("balancing.z_loss", z_loss, at_least=0)
        self.z_loss = z_loss
        try:
            self.rules = TrainingRules(
                router_jitter=router_jitter, capacity_factor=capacity_factor, expert_dropout=expert_dropout
            )
        except ConfigError as error:
            raise UserError(f"balancing.{error}.") from error

    def attach(self, routers: Sequence[Router]) -> None:
        """Set the rules on every router. Reject a capacity where tokens have no fixed number of experts."""
        if self.rules.capacity_factor is not None:
            refuse_any_number(routers, f"capacity_factor={self.rules.capacity_factor}")
            refuse_expert_choice(routers, f"capacity_factor={self.rules.capacity_factor}")
        for router in routers:
            router.rules = self.rules

    def loss(self, micro_batch: MicroBatch) -> Tensor | None:
        """The z-loss, a scalar."""
        if not self.z_loss:
            return None
        sizes = [routing.logits.logsumexp(dim=-1).square().mean() for routing in micro_batch.routings]
        return self.z_loss * torch.stack(sizes).sum()


class Combined(Balancer):
    """A strategy, further losses and add-ons as one balancer: losses are summed, the bias update is the strategy's.

    Args:
        strategy: the choice of the group ``balancing``.
        add_ons: z-loss and training rules.
        losses: further losses by name; none may select experts (:attr:`Balancer.selects`).

    Raises:
        UserError: a loss selects experts as well.
    """

    def __init__(
        self, strategy: Balancer, add_ons: AddOns, losses: Mapping[str, Balancer] = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.strategy, self.add_ons, self.losses = strategy, add_ons, nn.ModuleList(losses.values())
        self.causal = strategy.causal and all(loss.causal for loss in losses.values())
        self.router_settings = strategy.router_settings
        for name, loss in losses.items():
            if loss.selects:
                raise UserError(
                    f"balancing.loss.{name} is {type(loss).__name__}, which selects experts, and only a loss can be "
                    f"added to {type(strategy).__name__}; make it the strategy (balancing=...) or take it out."
                )

    def parts(self) -> Iterator[Balancer]:
        """The strategy, the losses, the add-ons."""
        yield self.strategy
        yield from self.losses  # type: ignore[misc]
        yield self.add_ons

    def prepare(self, token_counts: Callable[[], NDArray[np.int64]]) -> None:
        """Prepare all parts."""
        for part in self.parts():
            part.prepare(token_counts)

    def attach_net(self, net: nn.Module) -> None:
        """Give it to all parts."""
        for part in self.parts():
            part.attach_net(net)

    def attach_experts(self, experts: Sequence[RoutedExperts]) -> None:
        """Give them to all parts."""
        for part in self.parts():
            part.attach_experts(experts)

    def attach(self, routers: Sequence[Router]) -> None:
        """Attach all parts, the add-ons last."""
        for part in self.parts():
            part.attach(routers)

    def before_forward(self, forward: Callable[[], Output]) -> None:
        """Let all parts prepare."""
        for part in self.parts():
            part.before_forward(forward)

    def loss(self, micro_batch: MicroBatch) -> Tensor | None:
        """Sum of the losses that are not ``None``."""
        terms = [t for part in self.parts() if (t := part.loss(micro_batch)) is not None]
        return torch.stack(terms).sum() if terms else None

    def observe(self, micro_batch: MicroBatch) -> None:
        """Let all parts observe."""
        for part in self.parts():
            part.observe(micro_batch)

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """The strategy's update; the losses, which have none, end their step."""
        for loss in self.losses:
            loss.bias_update(loads, progress)  # type: ignore[operator]
        return self.strategy.bias_update(loads, progress)
