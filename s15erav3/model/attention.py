"""Multi-head Latent Attention (DeepSeek-V3, arXiv 2412.19437, section 2.1.1, equations 1-11).

Shapes: B batch, T sequence, D hidden, H heads, R rotary width, C latent rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s15erav3.model.config import ModelConfig
from s15erav3.model.norm import RMSNorm
from s15erav3.model.rope import apply_rope


class LatentAttention(nn.Module):
    """Causal attention whose keys and values come from one low-rank latent per token.

    The latent c = RMSNorm(W_DKV h) gives every head its key without position and its value; a single
    rotary key is shared by all heads. Queries may pass through a latent of their own (``q_lora_rank``).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.nope_dim, self.rope_dim = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.v_dim, self.kv_rank = config.v_head_dim, config.kv_lora_rank
        hidden, heads, eps = config.hidden_size, config.num_heads, config.rms_norm_eps

        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(hidden, heads * config.qk_head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, eps=eps)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, self.kv_rank + self.rope_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(self.kv_rank, eps=eps)
        self.kv_b_proj = nn.Linear(self.kv_rank, heads * (self.nope_dim + self.v_dim), bias=False)
        self.o_proj = nn.Linear(heads * self.v_dim, hidden, bias=False)
        self.q_low_rank = config.q_lora_rank is not None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend from each token to itself and those before it.

        Args:
            x: normalised hidden states, (B, T, D).
            cos, sin: rotary angles of the T positions, (T, R / 2).

        Returns:
            (B, T, D).
        """
        batch, length, _ = x.shape
        queries = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if self.q_low_rank else self.q_proj(x)
        q = queries.view(batch, length, self.num_heads, -1).transpose(1, 2)  # (B, H, T, nope + R)
        q_nope, q_rope = q.split((self.nope_dim, self.rope_dim), dim=-1)

        latent, k_rope = self.kv_a_proj_with_mqa(x).split((self.kv_rank, self.rope_dim), dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent))
        kv = kv.view(batch, length, self.num_heads, -1).transpose(1, 2)  # (B, H, T, nope + v)
        k_nope, v = kv.split((self.nope_dim, self.v_dim), dim=-1)
        k_rope = apply_rope(k_rope, cos, sin).unsqueeze(1).expand(-1, self.num_heads, -1, -1)

        q = torch.cat((q_nope, apply_rope(q_rope, cos, sin)), dim=-1)
        k = torch.cat((k_nope, k_rope), dim=-1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # scale 1 / sqrt(nope + R), eq. 10
        projected: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        return projected
