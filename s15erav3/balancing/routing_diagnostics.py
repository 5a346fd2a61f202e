"""What routers choose and how sure they are of it: plain functions of routings.

Shapes: N tokens, E routed experts, K experts per token, S slots, each one (token, expert) pair: N * K, but where
experts choose tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s15erav3.model import Routing


def slots(routing: Routing) -> tuple[Tensor, Tensor]:
    """Token index and expert of every slot, int64, (S,) both, whether tokens chose experts or experts tokens."""
    if routing.tokens is not None:
        return routing.tokens, routing.experts
    n, k = routing.experts.shape
    return torch.arange(n, device=routing.experts.device).repeat_interleave(k), routing.experts.flatten()


def chosen(routing: Routing) -> Tensor:
    """Whether a token uses an expert: bool, (N, E)."""
    return torch.zeros_like(routing.scores, dtype=torch.bool).index_put(
        slots(routing), torch.ones((), dtype=torch.bool, device=routing.scores.device)
    )


def confidence(routing: Routing) -> Tensor:
    """Mean over tokens of the largest affinity over the sum of all, max_i s_i / sum_j s_j: fp64, scalar.

    It is 1 / E for a router that is undecided and 1 for one that knows a single expert. The bias has no part in it.
    """
    scores = routing.scores.detach().double()
    return (scores.amax(dim=-1) / scores.sum(dim=-1)).mean()


def top_k_margin(routing: Routing) -> Tensor:
    """Mean over tokens of the K-th minus the (K + 1)-th largest s + b: fp64, scalar; 0 for K = E.

    A bias that moves two experts further apart than this turns the choice of a typical token. Limits on groups of
    experts are left out of account.

    Raises:
        ValueError: experts chose the tokens, so that no token has a K.
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
    """Share of tokens whose set of experts differs between two choices (N, K) of experts: fp64, scalar."""
    differs = before.sort(dim=-1).values != after.sort(dim=-1).values
    return differs.any(dim=-1).double().mean()


def saturation(routing: Routing, final: Routing) -> Tensor:
    """Router saturation (OLMoE, arXiv 2409.02060, section 5.1): of the experts that ``routing`` gives a token, the
    share that ``final``, a later checkpoint's routing of the same tokens, gives it as well: fp64, scalar.

    With K experts for each token that is the mean over tokens of |A n B| / K; in general, shared slots over slots.
    """
    mine = chosen(routing)
    return (mine & chosen(final)).sum().double() / mine.sum()


def coactivation(routing: Routing) -> Tensor:
    """Tokens that use both expert i and expert j: int64, (E, E), symmetric, with the loads on its diagonal."""
    used = chosen(routing).double()  # integer products are slow, and autocast would round fp32 ones to 8 bits
    return (used.t() @ used).long()


def coactivation_share(counts: Tensor) -> Tensor:
    """Of the tokens that use expert i, the share that also uses j: counts (..., E, E) -> fp64, (..., i, j).

    The diagonal is 1, and rows of dead experts are 0. Choices without preference for company show
    (K - 1) / (E - 1) beside it.
    """
    loads = counts.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return counts.double() / loads.clamp(min=1)
