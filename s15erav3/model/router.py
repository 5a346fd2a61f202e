"""Choosing experts: affinities, a bias that selects, unbiased weights (DeepSeek-V3, eq. 12-16).

Shapes: N tokens (B * T), D hidden, E routed experts, K experts per token, G groups of experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s15erav3.model.config import ModelConfig


class Routing(NamedTuple):
    """What one MoE layer decided for N tokens: a value, so that nothing is counted behind one's back."""

    scores: Tensor
    """Affinities s, unbiased, fp32, (N, E)."""
    experts: Tensor
    """Ids of the chosen experts, int64, (N, K)."""
    weights: Tensor
    """Gate weights of the chosen experts, (N, K); normalised, they sum to ``routed_scaling_factor``."""
    load: Tensor
    """Tokens that each expert received, int64, (E,); sums to N * K."""


class Router(nn.Module):
    """Top-K of ``s + bias`` with affinities s = sigmoid(W x) or softmax(W x), weighted by s *without* the bias.

    With groups (section 2.1.2, node-limited routing) only the experts of ``topk_group`` of the G groups can be
    chosen: those with the greatest sum of their best two ``s + bias``.

    ``bias`` is a persistent fp32 buffer, never a Parameter: balancing moves it, gradients do not, and it
    only decides who is chosen. It stays fp32 when the model is cast, as rounding it to bf16 (steps of
    2^-8 near 1) would swallow updates of 1e-3.
    """

    bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.scaling = config.routed_scaling_factor
        self.normalise = config.norm_topk_prob
        self.softmax = config.scoring_func == "softmax"
        self.groups, self.top_groups = config.n_group, config.topk_group
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("bias", torch.zeros(config.n_routed_experts, dtype=torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        bias = self.bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Follow a move to a device, refuse a change of dtype. From "meta" there is nothing to keep.
        self.bias = self.bias.float() if bias.is_meta else bias.to(self.bias.device)
        return self

    def forward(self, x: Tensor) -> Routing:
        """Route N tokens (N, D)."""
        scores, experts, weights = self.choose(x)
        chosen = experts.flatten()
        load = torch.zeros_like(self.bias, dtype=torch.int64)
        load = load.scatter_add(0, chosen, torch.ones_like(chosen))  # bincount would sync on a GPU
        return Routing(scores, experts, weights, load)

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, experts and weights of a :class:`Routing` for tokens (N, D).

        Scores are computed in fp32 even under autocast (in fp64 for an fp64 model).
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.to(dtype), self.weight.to(dtype))
            scores = logits.softmax(dim=-1) if self.softmax else logits.sigmoid()
        experts = self._limited(scores.detach() + self.bias).topk(self.top_k, dim=-1, sorted=False).indices
        weights = scores.gather(1, experts)
        if self.normalise:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return scores, experts, weights * self.scaling

    def _limited(self, preference: Tensor) -> Tensor:
        """Preference (N, E) with -inf in the groups that a token cannot use; 0 would beat a negative bias."""
        if self.top_groups == self.groups:
            return preference
        grouped = preference.view(len(preference), self.groups, -1)  # (N, G, E / G)
        best = grouped.topk(2, dim=-1).values.sum(dim=-1).topk(self.top_groups, dim=-1, sorted=False).indices
        closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(1, best, False)
        limited = grouped.masked_fill(closed.unsqueeze(-1), float("-inf"))
        return limited.view_as(preference)
