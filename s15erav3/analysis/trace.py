"""Per-token routing on a few passages of a text, for display on a page.

Shapes: N tokens of all passages together, L MoE layers, E routed experts, K the maximum number of experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s15erav3.balancing.routing_diagnostics import by_expert, chosen
from s15erav3.data.commentary import UNKNOWN
from s15erav3.data.labels import NO_TEXT, Domain
from s15erav3.data.tokens import Tokens
from s15erav3.model import Router, Routing, Transformer, routers

LONGEST = 200
"""Maximum tokens of a passage; longer ones are truncated."""
MOST_SLOTS = 120_000
"""Maximum slots (one token at one expert of one layer) embedded in a page: about 0.8 MB."""
NOBODY = -1
"""Placeholder id where a token has fewer than K experts."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Passage(NamedTuple):
    """Tokens ``start`` to ``stop`` (exclusive) of a part of a corpus."""

    start: int
    stop: int


class Trace(NamedTuple):
    """Routing of N tokens. A token's experts are sorted by affinity, and so by gate weight."""

    layers: list[int]
    """Indices of the L layers."""
    top_k: int | None
    """Experts per token; ``None`` where they have no fixed number, and can have none."""
    length: int
    """Window length in tokens."""
    passages: list[Passage]
    """Passages whose concatenated tokens are the N tokens."""
    biases: Floats
    """b, (L, E)."""
    experts: Ints
    """Expert ids, (L, N, K); ``NOBODY`` where there are fewer."""
    scores: Floats
    """Affinities s of these experts, without bias, (L, N, K); 0 for ``NOBODY``."""
    weights: Floats
    """Gate weights of these experts, (L, N, K); 0 for ``NOBODY``."""
    without_bias: Ints
    """Experts that s without bias would have selected, (L, N, K), in the same order."""
    method: str = "noaux_tc"
    """``topk_method`` of the model."""


