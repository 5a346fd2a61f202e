"""One pass over a text: loss and routing statistics.

Shapes: B sequences of T tokens, L MoE layers, E routed experts, V values of a domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from s15erav3.analysis.collect import Collector, Routed
from s15erav3.analysis.similarity import output_similarity
from s15erav3.balancing.base import Balancer, MicroBatch, stack_loads
from s15erav3.balancing.routing_diagnostics import churn
from s15erav3.data.labels import Domain
from s15erav3.model import Transformer, routers
from s15erav3.training.metrics import BitsPerByte


class Measured(NamedTuple):
    """Result of :func:`measure`."""

    cost: dict[str, float | int]
    """``loss`` (nats per token), ``bpb`` (bits per byte), ``tokens`` and ``bytes``."""
    routed: Routed | None
    """``None`` for a model without experts."""
    nll: Tensor
    """Nats of each token of the part after its first, on the CPU: (N,)."""


@torch.no_grad()
def measure(
    net: Transformer,
    batches: Iterable[Tensor],
    labels: dict[str, Domain],
    byte_lengths: Tensor,
    *,
    vocabulary: Tensor | None = None,
    autocast: Callable[[], AbstractContextManager[Any]],
    reference: Transformer | None = None,
    balancer: Balancer | None = None,
) -> Measured:
    """Evaluate a model on one part of a corpus.

    Args:
        net: model in evaluation mode; everything runs on its device.
        batches: consecutive windows (B, T + 1) of the part; each token except the last is an input exactly once.
        labels: labels of all tokens of the part.
        byte_lengths: UTF-8 bytes of each token of the vocabulary.
        vocabulary: ids of the values of ``labels["token"]``, int64; with them specialisation is also measured by the
            next and by the predicted token (OLMoE, arXiv 2409.02060, section 5.4).
        autocast: autocast context of the forward passes.
        reference: second checkpoint run on each batch, for saturation; must have the same number of MoE layers,
            experts and experts per token.
        balancer: attached to the routers of ``net``; its next bias update is simulated on the first batch.

    The similarity of experts is measured on the first batch.
    """
    device = net.lm_head.weight.device
    cost, lengths = BitsPerByte().to(device), byte_lengths.to(device)
    collector = (
        Collector(net, labels, vocabulary, with_reference=reference is not None) if net.config.num_moe_layers else None
    )
    turned: Tensor | None = None
    similar: Tensor | None = None
    each: list[Tensor] = []
    for batch in batches:
        windows = batch.to(device)
        inputs, targets = windows[:, :-1], windows[:, 1:]
        with autocast():
            out = net(inputs)
            nll, predicted = token_costs(out.hidden.flatten(0, 1), net.lm_head.weight, targets.flatten())
            final = None if reference is None else reference(inputs).routings
            if net.config.n_routed_experts > 1 and similar is None:
                similar = output_similarity(net, inputs)
            if balancer is not None:
                turned, balancer = next_churn(net, balancer, inputs), None
        cost.update(nll.double().sum(), lengths[targets])
        each.append(nll)
        if collector is not None:
            collector.add(out.routings, predicted, final)
    found: dict[str, float | int] = {key: value.item() for key, value in cost.compute().items()}
    return Measured(found, None if collector is None else collector.finish(turned, similar), torch.cat(each).cpu())


def token_nll(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Nats of each target: hidden (N, D), head (V, D), targets (N,) -> fp32, (N,). Stores logits of 512 tokens."""
    return torch.cat([nll for nll, _ in _chunks(hidden, head, targets)])


def token_costs(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`token_nll`, and the most probable tokens, int64, (N,)."""
    costs, best = zip(*((nll, logits.argmax(dim=-1)) for nll, logits in _chunks(hidden, head, targets)), strict=True)
    return torch.cat(costs), torch.cat(best)


def _chunks(hidden: Tensor, head: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Nats and logits of 512 tokens at a time."""
    for h, t in zip(torch.split(hidden, 512), torch.split(targets, 512), strict=True):
        logits = F.linear(h, head)
        yield F.cross_entropy(logits.float(), t, reduction="none"), logits


def next_churn(net: Transformer, balancer: Balancer, ids: Tensor) -> Tensor | None:
    """Fraction of tokens whose experts would change after one bias update with ids (B, T) as batch: fp64, (L,).

    The strategy starts without state from earlier steps, at its initial rate. ``None`` if scores do not choose or there
    are too few tokens for the multi-token-prediction blocks, which are balanced too.
    """
    if not net.config.chooses_by_score or ids.shape[1] <= net.config.num_nextn_predict_layers:
        return None
    routings = net(ids, look_ahead=True).routings
    balancer.observe(MicroBatch(routings, len(ids)))
    update = balancer.bias_update(stack_loads(routings), 0.0)
    shares = [
        churn(routing.experts, router.select(routing.scores, routing.bias + its))
        for routing, router, its in zip(routings, routers(net), update, strict=True)
    ]
    return torch.stack(shares[: net.config.num_moe_layers]).cpu()
