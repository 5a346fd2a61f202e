"""Optimised decoding, one new token at a time: the same function with precomputed weight products.

Decoding a single token is bound by memory bandwidth and operator overhead, not by arithmetic. So the
up-projections of keys and values are absorbed into those of queries and outputs (DeepSeek-V2, arXiv 2405.04434,
section 2.1.2), projections of the same input are stacked, and rotation becomes a product with rows that were
permuted in advance.

Shapes: B sequences, T new tokens, S cached tokens, D hidden, H heads, C latent rank, R rotary width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from s15erav3.model.attention import LatentAttention, LayerCache
from s15erav3.model.block import Block
from s15erav3.model.experts import SwiGLU, apply_experts, apply_to_few
from s15erav3.model.kv_cache import Step
from s15erav3.model.moe import MoE
from s15erav3.model.rope import rope_angles
from s15erav3.model.transformer import Transformer


class Decoder:
    """Decodes further tokens of sequences held in a :class:`~s15erav3.model.kv_cache.LatentCache`.

    It holds products of weights, not references: create a new one after further training.

    Args:
        model: already on its device.
        dtype: compute dtype; router scores are computed in at least fp32, as in the model.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        config = model.config
        self.model, self.dtype = model, dtype
        self.rotary = (config.qk_rope_head_dim, config.rope_theta, config.rope_scaling)
        with torch.no_grad(), torch.autocast(model.embed_tokens.weight.device.type, enabled=False):
            layers: Any = model.layers
            mtp: Any = model.mtp
            self.layers = [FoldedBlock(layer, dtype) for layer in layers]
            self.ahead = [FoldedBlock(block.block, dtype) for block in mtp]
            self.head = _laid(model.lm_head.weight, dtype)

    def __call__(self, ids: Tensor, step: Step) -> Tensor:
        """Return the normalised final states (B, T, D) of further tokens (B, T)."""
        with torch.autocast(ids.device.type, enabled=False):
            x = self.model.embed_tokens(ids).to(self.dtype)
            angles = self._angles(step)
            for i, layer in enumerate(self.layers):
                x = layer(x, angles, step.of_layer(i), ids)
            states: Tensor = self.model.norm(x)
            return states

    def predict_ahead(self, k: int, hidden: Tensor, ids: Tensor, step: Step) -> Tensor:
        """Same as :meth:`Transformer.predict_ahead`, for tokens after the prefill."""
        block: Any = self.model.mtp[k - 1]
        with torch.autocast(ids.device.type, enabled=False):
            embedded = self.model.embed_tokens(ids).to(self.dtype)
            joined = torch.cat((block.enorm(embedded), block.hnorm(hidden.to(self.dtype))), dim=-1)
            x = F.linear(joined, block.eh_proj.weight.to(self.dtype))
            states: Tensor = block.norm(self.ahead[k - 1](x, self._angles(step), step.of_layer(0), ids))
            return states

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.to(self.dtype), self.head)

    def _angles(self, step: Step) -> tuple[Tensor, Tensor]:
        cos, sin = (
            torch.cat((angle, angle), dim=-1).to(self.dtype) for angle in rope_angles(step.positions, *self.rotary)
        )
        if cos.ndim == 2:
            return cos[None, :, None], sin[None, :, None]  # (1, T, 1, R)
        return cos.transpose(1, 2), sin.transpose(1, 2)  # (B, T, 1, R)


