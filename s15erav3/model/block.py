"""One layer of the decoder."""

from __future__ import annotations

from torch import Tensor

from s15erav3.model.attention import LatentAttention, LayerCache
from s15erav3.model.config import ModelConfig
from s15erav3.model.experts import SwiGLU
from s15erav3.model.moe import MoE
from s15erav3.model.norm import RMSNorm
from s15erav3.model.recompute import Recomputing
from s15erav3.model.router import Routing


class Block(Recomputing):
    """Pre-norm residual block: attention, then a dense SwiGLU or a mixture of experts."""

    def __init__(self, config: ModelConfig, moe: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = LatentAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MoE(config) if moe else SwiGLU(config.hidden_size, config.intermediate_size)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache | None = None, ids: Tensor | None = None
    ) -> tuple[Tensor, Routing | None]:
        """Map (B, T, D) -> (B, T, D); also return the routing of an MoE layer. ``ids`` as in :class:`Router`."""
        x = x + self.run(self._attend, x, cos, sin, cache)
        if isinstance(self.mlp, MoE):
            out, routing = self.mlp(self.post_attention_layernorm(x), ids)
            return x + out, routing
        return x + self.run(self._dense, x), None

    def _attend(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache | None) -> Tensor:
        out: Tensor = self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return out

    def _dense(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.post_attention_layernorm(x))
        return out
