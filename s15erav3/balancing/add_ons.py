"""Add-ons for any strategy: z-loss, capacity with dropping, router jitter, expert dropout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s15erav3.balancing.base import Balancer, MicroBatch
from s15erav3.balancing.refuse import refuse_expert_choice
from s15erav3.errors import UserError, check_number
from s15erav3.model import ConfigError, Router, TrainingRules


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
        """Set the rules on every router. Reject a capacity with expert choice, which already has one."""
        if self.rules.capacity_factor is not None:
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
    """A strategy and its add-ons as one balancer: losses are summed, the bias update is the strategy's."""

    def __init__(self, strategy: Balancer, add_ons: AddOns) -> None:
        super().__init__()
        self.strategy, self.add_ons = strategy, add_ons
        self.causal, self.router_settings = strategy.causal, strategy.router_settings

    def attach(self, routers: Sequence[Router]) -> None:
        """Attach both, the add-ons last."""
        self.strategy.attach(routers)
        self.add_ons.attach(routers)

    def loss(self, micro_batch: MicroBatch) -> Tensor | None:
        """Sum of the losses that are not ``None``."""
        terms = [t for part in (self.strategy, self.add_ons) if (t := part.loss(micro_batch)) is not None]
        return torch.stack(terms).sum() if terms else None

    def observe(self, micro_batch: MicroBatch) -> None:
        """Delegate to the strategy."""
        self.strategy.observe(micro_batch)

    def bias_update(self, loads: Tensor, progress: float) -> Tensor:
        """Delegate to the strategy."""
        return self.strategy.bias_update(loads, progress)