class FoldedBlock:
    """One layer."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        self.input_norm, self.post_norm = block.input_layernorm, block.post_attention_layernorm
        self.attention = FoldedAttention(block.self_attn, dtype)
        mlp = block.mlp
        self.router = mlp.router if isinstance(mlp, MoE) else None
        if isinstance(mlp, MoE):
            self.experts = _laid(mlp.experts.gate_up_proj, dtype), _laid(mlp.experts.down_proj, dtype)
        dense = mlp.shared_experts if isinstance(mlp, MoE) else mlp
        self.dense = None if dense is None else FoldedSwiGLU(dense, dtype)

    def __call__(self, x: Tensor, angles: tuple[Tensor, Tensor], cache: LayerCache, ids: Tensor) -> Tensor:
        """Map states (B, T, D) of tokens (B, T) -> (B, T, D)."""
        x = x + self.attention(self.input_norm(x), angles, cache)
        normed = self.post_norm(x).flatten(0, 1)
        if self.dense is not None:
            x = x + self.dense(normed).view_as(x)
        if self.router is None:
            return x
        if (
            x.is_cuda or torch.compiler.is_compiling()
        ):  # this path has the fewest operators without host synchronisation
            return x + apply_experts(normed, self.router(normed, ids), *self.experts).view_as(x)
        experts, weights = self.router.choose(normed, ids)
        return x + apply_to_few(normed, experts, weights, *self.experts).view_as(x)


class FoldedSwiGLU:
    """Gate and up-projection in one product."""

    def __init__(self, mlp: SwiGLU, dtype: torch.dtype) -> None:
        self.gate_up = _laid(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)), dtype)
        self.down = _laid(mlp.down_proj.weight, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        gate, up = F.linear(x, self.gate_up).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, self.down)


class FoldedAttention:
    """Latent attention with one query per head, applied directly to the latents.

    With c_s the cached latent and r_s the rotated key of token s,

        q_h = [W_UK_h^T W_Q_h x; rot(W_QR_h x)],    a = softmax(q_h . [c_s; r_s] / sqrt(nope + R)),
        out = sum_h (W_O_h W_UV_h) sum_s a_s c_s,

    where the products in brackets and the scale are precomputed. Each rotary part is computed twice, as x and
    as its quarter turn x', so that rot(x) = x cos + x' sin.
    """

    def __init__(self, attention: LatentAttention, dtype: torch.dtype) -> None:
        a = attention
        heads, nope, rank = a.num_heads, a.nope_dim, a.kv_rank
        self.heads, self.rank, self.rope_dim = heads, rank, a.rope_dim
        self.query_norm = a.q_a_layernorm if a.q_low_rank else None
        self.latent_norm = a.kv_a_layernorm

        up = a.kv_b_proj.weight.view(heads, -1, rank)  # (H, nope + v, C)
        query = (a.q_b_proj if a.q_low_rank else a.q_proj).weight.view(heads, nope + a.rope_dim, -1)
        absorbed = torch.einsum("hnc,hnq->hcq", up[:, :nope], query[:, :nope])
        folded = torch.cat((absorbed, *_turned(query[:, nope:])), dim=1) * a.scale  # (H, C + 2 R, q rank or D)
        folded = folded.flatten(0, 1)

        down = torch.cat((a.kv_a_proj_with_mqa.weight[:rank], *_turned(a.kv_a_proj_with_mqa.weight[rank:])))
        bias: Tensor | None = a.kv_a_proj_with_mqa.bias
        bias = None if bias is None else torch.cat((bias[:rank], *(t[:, 0] for t in _turned(bias[rank:, None]))))
        if a.q_low_rank:
            self.inputs = _laid(torch.cat((a.q_a_proj.weight, down)), dtype)
            self.query: Tensor | None = _laid(folded, dtype)
            self.split = (len(a.q_a_proj.weight), len(down))
            self.bias = None if bias is None else torch.cat((a.q_a_proj.bias, bias)).to(dtype)
        else:
            self.inputs, self.query = _laid(torch.cat((folded, down)), dtype), None
            self.bias = None if bias is None else torch.cat((bias.new_zeros(len(folded)), bias)).to(dtype)

        value = a.o_proj.weight.view(-1, heads, a.v_dim)
        self.output = _laid(torch.einsum("dhv,hvc->dhc", value, up[:, nope:]).flatten(1), dtype)  # (D, H C)
        self.output_bias = None if a.o_proj.bias is None else a.o_proj.bias.to(dtype)

    def __call__(self, x: Tensor, angles: tuple[Tensor, Tensor], cache: LayerCache) -> Tensor:
        """Map normalised (B, T, D) -> (B, T, D) and append the new tokens to the cache."""
        batch, length, _ = x.shape
        made = F.linear(x, self.inputs, self.bias)
        if self.query is not None and self.query_norm is not None:
            low, made = made.split(self.split, dim=-1)  # type: ignore[no-untyped-call]
            made = torch.cat((F.linear(self.query_norm(low), self.query), made), dim=-1)
        made = self._rotated(made.view(batch, length, self.heads + 1, -1), angles)  # (B, T, H + 1, C + R)
        q, entry = made[:, :, :-1], made[:, :, -1]
        entry[..., : self.rank] = self.latent_norm(entry[..., : self.rank])
        cache.entries.index_copy_(1, cache.slots, entry.to(cache.entries.dtype))

        entries = cache.entries.to(q.dtype)  # (B, S, C + R)
        scores = q.reshape(batch, length * self.heads, -1) @ entries.transpose(1, 2)  # (B, T * H, S)
        if cache.mask is not None:
            by_token = scores.view(batch, length, self.heads, -1)
            scores = by_token.masked_fill(~cache.mask.transpose(1, 2), float("-inf")).view_as(scores)
        wide = torch.promote_types(scores.dtype, torch.float32)
        context = scores.softmax(dim=-1, dtype=wide).to(q.dtype) @ entries[..., : self.rank]
        return F.linear(context.view(batch, length, -1), self.output, self.output_bias)

    def _rotated(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """(B, T, heads, C + 2 R) -> (B, T, heads, C + R), written over x."""
        cos, sin = angles
        whole = self.rank + self.rope_dim
        part = x[..., self.rank : whole]
        part.mul_(cos).addcmul_(x[..., whole:], sin)
        return x[..., :whole]


def _laid(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the same matrix (..., out, in), on a CPU in column-major layout.

    Products with one or a few vectors then read it up to twice as fast (scripts/bench_generate.py).
    """
    weight = weight.to(dtype)
    return weight if weight.is_cuda else weight.transpose(-2, -1).contiguous().transpose(-2, -1)


def _turned(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Reorder rows of rotary pairs (..., R, in): first halves before second ones, plus a copy after a quarter turn."""
    even, odd = rows[..., 0::2, :], rows[..., 1::2, :]
    return torch.cat((even, odd), dim=-2), torch.cat((-odd, even), dim=-2)