def sample_passages(
    tokens: Tokens, labels: dict[str, Domain], end_of_text: int, *, slots: int, count: int = 16
) -> list[Passage]:
    """Select sample passages, in the order of the text.

    For commentary these are whole events, equally many of each kind (FOUR, SIX, wicket, other), spread evenly over
    the part. For other text, and if no event can be parsed, they are the first stretches of ``LONGEST`` tokens; a
    stretch never crosses a document boundary.

    Args:
        tokens: ids of the part, (length,).
        labels: labels of these tokens, from :func:`~s15erav3.data.labels.label_tokens`.
        slots: experts per token, summed over all layers; if this is large, fewer than ``count`` passages are
            taken, but at least four.
        count: maximum number of passages.
    """
    kinds = _events(labels) if "part" in labels else {}
    candidates = [passage for found in kinds.values() for passage in found] or _stretches(tokens, end_of_text)
    mean_length = np.mean([passage.stop - passage.start for passage in candidates])
    count = min(count, max(4, int(MOST_SLOTS / (slots * mean_length))))
    if not kinds:
        return candidates[:count]
    picked = []
    for number, found in enumerate(kinds.values()):
        share = min(len(found), (count + number) // len(kinds))
        picked += [found[int((i + 0.5) * len(found) / share)] for i in range(share)]
    return sorted(picked)


def _events(labels: dict[str, Domain]) -> dict[str, list[Passage]]:
    """Group events with a known outcome by that outcome."""
    part, ending = labels["part"], labels["event"]
    names = np.array(part.names)[part.codes]
    begins = np.isin(names, ("header", UNKNOWN, NO_TEXT))
    begins[1:] &= names[1:] != names[:-1]
    starts = [*np.flatnonzero(begins).tolist(), len(names)]
    found: dict[str, list[Passage]] = {name: [] for name in ending.names if name not in (UNKNOWN, NO_TEXT)}
    for start, stop in pairwise(starts):
        kind = ending.names[ending.codes[start]]
        if kind in found:
            found[kind].append(Passage(start, min(stop, start + LONGEST)))
    return {kind: passages for kind, passages in found.items() if passages}


def _stretches(tokens: Tokens, end_of_text: int) -> list[Passage]:
    ends = [-1, *np.flatnonzero(tokens == end_of_text).tolist(), len(tokens)]
    return [
        Passage(start, min(start + LONGEST, after))
        for before, after in pairwise(ends)
        for start in range(before + 1, after, LONGEST)
    ]


@torch.no_grad()
def trace(
    net: Transformer,
    tokens: Tokens,
    passages: Sequence[Passage],
    length: int,
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Trace | None:
    """Run the model on passages and their preceding context, in windows of ``length`` tokens as in training.

    Each token has at least half a window of context, or all that exists. With expert choice, experts choose among
    the tokens of the window, which ends at the end of the passage or, for passages longer than half a window,
    within it.

    Args:
        net: model in evaluation mode; everything runs on its device.
        tokens: ids of the part, (length of the part,).
        passages: at least one passage.
        length: window length in tokens, at least 2.
        autocast: autocast context of the forward passes.

    Returns:
        ``None`` for a model without experts.
    """
    config = net.config
    n_layers = config.num_moe_layers
    if not n_layers:
        return None
    own = routers(net)[:n_layers]  # excluding multi-token prediction
    pieces: list[list[tuple[Tensor, Tensor, Tensor, Tensor]]] = [[] for _ in own]
    for begin, first, end in (window for passage in passages for window in _windows(passage, length)):
        ids = torch.from_numpy(tokens[begin:end].astype(np.int64)).to(net.lm_head.weight.device)
        with autocast():
            routings = net(ids.unsqueeze(0)).routings
        for layer, (router, routing) in enumerate(zip(own, routings, strict=True)):
            pieces[layer].append(tuple(found[first - begin :] for found in _dense(router, routing)))  # type: ignore[arg-type]
    scores, weights, is_chosen, by_score = (
        torch.stack([torch.cat(column) for column in columns])
        for columns in zip(*(list(zip(*layer, strict=True)) for layer in pieces), strict=True)
    )
    experts = _ordered(is_chosen, scores)
    there = experts != NOBODY
    return Trace(
        layers=list(config.moe_layers[:n_layers]),
        top_k=config.num_experts_per_tok if config.fixed_top_k else None,
        length=length,
        passages=list(passages),
        biases=torch.stack([router.bias for router in own]).cpu().numpy(),
        experts=experts.numpy(),
        scores=scores.gather(-1, experts.clamp(min=0)).where(there, 0).numpy(),
        weights=weights.gather(-1, experts.clamp(min=0)).where(there, 0).numpy(),
        without_bias=_ordered(by_score, scores).numpy(),
        method=config.topk_method,
    )


def _windows(passage: Passage, length: int) -> Iterator[tuple[int, int, int]]:
    """Yield the start of each window, the first token recorded from it, and its end."""
    step = max(1, length // 2)
    for first in range(passage.start, passage.stop, step):
        end = min(first + step, passage.stop)
        yield max(0, end - length), first, end


def _dense(router: Router, routing: Routing) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scores, weights, the selection and the selection by s without bias, on the CPU, (window tokens, E)."""
    scores, by_bias = routing.scores.float(), chosen(routing)
    weights = by_expert(routing, routing.weights.float())
    by_score = by_bias
    if routing.tokens is None and router.table is None and not router.by_threshold and not router.zeros:
        alone = router.select(routing.scores, torch.zeros_like(routing.bias))
        by_score = torch.zeros_like(by_bias).scatter(1, alone, True)
    return scores.cpu(), weights.cpu(), by_bias.cpu(), by_score.cpu()


def _ordered(is_chosen: Tensor, scores: Tensor) -> Tensor:
    """Return ids (L, N, K) of the chosen experts (L, N, E), highest score first, ties by lower id."""
    width = int(is_chosen.sum(dim=-1).amax())
    order = scores.where(is_chosen, float("-inf")).argsort(dim=-1, descending=True, stable=True)[..., :width]
    return order.where(is_chosen.gather(-1, order), NOBODY)
