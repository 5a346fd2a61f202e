"""Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2, equations 21-25).

Shapes: B batch, T sequence, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s15erav3.model.attention import LayerCache
from s15erav3.model.block import Block
from s15erav3.model.config import ModelConfig
from s15erav3.model.norm import RMSNorm
from s15erav3.model.router import Routing


class PredictionBlock(nn.Module):
    """Module k of the chain, which predicts one token further ahead than module k - 1 (module 0 is the main model):

        h^k_i = RMSNorm(Block(M_k [RMSNorm(Emb(t_{i+k})); RMSNorm(h^{k-1}_i)])),    p(t_{i+k+1}) = Head(h^k_i).

    Embedding and head are shared with the main model and passed in. The halves of the projection M_k
    (``eh_proj``) are in the order of DeepSeek's published weights, embedding first. Module k + 1 receives
    the normalised state that the head reads, as in the implementations that load these weights.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.enorm = RMSNorm(hidden, eps=eps)
        self.hnorm = RMSNorm(hidden, eps=eps)
        self.eh_proj = nn.Linear(2 * hidden, hidden, bias=False)
        self.block = Block(config, config.is_moe_layer(layer))
        self.norm = RMSNorm(hidden, eps=eps)

    def forward(
        self,
        embedded: Tensor,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: LayerCache | None = None,
        ids: Tensor | None = None,
    ) -> tuple[Tensor, Routing | None]:
        """Run one module of the chain.

        Args:
            embedded: embeddings of the tokens k positions ahead, (B, T, D).
            hidden: normalised states of module k - 1, (B, T, D).
            cos, sin, cache: as in :class:`~s15erav3.model.attention.LatentAttention`.
            ids: tokens k positions ahead, for hash routing, (B, T).

        Returns:
            normalised states of module k, (B, T, D), and the routing of an MoE layer.
        """
        joined = self.eh_proj(torch.cat((self.enorm(embedded), self.hnorm(hidden)), dim=-1))
        out, routing = self.block(joined, cos, sin, cache, ids)
        return self.norm(out), routing
