"""Activation checkpointing (arXiv 1604.06174): parts that run again in the backward pass, and keep their inputs only.

Routers are no such part. They run once, so that each token is routed and counted once, also by strategies that store
what they see. A part changes no state and draws no random numbers, so it computes the same again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Recompute = Literal["none", "experts", "full"]
"""Parts that run again: none; all experts of a layer, shared ones included; or attention and dense layers, too."""


class Recomputing(nn.Module):
    """A module with a part that can run again."""

    recompute = False

    def run(self, part: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """Return ``part(*inputs)``; with ``recompute`` the tensors that it makes are not kept for the backward pass."""
        if not self.recompute or not torch.is_grad_enabled():
            return part(*inputs)
        out: Tensor = checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
        return out
