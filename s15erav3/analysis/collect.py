"""Aggregation of the routings of a text.

Shapes: L MoE layers, E routed experts, V values of a domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from s15erav3.balancing.base import stack_loads
from s15erav3.balancing.routing_diagnostics import confidence, experts_per_token, saturation, top_k_margin
from s15erav3.data.labels import Domain
from s15erav3.model import Routing, Transformer, routers
from s15erav3.training.metrics import ExpertLoads
from s15erav3.training.routing_metrics import Coactivation, CountTable, TokenMean


class Counts(NamedTuple):
    """Assignment counts of one domain."""

    values: list[str]
    """Names of the V values."""
    slots: Tensor
    """(token, expert) assignments per layer, value and expert, int64, (L, V, E)."""
    tokens: Tensor
    """Number of tokens per value, int64, (V,)."""


class Routed(NamedTuple):
    """Aggregated routing over a text, on the CPU."""

    layers: list[int]
    """Indices of the L layers."""
    top_k: int | None
    """K; ``None`` where tokens have no fixed number of experts."""
    loads: Tensor
    """int64, (L, E)."""
    biases: Tensor
    """fp32, (L, E)."""
    biases_ahead: Tensor
    """Biases of the D multi-token-prediction blocks, which are not run here: fp32, (D, E)."""
    coactivation: Tensor
    """int64, (L, E, E)."""
    domains: dict[str, Counts]
    per_layer: dict[str, Tensor]
    """``confidence`` and, where they are defined, ``margin``, ``saturation``, ``next_churn`` and ``output_similarity``:
    fp64, (L,) each."""


NEXT, PREDICTED = "next_token", "predicted_token"
VOCABULARY = ("token", NEXT, PREDICTED)
"""Domains whose values are tokens: the input, the one that follows in the text, and the most probable one."""
ELSEWHERE = "(not in the text)"


def next_tokens(token: Domain) -> dict[str, Domain]:
    """Domains of the token after each token, and of the predicted one, whose codes are known only after a forward."""
    following = np.append(token.codes[1:], token.codes[-1:])
    return {NEXT: Domain(following, token.names), PREDICTED: Domain(following, [*token.names, ELSEWHERE])}


class Collector:
    """Accumulates the routings of a model batch by batch, on its device.

    Args:
        net: a model with experts.
        labels: labels of all tokens of the text, in order; the last one is not routed.
        vocabulary: ids of the values of ``labels["token"]``, to count by next token, too.
        with_reference: whether routings of another checkpoint are added too.
    """

    def __init__(
        self, net: Transformer, labels: dict[str, Domain], vocabulary: Tensor | None, *, with_reference: bool
    ) -> None:
        config, device = net.config, net.lm_head.weight.device
        self.layers = list(config.moe_layers[: config.num_moe_layers])
        n, experts = len(self.layers), config.n_routed_experts
        self.top_k = config.num_experts_per_tok if config.fixed_top_k else None
        biases = torch.stack([router.bias for router in routers(net)]).cpu()
        self.biases, self.biases_ahead = biases[:n], biases[n:]
        self.code_of: Tensor | None = None
        if vocabulary is not None:
            labels = labels | next_tokens(labels["token"])
            self.code_of = torch.full((config.vocab_size,), len(vocabulary)).scatter(
                0, vocabulary, torch.arange(len(vocabulary))
            )
            self.code_of = self.code_of.to(device)
        self.labels, self.codes = labels, {name: torch.from_numpy(domain.codes) for name, domain in labels.items()}
        self.tables = {name: CountTable(n, len(domain.names), experts).to(device) for name, domain in labels.items()}
        self.loads, self.together = ExpertLoads(n, experts).to(device), Coactivation(n, experts).to(device)
        named = [
            "confidence",
            *(["margin"] if config.adds_bias else []),
            *(["saturation"] if with_reference else []),
            *([] if config.fixed_top_k else ["experts_per_token_global"]),
        ]
        self.means = {name: TokenMean(n).to(device) for name in named}
        self.seen = 0

    def add(self, routings: Sequence[Routing], predicted: Tensor, final: Sequence[Routing] | None = None) -> None:
        """Add a batch: L routings of the next N tokens, the predicted ids (N,), and the reference's routings."""
        tokens = len(routings[0].scores)
        for name, table in self.tables.items():
            labels = self.codes[name][self.seen : self.seen + tokens].to(routings[0].scores.device)
            if name == PREDICTED and self.code_of is not None:
                labels = self.code_of[predicted]
            table.update(labels, routings)
        self.loads.update(stack_loads(routings))
        self.together.update(routings)
        self.means["confidence"].update([confidence(routing) for routing in routings], tokens)
        if "experts_per_token_global" in self.means:
            used = [experts_per_token(routing) for routing in routings]
            self.means["experts_per_token_global"].update(used, tokens)
        if "margin" in self.means:
            self.means["margin"].update([top_k_margin(routing) for routing in routings], tokens)
        if final is not None:
            pairs = zip(routings, final, strict=True)
            self.means["saturation"].update([saturation(mine, its) for mine, its in pairs], tokens)
        self.seen += tokens

    def finish(self, churn: Tensor | None, similarity: Tensor | None) -> Routed:
        """Return the results, including churn and similarity of experts (L,), which are measured separately."""
        domains = {}
        for name, table in self.tables.items():
            slots, tokens = table.compute()
            domains[name] = Counts(self.labels[name].names, slots.cpu(), tokens.cpu().reshape(-1))
        # torchmetrics turns a single element, such as the mean of a single layer, into a scalar.
        per_layer = {name: mean.compute().cpu().reshape(-1) for name, mean in self.means.items()}
        separate = {"next_churn": churn, "output_similarity": similarity}
        per_layer |= {name: its for name, its in separate.items() if its is not None}
        loads, together = self.loads.compute().cpu(), self.together.compute().cpu()
        return Routed(self.layers, self.top_k, loads, self.biases, self.biases_ahead, together, domains, per_layer)
