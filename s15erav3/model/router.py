"""Expert selection: affinities, a selection bias, unbiased gate weights (DeepSeek-V3, eq. 12-16).

Shapes: N tokens (B * T), D hidden, E routed experts, K experts per token (with thresholds and zero experts, the most
that a token can have), Z zero experts, G groups of experts; S slots, each one token at one expert: N * K, except with
expert choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s15erav3.model.config import ModelConfig
from s15erav3.model.selection import TrainingRules, capacity, experts_choose, within_capacity


class Routing(NamedTuple):
    """Routing decision of one MoE layer for N tokens. Returned as a value, so the layer keeps no hidden counters."""

    scores: Tensor
    """Affinities s, unbiased, fp32, (N, E)."""
    experts: Tensor
    """Ids of the chosen experts, int64, (N, K); with expert choice (S,), sorted. With thresholds and zero experts,
    E in slots in which a token uses no routed expert."""
    weights: Tensor
    """Gate weights, same shape as ``experts``; if normalised, they sum to ``routed_scaling_factor``."""
    load: Tensor
    """Tokens that chose each expert, int64, (E,); sums to S, or to the slots with a routed expert."""
    logits: Tensor
    """Input of the gate function, fp32, (N, E), with zero experts (N, E + Z)."""
    bias: Tensor
    """Bias used for the selection, fp32, (E,): the router's buffer, which the bias update modifies after the step."""
    dropped: Tensor | None = None
    """Tokens dropped at each expert, int64, (E,); ``None`` without a capacity."""
    tokens: Tensor | None = None
    """Token of each slot, int64, (S,); only with expert choice."""
    identity: Tensor | None = None
    """Gate weight of a token's zero experts together, which return their input, (N,); only with zero experts."""


Solver = Callable[[Tensor, Tensor], Tensor]
"""Maps detached scores (N, E) and the bias (E,) to the bias used to select experts for these tokens, (E,)."""
Preference = Callable[[Tensor, int], Tensor]
"""Maps detached scores (N, E) and K to values (N, E) whose top K are the chosen experts, in place of ``s + bias``."""

SequenceBias = Callable[["Router", Tensor, Tensor], Tensor]
"""Maps a router, detached scores (B, T, E) and the bias (E,) to a bias for the choice of each token, (B, T, E)."""


