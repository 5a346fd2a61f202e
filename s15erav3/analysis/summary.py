"""Named summary metrics from the measured counts.

Shapes: L MoE layers, E routed experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from s15erav3.analysis.collect import Routed
from s15erav3.analysis.measure import Measured
from s15erav3.analysis.specialisation import mutual_information
from s15erav3.balancing.diagnostics import (
    bias_norm,
    bias_spread,
    dead_experts,
    evenness,
    load_percentiles,
    random_floor,
)
from s15erav3.balancing.routing_diagnostics import coactivation_share


def summary(measured: Measured) -> dict[str, Any]:
    """Return all results as a flat mapping.

    Keys are ``text/*``, the loss; ``balance/NAME``, means over layers; ``layer_NN/NAME``;
    ``specialisation/DOMAIN/NAME``; ``layers``, ``load`` and ``bias`` (L, E) as lists.

    Inapplicable results are absent: everything except ``text/*`` for a model without experts; ``balance/margin``,
    ``balance/next_churn``, ``balance/maxvio_floor_global`` and ``balance/coactivation_even`` with expert choice.
    """
    routed = measured.routed
    result: dict[str, Any] = {f"text/{name}": value for name, value in measured.cost.items()}
    if routed is None:
        return result
    experts, tokens = routed.loads.shape[-1], int(measured.cost["tokens"])
    spread = {f"{name}_global": value for name, value in evenness(routed.loads).items()}
    others = {
        "bias_norm": bias_norm(routed.biases),
        "bias_spread": bias_spread(routed.biases),
        "coactivation": closest_companion(routed.coactivation),
        **routed.per_layer,
    }
    result |= {f"balance/{name}_global": value.item() for name, value in load_percentiles(routed.loads).items()}
    result["balance/dead_experts_global"] = int(dead_experts(routed.loads).sum())
    result |= {f"balance/{name}": value.mean().item() for name, value in (spread | others).items()}
    biases = torch.cat([routed.biases, routed.biases_ahead])
    result |= {
        "balance/bias_norm": bias_norm(biases).mean().item(),
        "balance/bias_spread": bias_spread(biases).mean().item(),
    }
    if routed.top_k is not None:
        result["balance/maxvio_floor_global"] = random_floor(tokens, experts, routed.top_k)
        result["balance/coactivation_even"] = (routed.top_k - 1) / max(1, experts - 1)
    by_layer = spread | others | specialisation(routed)
    result |= {name: value.mean().item() for name, value in specialisation(routed).items()}
    for i, layer in enumerate(routed.layers):
        result |= {f"layer_{layer:02d}/{name}": value[i].item() for name, value in by_layer.items()}
    return result | {"layers": routed.layers, "load": routed.loads.tolist(), "bias": routed.biases.tolist()}


def specialisation(routed: Routed) -> dict[str, Tensor]:
    """Return (L,) each per domain: ``bits`` (corrected), ``bits_plug_in``, ``share`` of the value's entropy
    and ``share_of_expert``, of the expert's."""
    found = {}
    for domain, counts in routed.domains.items():
        information = mutual_information(counts.slots)
        found[f"specialisation/{domain}/bits"] = information.corrected
        found[f"specialisation/{domain}/bits_plug_in"] = information.plug_in
        found[f"specialisation/{domain}/share"] = information.share
        found[f"specialisation/{domain}/share_of_expert"] = information.share_of_expert
    return found


def closest_companion(coactivation: Tensor) -> Tensor:
    """Largest fraction of tokens that an expert shares with another: counts (L, E, E) -> (L,).

    The mean over experts that have tokens.
    """
    share = coactivation_share(coactivation)
    share = share.masked_fill(torch.eye(share.shape[-1], dtype=torch.bool), 0.0).amax(dim=-1)
    alive = coactivation.diagonal(dim1=-2, dim2=-1) > 0
    return (share * alive).sum(dim=-1) / alive.sum(dim=-1)
