"""Multi-head Latent Attention (DeepSeek-V3, arXiv 2412.19437, section 2.1.1, equations 1-11).

Shapes: B batch, T new tokens, S cached tokens, D hidden, H heads, R rotary width, C latent rank.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s15erav3.model.config import ModelConfig
from s15erav3.model.norm import RMSNorm
from s15erav3.model.rope import apply_rope


class LayerCache(NamedTuple):
    """The KV cache of one layer, and how T new tokens attend to it (see :class:`~s15erav3.model.kv_cache.Step`)."""

    entries: Tensor
    """Latent and rotated key of each cached token, (B, S, C + R); written in place."""
    slots: Tensor
    """Where the new tokens' entries go, (T,)."""
    mask: Tensor | None
    """Attention mask, true where a new token may attend: (B or 1, 1, T, S), or (B, 1, T, T) in the prefill.
    ``None``: to everything, or in the prefill to itself and earlier tokens."""
    prefill: bool
    """The cache is still empty: attend among the new tokens only."""


class LatentAttention(nn.Module):
    """Causal attention whose keys and values come from one low-rank latent per token.

    The latent c = RMSNorm(W_DKV h) yields the position-free key and the value of every head; a single
    rotary key is shared by all heads. Queries can have a latent of their own (``q_lora_rank``).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.nope_dim, self.rope_dim = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.v_dim, self.kv_rank = config.v_head_dim, config.kv_lora_rank
        self.scale = config.qk_head_dim**-0.5 * (config.rope_scaling.softmax_factor if config.rope_scaling else 1.0)
        hidden, heads, bias = config.hidden_size, config.num_heads, config.attention_bias

        # The two norms of latents use the eps of DeepSeek's code, independent of rms_norm_eps.
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(hidden, heads * config.qk_head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=bias)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, eps=1e-6)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, self.kv_rank + self.rope_dim, bias=bias)
        self.kv_a_layernorm = RMSNorm(self.kv_rank, eps=1e-6)
        self.kv_b_proj = nn.Linear(self.kv_rank, heads * (self.nope_dim + self.v_dim), bias=False)
        self.o_proj = nn.Linear(heads * self.v_dim, hidden, bias=bias)
        self.q_low_rank = config.q_lora_rank is not None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache | None = None) -> Tensor:
        """Attend from each token to itself and all earlier tokens, including cached ones.

        Args:
            x: normalised hidden states, (B, T, D).
            cos, sin: rotary angles of the T positions, (T, R / 2) or (B, 1, T, R / 2).
            cache: KV cache to append the new tokens to; ``None`` for no cache.

        Returns:
            (B, T, D).
        """
        batch, length, _ = x.shape
        queries = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if self.q_low_rank else self.q_proj(x)
        q = queries.view(batch, length, self.num_heads, -1).transpose(1, 2)  # (B, H, T, nope + R)
        q_nope, q_rope = q.split((self.nope_dim, self.rope_dim), dim=-1)
        q_rope = apply_rope(q_rope, cos, sin)

        latent, k_rope = self.kv_a_proj_with_mqa(x).split((self.kv_rank, self.rope_dim), dim=-1)
        latent, k_rope = self.kv_a_layernorm(latent), apply_rope(k_rope.unsqueeze(1), cos, sin)  # k: (B, 1, T, R)

        if cache is not None:
            entry = torch.cat((latent, k_rope.squeeze(1)), dim=-1).to(cache.entries.dtype)
            cache.entries.index_copy_(1, cache.slots, entry)
        if cache is None or cache.prefill:
            out = self._expanded(q_nope, q_rope, latent, k_rope, None if cache is None else cache.mask)
        else:
            out = self._absorbed(q_nope, q_rope, cache)
        projected: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        return projected

    def _expanded(self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, mask: Tensor | None) -> Tensor:
        """Attend with keys and values of each head, expanded from the latents (eq. 5-11): (B, H, T, v)."""
        kv = self.kv_b_proj(latent).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, T, nope + v)
        k_nope, v = kv.split((self.nope_dim, self.v_dim), dim=-1)
        q = torch.cat((q_nope, q_rope), dim=-1)
        k = torch.cat((k_nope, k_rope.expand(-1, self.num_heads, -1, -1)), dim=-1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.scale)

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, cache: LayerCache) -> Tensor:
        """Compute the same directly on the latents: (B, H, T, v).

        As q . (W_UK c) = (W_UK^T q) . c and sum_s a_s (W_UV c_s) = W_UV (sum_s a_s c_s), the up-projections
        move to the query and the result, and keys and values per head are never materialised
        (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).
        """
        up = self.kv_b_proj.weight.view(self.num_heads, self.nope_dim + self.v_dim, self.kv_rank)
        w_uk, w_uv = up[:, : self.nope_dim], up[:, self.nope_dim :]  # (H, nope, C), (H, v, C)
        entries = cache.entries.to(q_nope.dtype).unsqueeze(1)  # (B, 1, S, C + R): one key for all heads
        q = torch.cat((q_nope @ w_uk, q_rope), dim=-1)  # (B, H, T, C + R)
        scores = (q.flatten(1, 2) @ entries.squeeze(1).transpose(1, 2)).view(*q.shape[:3], -1) * self.scale
        if cache.mask is not None:
            scores = scores.masked_fill(~cache.mask, float("-inf"))
        attention = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(q_nope.dtype)
        context = attention.flatten(1, 2) @ entries.squeeze(1)[..., : self.kv_rank]  # (B, H * T, C)
        out: Tensor = context.view(*q.shape[:3], -1) @ w_uv.transpose(1, 2)
        return out
