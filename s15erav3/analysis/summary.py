"""From what was counted to numbers with a name.

Shapes: L MoE layers, E routed experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from s15erav3.analysis.collect import Routed
from s15erav3.analysis.measure import Measured
from s15erav3.analysis.specialisation import mutual_information
from s15erav3.balancing.diagnostics import bias_norm, bias_spread, dead_experts, evenness, random_floor
from s15erav3.balancing.routing_diagnostics import coactivation_share


def summary(measured: Measured) -> dict[str, Any]:
    """All results flat under their names: cost; ``balance/NAME``, means over layers; ``layer_NN/NAME``;
    ``specialisation/DOMAIN/NAME``; ``layers``, ``load`` and ``bias`` (L, E) as lists.

    What a model cannot show is absent: all but the cost without experts, ``balance/margin``, ``balance/next_churn``,
    ``balance/maxvio_floor`` and ``balance/coactivation_even`` where experts choose tokens.
    """
    routed, result = measured.routed, dict[str, Any](measured.cost)
    if routed is None:
        return result
    experts, tokens = routed.loads.shape[-1], int(measured.cost["tokens"])
    spread = evenness(routed.loads)
    others = {
        "bias_norm": bias_norm(routed.biases),
        "bias_spread": bias_spread(routed.biases),
        "coactivation": closest_companion(routed.coactivation),
        **routed.per_layer,
    }
    result |= {f"balance/{name}_global": value.mean().item() for name, value in spread.items()}
    result["balance/dead_experts_global"] = int(dead_experts(routed.loads).sum())
    result |= {f"balance/{name}": value.mean().item() for name, value in others.items()}
    if routed.top_k is not None:
        result["balance/maxvio_floor"] = random_floor(tokens, experts, routed.top_k)
        result["balance/coactivation_even"] = (routed.top_k - 1) / max(1, experts - 1)
    by_layer = spread | others | specialisation(routed)
    result |= {name: value.mean().item() for name, value in specialisation(routed).items()}
    for i, layer in enumerate(routed.layers):
        result |= {f"layer_{layer:02d}/{name}": value[i].item() for name, value in by_layer.items()}
    return result | {"layers": routed.layers, "load": routed.loads.tolist(), "bias": routed.biases.tolist()}


def specialisation(routed: Routed) -> dict[str, Tensor]:
    """Of each domain, (L,) each: ``bits`` (corrected), ``bits_plug_in``, and ``share`` of the value's entropy."""
    found = {}
    for domain, counts in routed.domains.items():
        information = mutual_information(counts.slots)
        found[f"specialisation/{domain}/bits"] = information.corrected
        found[f"specialisation/{domain}/bits_plug_in"] = information.plug_in
        found[f"specialisation/{domain}/share"] = information.share
    return found


def closest_companion(coactivation: Tensor) -> Tensor:
    """How much of its tokens an expert shares with the one it shares most with, mean over experts that have any:
    counts (L, E, E) -> (L,)."""
    share = coactivation_share(coactivation)
    share = share.masked_fill(torch.eye(share.shape[-1], dtype=torch.bool), 0.0).amax(dim=-1)
    alive = coactivation.diagonal(dim1=-2, dim2=-1) > 0
    return (share * alive).sum(dim=-1) / alive.sum(dim=-1)