class Router(nn.Module):
    """Top-K of ``s + bias`` with affinities s, weighted by s *without* the bias.

    s is a function of the logits W x: sigmoid, softmax over the experts, sqrt(softplus) (DeepSeek-V4, arXiv
    2606.19348), which is not bounded above, or ReLU (arXiv 2412.14711) with ``topk_method="threshold"``.

    ``bias_form`` combines s and the bias for the choice: ``sum``; ``product``, s (1 + bias), as bias factors start at 1
    (arXiv 2408.15664, section 4.3); ``logits``, the logit of s plus the bias.

    With groups (section 2.1.2, node-limited routing) only experts in ``topk_group`` of the G groups can be
    chosen: the groups with the largest sum of their two highest ``s + bias``. With
    ``topk_method="expert_choice"`` experts choose tokens instead, by s alone. With ``topk_method="hash"`` the
    experts of a token are row ``id`` of ``table``, a persistent buffer, int64, (V, K); weights still come from s. With
    ``topk_method="threshold"`` a token uses those of its top K whose ``s + bias`` is above 0: any number up to K. With
    ``topk_method="zero_experts"`` the top K are of E + Z experts, and the last Z (arXiv 2509.01322, section 2.1) return
    their input; they have affinities, but no bias.

    ``bias`` is a persistent fp32 buffer, not a Parameter: it is changed by the bias update, not by gradients, and
    affects only the selection. It stays fp32 when the model is cast, because bf16 (steps of 2^-8 near 1) would
    round away updates of 1e-3.

    ``rules``, ``solver``, ``preference``, ``within`` and ``given`` are set by the balancing strategy and apply in
    training only. ``given``: experts that were chosen beforehand, int64, (N, K).
    """

    bias: Tensor
    table: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.slots = config.slots_per_token
        self.by_threshold, self.zeros = config.topk_method == "threshold", config.zero_experts
        self.scaling = config.routed_scaling_factor
        self.normalise = config.norm_topk_prob
        self.scoring = config.scoring_func
        self.expert_choice = config.topk_method == "expert_choice"
        self.groups, self.top_groups = config.n_group, config.topk_group
        self.bias_form = config.bias_form
        self.rules = TrainingRules()
        self.solver: Solver | None = None
        self.preference: Preference | None = None
        self.within: SequenceBias | None = None
        self.given: Tensor | None = None
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts + self.zeros, config.hidden_size))
        self.register_buffer("bias", torch.zeros(config.n_routed_experts, dtype=torch.float32))
        hashed = config.topk_method == "hash"
        self.register_buffer("table", torch.zeros(config.vocab_size, self.top_k, dtype=torch.int64) if hashed else None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        bias = self.bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Follow device moves but not dtype changes. On "meta" there are no values to keep.
        self.bias = self.bias.float() if bias.is_meta else bias.to(self.bias.device)
        return self

    def forward(self, x: Tensor, ids: Tensor | None = None, sequences: int = 1) -> Routing:
        """Route N tokens (N, D) of B ``sequences``; ``ids``, N token ids in any shape, are for hash routing only."""
        rules = self.rules if self.training else TrainingRules()
        if rules.router_jitter:
            x = x * torch.empty_like(x).uniform_(1 - rules.router_jitter, 1 + rules.router_jitter)
        logits, scores = self.score(x)
        bias = self.bias
        if self.training and self.solver is not None:
            bias = self.solver(scores.detach(), bias)
        tokens = identity = None
        if self.expert_choice:
            tokens, experts = experts_choose(scores.detach(), capacity(len(x), len(bias), self.top_k))
            weights = scores[tokens, experts] * self.scaling
        elif self.by_threshold:
            best, used = self.above(scores.detach(), bias)
            weights = self.weigh(scores, best) * used
            experts = best.masked_fill(~used, len(bias))
        elif self.zeros:
            best, weights, identity = self.among_zeros(scores, bias)
            experts, scores = best.clamp(max=len(bias)), scores[:, : len(bias)]
        else:
            if self.table is not None:
                experts = self.look_up(ids)
            elif self.training and self.given is not None:
                experts = self.given
            elif self.training and self.preference is not None:
                experts = self.preference(scores.detach(), self.top_k).topk(self.top_k, dim=-1, sorted=False).indices
            elif self.training and self.within is not None:
                by_token = self.within(self, scores.detach().view(sequences, -1, scores.shape[-1]), bias)
                experts = self.select(scores.detach(), by_token.flatten(0, 1))
            else:
                experts = self.select(scores.detach(), bias)
            weights = self.weigh(scores, experts)
        chosen = experts.flatten()
        load = chosen.new_zeros(len(bias) + 1)  # with a place for slots without an expert
        load = load.scatter_add(0, chosen, torch.ones_like(chosen))[: len(bias)]  # bincount would sync on a GPU
        dropped = None
        if rules.capacity_factor is not None:
            places = capacity(len(x), len(bias), self.top_k, rules.capacity_factor)
            weights = weights * within_capacity(experts, load, places)
            dropped = (load - places).clamp(min=0)
        weights = F.dropout(weights, rules.expert_dropout, training=rules.expert_dropout > 0)
        return Routing(scores, experts, weights, load, logits, bias, dropped, tokens, identity)

    def choose(self, x: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return experts, weights and identity as in :class:`Routing` for tokens (N, D), without training rules.

        Slots without a routed expert hold one, too, with weight 0.
        """
        scores = self.score(x)[1]
        if self.zeros:
            experts, weights, identity = self.among_zeros(scores, self.bias)
            return experts.clamp(max=len(self.bias) - 1), weights, identity
        if self.by_threshold:
            experts, used = self.above(scores.detach(), self.bias)
            return experts, self.weigh(scores, experts) * used, None
        experts = self.select(scores.detach(), self.bias) if self.table is None else self.look_up(ids)
        return experts, self.weigh(scores, experts), None

    def look_up(self, ids: Tensor | None) -> Tensor:
        """Experts of N token ids by the table of hash routing: int64, (N, K).

        Raises:
            ValueError: there are no ids, or no table.
        """
        if ids is None or self.table is None:
            raise ValueError("hash routing needs the ids of the tokens, and a router with topk_method=hash")
        return self.table[ids.flatten()]

    def score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits and affinities (N, E) of tokens (N, D), in fp32 even under autocast (fp64 for fp64 models)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.to(dtype), self.weight.to(dtype))
            return logits, affinities(logits, self.scoring)

    def select(self, scores: Tensor, bias: Tensor) -> Tensor:
        """Select K experts per token from scores (N, E) and a bias (E,) or (N, E): int64, (N, K)."""
        if self.bias_form == "product":
            preference = scores * (1 + bias)
        elif self.bias_form == "logits":
            preference = logits_of(scores, self.scoring) + bias
        else:
            preference = scores + bias
        return self._limited(preference).topk(self.top_k, dim=-1, sorted=False).indices

    def above(self, scores: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The top K of ``s + bias`` for scores (N, E): int64, (N, K); and which of them are above 0: bool, (N, K)."""
        found = (scores + bias).topk(self.slots, dim=-1, sorted=False)
        return found.indices, found.values > 0

    def among_zeros(self, scores: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Choose among routed and zero experts.

        Args:
            scores: (N, E + Z).
            bias: of the routed experts, (E,).

        Returns:
            the top K, zero experts from E on, int64, (N, K); their weights, 0 for zero experts, (N, K); the sum of the
            weights of zero experts, (N,).
        """
        best = (scores.detach() + F.pad(bias, (0, self.zeros))).topk(self.slots, dim=-1, sorted=False).indices
        weights, zero = self.weigh(scores, best), best >= len(bias)
        return best, weights * ~zero, (weights * zero).sum(dim=-1)

    def weigh(self, scores: Tensor, experts: Tensor) -> Tensor:
        """Compute gate weights (N, K) of experts (N, K) from the scores (N, E), without the bias."""
        weights = scores.gather(1, experts)
        if self.normalise:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return weights * self.scaling

    def _limited(self, preference: Tensor) -> Tensor:
        """Mask preference (N, E) with -inf in the groups that a token cannot use; 0 would beat a negative bias."""
        if self.top_groups == self.groups:
            return preference
        grouped = preference.view(len(preference), self.groups, -1)  # (N, G, E / G)
        best = grouped.topk(2, dim=-1).values.sum(dim=-1).topk(self.top_groups, dim=-1, sorted=False).indices
        closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(1, best, False)
        limited = grouped.masked_fill(closed.unsqueeze(-1), float("-inf"))
        return limited.view_as(preference)


def affinities(logits: Tensor, scoring: str) -> Tensor:
    """Affinities s of logits (N, E) by the gate function ``scoring``: (N, E)."""
    if scoring == "softmax":
        return logits.softmax(dim=-1)
    if scoring == "sigmoid":
        return logits.sigmoid()
    if scoring == "relu":
        return logits.relu()
    return F.softplus(logits.clamp(min=-80)).sqrt()  # below -103 softplus is 0 in fp32, and the root's gradient NaN


def logits_of(affinity: Tensor, scoring: str) -> Tensor:
    """Logits of affinities (N, E), of softmax up to a constant for each token; logits above about 14 become equal."""
    if scoring == "softmax":
        return affinity.clamp(min=1e-30).log()
    if scoring == "sigmoid":
        return affinity.logit(eps=1e-6)
    softplus = affinity.square().clamp(min=1e-30)
    return softplus + (-torch.expm1(-softplus)).log()
