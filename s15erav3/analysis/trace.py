"""What the routers decide token by token on a few passages of a text, as the reader of a page can look at.

Shapes: N tokens of all passages together, L MoE layers, E routed experts, K the most experts that one token has.
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

from s15erav3.balancing.routing_diagnostics import chosen, slots
from s15erav3.data.commentary import UNKNOWN
from s15erav3.data.labels import NO_TEXT, Domain
from s15erav3.data.tokens import Tokens
from s15erav3.model import Router, Routing, Transformer, routers

LONGEST = 200
"""Tokens of a passage; a longer one is cut."""
MOST_SLOTS = 120_000
"""Slots, each one token at one expert of one layer, that a page shall carry: some 0.8 MB."""
NOBODY = -1
"""In place of an expert, where a token has fewer than K."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Passage(NamedTuple):
    """Tokens ``start`` to ``stop`` (left out) of a part of a corpus."""

    start: int
    stop: int


class Trace(NamedTuple):
    """The choices of N tokens. A token's experts come in the order of their affinity, and so of their gate weight."""

    layers: list[int]
    """Numbers of the L layers."""
    top_k: int | None
    """Experts of every token; ``None`` where experts choose tokens, and a token may have none."""
    length: int
    """Tokens of the windows that were read."""
    passages: list[Passage]
    """The N tokens are theirs, one passage after the other."""
    biases: Floats
    """b, (L, E)."""
    experts: Ints
    """(L, N, K); ``NOBODY`` where there are fewer."""
    scores: Floats
    """Affinities s of these experts, without bias, (L, N, K); 0 for ``NOBODY``."""
    weights: Floats
    """Gate weights of these experts, (L, N, K); 0 for ``NOBODY``."""
    without_bias: Ints
    """Experts that s alone would have chosen, (L, N, K), ordered likewise."""


def sample_passages(
    tokens: Tokens, labels: dict[str, Domain], end_of_text: int, *, slots: int, count: int = 16
) -> list[Passage]:
    """Passages worth looking at, in the order of the text.

    Of commentary they are whole events, as many of each kind (FOUR, SIX, wicket, other), spread evenly over the part;
    of other text, and where no event can be parsed, the first stretches of ``LONGEST`` tokens, none of which goes
    from one document into the next.

    Args:
        tokens: ids of the part, (length,).
        labels: of these tokens, by :func:`~s15erav3.data.labels.label_tokens`.
        slots: experts that one token has in all layers together: where they are many, fewer passages are taken
            than ``count``, yet four.
        count: passages at most.
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
    """Events of a known ending, by that ending."""
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
    """Read passages with what stands before them, in windows of ``length`` tokens as in training.

    A token has at least half a window before it, or all that there is. Where experts choose tokens, they choose among
    those of the window, which ends with the passage or, of a passage longer than half a window, within it.

    Args:
        net: in evaluation mode; everything runs on its device.
        tokens: ids of the part, (length of the part,).
        passages: at least one.
        length: tokens of a window, at least 2.
        autocast: the context of the forward passes.

    Returns:
        ``None`` for a model without experts.
    """
    config = net.config
    n_layers = config.num_moe_layers
    if not n_layers:
        return None
    own = routers(net)[:n_layers]  # without those of multi-token prediction
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
        top_k=None if config.topk_method == "expert_choice" else config.num_experts_per_tok,
        length=length,
        passages=list(passages),
        biases=torch.stack([router.bias for router in own]).cpu().numpy(),
        experts=experts.numpy(),
        scores=scores.gather(-1, experts.clamp(min=0)).where(there, 0).numpy(),
        weights=weights.gather(-1, experts.clamp(min=0)).where(there, 0).numpy(),
        without_bias=_ordered(by_score, scores).numpy(),
    )


def _windows(passage: Passage, length: int) -> Iterator[tuple[int, int, int]]:
    """Begin of a window, the first token that is looked at in it, and its end."""
    step = max(1, length // 2)
    for first in range(passage.start, passage.stop, step):
        end = min(first + step, passage.stop)
        yield max(0, end - length), first, end


def _dense(router: Router, routing: Routing) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, weights, what was chosen and what s alone would have chosen, on the CPU, (tokens of the window, E)."""
    scores, by_bias = routing.scores.float(), chosen(routing)
    weights = torch.zeros_like(scores).index_put(slots(routing), routing.weights.float().flatten())
    by_score = by_bias
    if routing.tokens is None:
        alone = router.select(routing.scores, torch.zeros_like(routing.bias))
        by_score = torch.zeros_like(by_bias).scatter(1, alone, True)
    return scores.cpu(), weights.cpu(), by_bias.cpu(), by_score.cpu()


def _ordered(is_chosen: Tensor, scores: Tensor) -> Tensor:
    """Ids (L, N, K) of the experts chosen (L, N, E), greatest score first; of equal ones the first."""
    width = int(is_chosen.sum(dim=-1).amax())
    order = scores.where(is_chosen, float("-inf")).argsort(dim=-1, descending=True, stable=True)[..., :width]
    return order.where(is_chosen.gather(-1, order), NOBODY)
