"""Metrics of routings: selection and confidence of routers.

Shapes: N tokens, E routed experts, K experts per token, S slots, each one (token, expert) pair: N * K, except with
expert choice and thresholds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s15erav3.model import Routing


def slots(routing: Routing) -> tuple[Tensor, Tensor]:
    """Return the token index and expert of every slot that is used, int64, (S,) both. The host waits for a GPU."""
    if routing.tokens is not None:
        return routing.tokens, routing.experts
    token, slot = (routing.experts < routing.scores.shape[-1]).nonzero(as_tuple=True)
    return token, routing.experts[token, slot]


def chosen(routing: Routing) -> Tensor:
    """Whether a token uses an expert: bool, (N, E)."""
    return by_expert(routing, torch.ones_like(routing.experts, dtype=torch.bool))


def by_expert(routing: Routing, values: Tensor) -> Tensor:
    """Values of the slots, shaped as ``routing.experts``, by token and expert: (N, E), 0 where there is no slot."""
    tokens, n_experts = routing.scores.shape
    if routing.tokens is not None:
        return values.new_zeros(tokens, n_experts).index_put((routing.tokens, routing.experts), values)
    return values.new_zeros(tokens, n_experts + 1).scatter(1, routing.experts, values)[:, :n_experts]


def confidence(routing: Routing) -> Tensor:
    """Mean over tokens of the largest affinity divided by the sum, max_i s_i / sum_j s_j: fp64, scalar.

    It is 1 / E for uniform affinities, 1 if all affinity is on a single expert, and 0 if there is none. The bias is not
    included.
    """
    scores = routing.scores.detach().double()
    return (scores.amax(dim=-1) / scores.sum(dim=-1).clamp(min=1e-30)).mean()


def experts_per_token(routing: Routing) -> Tensor:
    """Mean number of routed experts that a token uses: fp64, scalar. Zero experts do not count."""
    return routing.load.sum().double() / len(routing.scores)


def top_k_margin(routing: Routing) -> Tensor:
    """Mean over tokens of the K-th minus the (K + 1)-th largest s + b: fp64, scalar; 0 for K = E.

    A bias difference between two experts larger than this changes the choice of a typical token. Limits on groups
    of experts are ignored.

    Raises:
        ValueError: the routing is from expert choice, where K is not defined per token.
    """
    if routing.tokens is not None:
        raise ValueError("where experts choose tokens, tokens have no K-th expert")
    k = routing.experts.shape[-1]
    preference = (routing.scores + routing.bias).detach().double()
    if k == preference.shape[-1]:
        return preference.new_zeros(())
    best = preference.topk(k + 1, dim=-1).values
    return (best[:, k - 1] - best[:, k]).mean()


def churn(before: Tensor, after: Tensor) -> Tensor:
    """Fraction of tokens whose set of experts differs between two selections (N, K): fp64, scalar."""
    differs = before.sort(dim=-1).values != after.sort(dim=-1).values
    return differs.any(dim=-1).double().mean()


def saturation(routing: Routing, final: Routing) -> Tensor:
    """Router saturation (OLMoE, arXiv 2409.02060, section 5.1): fp64, scalar.

    The fraction of a token's experts in ``routing`` that it also has in ``final``, a later checkpoint's routing of the
    same tokens.

    With K experts per token this is the mean over tokens of |A n B| / K; in general, shared slots divided by slots.
    """
    mine = chosen(routing)
    return (mine & chosen(final)).sum().double() / mine.sum()


def coactivation(routing: Routing) -> Tensor:
    """Number of tokens that use both expert i and expert j: int64, (E, E), symmetric, with loads on the diagonal."""
    used = chosen(routing).double()  # integer matrix products are slow, and autocast would round fp32 ones to 8 bits
    return (used.t() @ used).long()


def coactivation_share(counts: Tensor) -> Tensor:
    """Fraction of the tokens of expert i that also use expert j: counts (..., E, E) -> fp64, (..., i, j).

    The diagonal is 1, and rows of dead experts are 0. For uniformly random routing the off-diagonal entries are
    (K - 1) / (E - 1).
    """
    loads = counts.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return counts.double() / loads.clamp(min=1)
