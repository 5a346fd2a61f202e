"""The loss of multi-token prediction (DeepSeek-V3, arXiv 2412.19437, equations 24 and 25)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from s15erav3.balancing.base import mean_over_ranks


class Ahead(NamedTuple):
    """What the loss needs to know of an optimizer step, on the device."""

    tokens: Tensor
    """Tokens that train each block, (D,): :meth:`MultiTokenLoss.count`, with several ranks their mean."""
    weight: Tensor
    """Lambda, fp32, a scalar."""


class MultiTokenLoss:
    """``weight / D * sum_k L_k``, where L_k is the mean cost in nats of the tokens that block k predicts.

    A prediction across the end of a document would only guess at the next document. So block k
    is not trained at position i if one of the tokens t_{i+1} ... t_{i+k} ends a document.

    Args:
        weight: initial lambda (DeepSeek-V3: 0.3).
        final_weight: final lambda (DeepSeek-V3: 0.1).
        final_from: share of training after which ``final_weight`` is used (DeepSeek-V3: 10 of 14.8 T tokens).
        end_of_text: id of the token that ends documents.
    """

    def __init__(self, weight: float, final_weight: float, final_from: float, *, end_of_text: int) -> None:
        self.weight, self.final_weight, self.final_from = weight, final_weight, final_from
        self.end_of_text = end_of_text

    def weight_at(self, progress: float) -> float:
        """Lambda after the share ``progress`` of training."""
        return self.final_weight if progress >= self.final_from else self.weight

    def learned(self, windows: Tensor, depth: int) -> list[Tensor]:
        """Mask of the positions of windows (B, T + 1) that train each block k = 1 ... ``depth``: bool, (B, T - k)."""
        ends = windows[:, :-1] == self.end_of_text  # among the inputs t_0 ... t_{T-1}
        inside = torch.ones_like(ends)
        masks = []
        for k in range(1, depth + 1):
            inside = inside[:, :-1] & ~ends[:, k:]
            masks.append(inside)
        return masks

    def count(self, windows: Tensor, depth: int) -> Tensor:
        """Number of tokens that train each block, (D,)."""
        return torch.stack([mask.sum() for mask in self.learned(windows, depth)])

    def ahead(self, windows: Tensor, depth: int, progress: float) -> Ahead:
        """What is to be known of a step on this rank's windows (B, T + 1), after the share ``progress`` of training."""
        # DDP averages gradients over ranks, whose windows hold different numbers of document ends.
        tokens = mean_over_ranks(self.count(windows, depth))
        return Ahead(tokens, torch.full((), self.weight_at(progress), device=windows.device))

    def __call__(
        self,
        ahead: tuple[Tensor, ...],
        windows: Tensor,
        head: Tensor,
        tokens: Tensor,
        cross_entropy: Callable[..., Tensor],
    ) -> Tensor:
        """Mean over the blocks of their loss, without the weight, in nats per token.

        Args:
            ahead: states of the blocks, the k-th of shape (B, T - k, D).
            windows: (B, T + 1).
            head: (V, D).
            tokens: :meth:`count` of the whole optimizer step, which may include more windows; with several
                ranks the mean over ranks.
            cross_entropy: :func:`s15erav3.training.losses.chunked_cross_entropy` with its settings.
        """
        losses = []
        for k, (states, learned) in enumerate(zip(ahead, self.learned(windows, len(ahead)), strict=True), start=1):
            targets = windows[:, k + 1 :].flatten()
            nll = cross_entropy(states.flatten(0, 1), head, targets, keep=learned.flatten())
            losses.append(nll / tokens[k - 1].clamp(min=1))
        return torch.stack(losses).mean()
