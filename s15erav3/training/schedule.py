"""Learning-rate factors as pure functions of the step and of the share of training done.

Schedules keep no state between steps, so there is nothing to save or to lose on resuming.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """Linear warmup over ``warmup_steps``, then 1. The other schedules add a decay to it."""

    warmup_steps: int = 0

    def __call__(self, step: int, progress: float) -> float:
        """Factor on the learning rate.

        Args:
            step: optimizer steps done.
            progress: share of training done, 0 to 1: by steps, or by time if a time limit is nearer.
        """
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return warmup * self.decay(min(1.0, max(0.0, progress)))

    def decay(self, progress: float) -> float:
        """Factor without the warmup."""
        return 1.0


@dataclass(frozen=True)
class Cosine(Constant):
    """Half a cosine period from 1 to ``final_ratio`` (arXiv 1608.03983, without restarts)."""

    final_ratio: float = 0.1

    def decay(self, progress: float) -> float:
        return self.final_ratio + (1 - self.final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class WSD(Constant):
    """Warmup, stable, decay: 1, then linear decay to ``final_ratio`` over the last ``decay_share``
    of training (arXiv 2404.06395)."""

    decay_share: float = 0.3
    final_ratio: float = 0.0

    def decay(self, progress: float) -> float:
        if progress <= 1 - self.decay_share:
            return 1.0
        return self.final_ratio + (1 - self.final_ratio) * (1 - progress) / self.decay_share
