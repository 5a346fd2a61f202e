"""Validation metrics: cost, loads, router confidence, and the share of choices that the last step changed.

Shapes: L MoE layers that validation runs, E routed experts, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from s15erav3.balancing.base import stack_loads
from s15erav3.balancing.diagnostics import dead_experts, evenness, load_percentiles, random_floor
from s15erav3.balancing.routing_diagnostics import churn, confidence, experts_per_token, top_k_margin
from s15erav3.model import ModelConfig, Router, Routing
from s15erav3.training.metrics import BitsPerByte, ExpertLoads
from s15erav3.training.routing_metrics import TokenMean
from s15erav3.training.step_churn import StepChurn


class Validation(nn.Module):
    """Sums over the batches and ranks of one validation, from which ``val/*`` and ``balance/*_global`` are computed.

    ``balance/churn`` is the share of probe tokens (the first batch, the same at every validation) whose
    set of experts differs with and without the last bias update, averaged over layers. ``balance/step_churn`` and
    ``balance/weight_churn``: see :class:`StepChurn`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        layers = config.num_moe_layers  # without multi-token prediction, which validation does not run
        self.cost = BitsPerByte()
        self.loads = ExpertLoads(layers, config.n_routed_experts) if layers else None
        self.last_loads: Tensor | None = None
        """Loads of the last complete validation, summed over batches and ranks: int64, (L, E)."""
        self.top_k = config.num_experts_per_tok
        self.fixed_top_k, self.by_score = config.fixed_top_k, config.chooses_by_score
        self.adds_bias = config.adds_bias
        self.confidence, self.margin, self.churn = TokenMean(layers), TokenMean(layers), TokenMean(layers)
        self.used = TokenMean(layers)
        self.step_churn = StepChurn(layers) if layers else None

    def update(self, nll: Tensor, byte_lengths: Tensor, routings: Sequence[Routing]) -> None:
        """Add a batch: summed nats, bytes of its N targets (any shape), and the routing of each layer."""
        self.cost.update(nll, byte_lengths)
        if self.loads is None:
            return
        self.loads.update(stack_loads(routings))
        self.confidence.update([confidence(routing) for routing in routings], byte_lengths.numel())
        if not self.fixed_top_k:
            self.used.update([experts_per_token(routing) for routing in routings], byte_lengths.numel())
        if self.adds_bias:
            self.margin.update([top_k_margin(routing) for routing in routings], byte_lengths.numel())

    def probe(self, routers: Sequence[Router], routings: Sequence[Routing], last_update: Tensor) -> None:
        """Count the choices that the last bias update changed: ``last_update``, (L or more, E)."""
        if self.by_score:
            turned = [
                churn(router.select(routing.scores, routing.bias - update), routing.experts)
                for router, routing, update in zip(routers, routings, last_update, strict=False)
            ]
            self.churn.update(turned, len(routings[0].scores))

    def results(self, *, probed: bool, step_probed: bool = False) -> dict[str, Tensor]:
        """All metrics by name, fp32 scalars.

        Args:
            probed: whether the biases have been updated before; without, there is no ``balance/churn``.
            step_probed: whether the probe was routed before the last step too. Both are the same on all ranks: one
                that has probed nothing must join the reduction.
        """
        cost = self.cost.compute()
        found = {"val/loss": cost["loss"], "val/bpb": cost["bpb"]}
        if self.loads is not None:
            self.last_loads = loads = self.loads.compute()
            found |= {f"balance/{name}_global": value.mean() for name, value in evenness(loads).items()}
            found |= {f"balance/{name}_global": value for name, value in load_percentiles(loads).items()}
            found["balance/dead_experts_global"] = dead_experts(loads).sum()
            found["balance/confidence"] = self.confidence.compute().mean()
            if self.fixed_top_k:
                tokens = int(loads[0].sum()) // self.top_k
                found["balance/maxvio_floor_global"] = torch.tensor(random_floor(tokens, loads.shape[-1], self.top_k))
            else:
                found["balance/experts_per_token_global"] = self.used.compute().mean()
            if self.adds_bias:
                found["balance/margin"] = self.margin.compute().mean()
            if self.by_score and probed:
                found["balance/churn"] = self.churn.compute().mean()
            if self.step_churn is not None and step_probed:
                found |= self.step_churn.results()
        return {name: value.float() for name, value in found.items()}

    def reset(self) -> None:
        """Clear all sums."""
        for metric in (self.cost, self.loads, self.confidence, self.margin, self.churn, self.used, self.step_churn):
            if metric is not None:
                metric.reset()
