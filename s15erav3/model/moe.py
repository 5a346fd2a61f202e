"""DeepSeekMoE: shared experts applied to every token, plus routed experts (DeepSeek-V3, section 2.1.2, eq. 12).

Shapes: N tokens, D hidden.
"""

from __future__ import annotations

from torch import Tensor

from s15erav3.model.config import ModelConfig
from s15erav3.model.experts import RoutedExperts, SwiGLU
from s15erav3.model.recompute import Recomputing
from s15erav3.model.router import Router, Routing


class MoE(Recomputing):
    """``shared(x) + sum_k g_k expert_k(x)``; several shared experts form one SwiGLU of their combined width.

    Zero experts return x (LongCat-Flash, arXiv 2509.01322, eq. 1).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.router = Router(config)
        self.experts = RoutedExperts(config)
        shared = config.n_shared_experts
        self.shared_experts = SwiGLU(config.hidden_size, shared * config.expert_size) if shared else None

    def forward(self, x: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Routing]:
        """Map (B, T, D) -> (B, T, D); also return the routing of the N = B * T tokens, whose ids are (B, T)."""
        tokens = x.reshape(-1, x.shape[-1])
        routing = self.router(tokens, ids, len(x))
        return self.run(self.mix, tokens, routing).view_as(x), routing

    def mix(self, tokens: Tensor, routing: Routing) -> Tensor:
        """The outputs of all experts for tokens (N, D) that are routed like this: (N, D)."""
        out: Tensor = self.experts(tokens, routing)
        if routing.identity is not None:
            out = out + (tokens * routing.identity.unsqueeze(-1)).to(out.dtype)
        if self.shared_experts is not None:
            out = out + self.shared_experts(tokens)
        return out
