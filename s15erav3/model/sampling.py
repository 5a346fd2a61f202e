"""Sampling of the next token.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = 1e-6
"""Smallest divisor of logits that does not overflow fp32."""


@dataclass(frozen=True)
class Sampling:
    """Temperature and filters of the next-token distribution. Filters apply in this order, each to what is left.

    Args:
        temperature: divides the logits; 0 takes the most probable token.
        top_k: only the k most probable tokens; 0 for all.
        top_p: the smallest set of tokens with this total probability (nucleus, arXiv 1904.09751); 1 for all.
        min_p: only tokens with at least this fraction of the highest probability (arXiv 2407.01082); 0 for all.
        repetition_penalty: divides positive and multiplies negative logits of tokens already seen
            (arXiv 1909.05858); 1 for none.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name}={value} must be a number")
        for good, said in (
            (
                self.temperature == 0 or self.temperature >= LEAST,
                f"temperature={self.temperature} must be 0 or more: 0, or at least {LEAST}",
            ),
            (
                isinstance(self.top_k, int) and self.top_k >= 0,
                f"top_k={self.top_k} must be a whole number, 0 (all tokens) or more",
            ),
            (0 < self.top_p <= 1, f"top_p={self.top_p} must be above 0 and at most 1"),
            (0 <= self.min_p <= 1, f"min_p={self.min_p} must be at least 0 and at most 1"),
            (
                LEAST <= self.repetition_penalty <= 1 / LEAST,
                f"repetition_penalty={self.repetition_penalty} must be above 0, from {LEAST} to {1 / LEAST:.0f}",
            ),
        ):
            if not good:
                raise ValueError(said)

    def draw(self, logits: Tensor, seen: Tensor | None, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw the next token of each sequence.

        Args:
            logits: (B, V).
            seen: whether prompt or continuation contain each token, bool, (B, V); only for a penalty.
            generators: one CPU generator per sequence, so that sequences are independent of each other.

        Returns:
            ids, (B,).
        """
        logits = logits.float()
        if seen is not None:
            penalised = torch.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
            logits = torch.where(seen, penalised, logits)
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        device = logits.device
        if torch.are_deterministic_algorithms_enabled():
            logits = logits.cpu()  # a GPU's cumulative sum is not, and would be refused
        narrowed = self.top_k or self.top_p < 1 or self.min_p
        probabilities = torch.softmax(logits / self.temperature, dim=-1)
        ids = None
        if narrowed:
            probabilities, ids = self._narrow(probabilities)
        ladder = probabilities.double().cumsum(dim=-1)
        draws = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators]).to(ladder.device)
        index = torch.searchsorted(ladder, draws * ladder[:, -1:], right=True)
        return (index if ids is None else ids.gather(1, index)).squeeze(1).to(device)

    def _narrow(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities in descending order, 0 where excluded, and their tokens."""
        probabilities, ids = probabilities.sort(dim=-1, descending=True, stable=True)
        if self.top_k:
            probabilities[:, self.top_k :] = 0
        if self.top_p < 1:
            # Keep a token while the preceding ones sum to less than top_p: the most probable always stays.
            before = probabilities.cumsum(dim=-1) - probabilities
            probabilities[before >= self.top_p * probabilities.sum(dim=-1, keepdim=True)] = 0
        if self.min_p:
            probabilities[probabilities < self.min_p * probabilities[:, :1]] = 0
        return probabilities, ids
