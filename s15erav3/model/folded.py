"""The layers of a :class:`~s15erav3.model.decode.Decoder`: products of weights made in advance, few operators.

Shapes: B sequences, T new tokens, N = B * T rows, S cached tokens, D hidden, H heads, C latent rank, R rotary width,
F width of an expert.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from s15erav3.model.attention import LatentAttention, LayerCache
from s15erav3.model.block import Block
from s15erav3.model.experts import SwiGLU, apply_experts, apply_to_few
from s15erav3.model.matrix import Int8, Matrix, Plain, laid, matrix
from s15erav3.model.moe import MoE
from s15erav3.model.norm import RMSNorm

Angles = tuple[Tensor, Tensor]
"""Cosines and sines, (B or 1, T, 1, R)."""


class Norm:
    """An RMSNorm. Its weight is a part of the matrices that follow where ``into`` has multiplied it into them."""

    def __init__(self, norm: RMSNorm, dtype: torch.dtype, *, folds: bool) -> None:
        self.eps, self.width = norm.eps or 0.0, norm.weight.shape
        # A GPU normalises and multiplies in one kernel, and a product with the weight would be a copy of the experts.
        self.folds = folds and not norm.weight.is_cuda
        self.weight = norm.weight.detach().to(dtype)
        self.applied = None if self.folds else self.weight
        self.on_host = not norm.weight.is_cuda and dtype in (torch.float32, torch.float64)

    def into(self, weight: Tensor) -> Tensor:
        """The matrix (..., out, in) to multiply with what this norm returns."""
        return weight * self.weight.to(weight.dtype) if self.folds else weight

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, in)."""
        if len(x) > 1 or not self.on_host or torch.compiler.is_compiling():
            return F.rms_norm(x, self.width, self.applied, self.eps)
        row = x[0]  # two operators instead of seven
        out: Tensor = x * (torch.dot(row, row).item() / len(row) + self.eps) ** -0.5
        return out if self.applied is None else out.mul_(self.applied)


class FoldedBlock:
    """One layer."""

    def __init__(self, block: Block, dtype: torch.dtype, int8: bool) -> None:
        self.attention = FoldedAttention(block.self_attn, block.input_layernorm, dtype, int8)
        self.norm = Norm(block.post_attention_layernorm, dtype, folds=True)
        mlp = block.mlp
        self.router = mlp.router if isinstance(mlp, MoE) else None
        if isinstance(mlp, MoE):
            gate_up, down = self.norm.into(mlp.experts.gate_up_proj), mlp.experts.down_proj.detach()
            self.stacked: tuple[Tensor, Tensor] | None = None
            self.each: list[tuple[Matrix, Matrix]]
            if int8:
                self.each = [(Int8(one), Int8(other)) for one, other in zip(gate_up, down, strict=True)]
            else:
                gate_up, down = laid(gate_up, dtype), laid(down, dtype)
                self.each = [(Plain(one), Plain(other)) for one, other in zip(gate_up, down, strict=True)]
                self.stacked = gate_up.transpose(-2, -1), down.transpose(-2, -1)
        dense = mlp.shared_experts if isinstance(mlp, MoE) else mlp
        self.dense = None if dense is None else FoldedSwiGLU(dense, self.norm, dtype, int8)

    def __call__(self, x: Tensor, angles: Angles, cache: LayerCache, ids: Tensor) -> Tensor:
        """Map the residual stream (N, D) of tokens (B, T) -> (N, D), written over x."""
        self.attention.add_to(x, angles, cache)
        normed = self.norm(x)
        if self.dense is not None:
            self.dense.add_to(x, normed)
        if self.router is None:
            return x
        seen = normed * self.norm.weight if self.norm.folds else normed
        if self.stacked and (x.is_cuda or torch.compiler.is_compiling()):
            routing = self.router(seen, ids)
            if routing.identity is not None:
                x = x + (seen * routing.identity.unsqueeze(1)).to(x.dtype)
            return x + apply_experts(normed, routing, *self.stacked)  # the host waits for nothing
        experts, weights, identity = self.router.choose(seen, ids)
        if identity is not None:
            x.add_(seen * identity.unsqueeze(1))
        if len(x) == 1:
            for expert, weight in zip(experts[0].tolist(), weights[0].tolist(), strict=True):
                if weight:  # 0 in a slot without a routed expert
                    gate_up, down = self.each[expert]
                    down.add_to(x, _swiglu(gate_up(normed)), weight)
            return x
        if self.stacked:
            return x + apply_to_few(normed, experts, weights, *self.stacked)
        for expert in sorted(set(experts.flatten().tolist())):
            gate_up, down = self.each[expert]
            row, place = (experts == expert).nonzero(as_tuple=True)
            part = down(_swiglu(gate_up(normed[row]))) * weights[row, place].unsqueeze(1)
            x.index_add_(0, row, part.to(x.dtype))
        return x


class FoldedSwiGLU:
    """Gate and up-projection in one product."""

    def __init__(self, mlp: SwiGLU, norm: Norm, dtype: torch.dtype, int8: bool) -> None:
        self.gate_up = matrix(norm.into(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))), dtype, int8)
        self.down = matrix(mlp.down_proj.weight, dtype, int8)

    def add_to(self, x: Tensor, normed: Tensor) -> None:
        """Add its output for ``normed`` (N, D) to x (N, D)."""
        self.down.add_to(x, _swiglu(self.gate_up(normed)))


class FoldedAttention:
    """Latent attention with one query per head, applied directly to the latents.

    With c_s the cached latent and r_s the rotated key of token s,

        q_h = [W_UK_h^T W_Q_h x; rot(W_QR_h x)],    a = softmax(q_h . [c_s; r_s] / sqrt(nope + R)),
        out = sum_h (W_O_h W_UV_h) sum_s a_s c_s,

    where the products in brackets and the scale are precomputed. Each rotary part is computed twice, as x and
    as its quarter turn x', so that rot(x) = x cos + x' sin.
    """

    def __init__(self, attention: LatentAttention, norm: RMSNorm, dtype: torch.dtype, int8: bool) -> None:
        a = attention
        heads, nope, rank = a.num_heads, a.nope_dim, a.kv_rank
        self.heads, self.rank, self.whole = heads, rank, rank + a.rope_dim
        self.norm = Norm(norm, dtype, folds=True)
        self.latent_norm = Norm(a.kv_a_layernorm, dtype, folds=False)  # the cache holds it whole

        up = a.kv_b_proj.weight.view(heads, -1, rank)  # (H, nope + v, C)
        query = (a.q_b_proj if a.q_low_rank else a.q_proj).weight.view(heads, nope + a.rope_dim, -1)
        absorbed = torch.einsum("hnc,hnq->hcq", up[:, :nope], query[:, :nope])
        folded = torch.cat((absorbed, *_turned(query[:, nope:])), dim=1) * a.scale  # (H, C + 2 R, q rank or D)
        folded = folded.flatten(0, 1)

        down = torch.cat((a.kv_a_proj_with_mqa.weight[:rank], *_turned(a.kv_a_proj_with_mqa.weight[rank:])))
        bias: Tensor | None = a.kv_a_proj_with_mqa.bias
        bias = None if bias is None else torch.cat((bias[:rank], *(t[:, 0] for t in _turned(bias[rank:, None]))))
        self.query: Matrix | None = None
        if a.q_low_rank:
            self.query_norm = Norm(a.q_a_layernorm, dtype, folds=True)
            self.query = matrix(self.query_norm.into(folded), dtype, int8)
            self.split = (len(a.q_a_proj.weight), len(down))
            folded = a.q_a_proj.weight
        self.inputs = matrix(self.norm.into(torch.cat((folded, down))), dtype, int8)
        if bias is not None:
            first = a.q_a_proj.bias if a.q_low_rank else bias.new_zeros(len(folded))
            bias = torch.cat((first, bias)).to(dtype)
        self.bias = bias

        value = a.o_proj.weight.view(-1, heads, a.v_dim)
        self.output = matrix(torch.einsum("dhv,hvc->dhc", value, up[:, nope:]).flatten(1), dtype, int8)  # H C -> D
        self.output_bias = None if a.o_proj.bias is None else a.o_proj.bias.to(dtype)

    def add_to(self, x: Tensor, angles: Angles, cache: LayerCache) -> None:
        """Add its output to the residual stream x (N, D), and append the new tokens to the cache."""
        length = len(cache.slots)
        batch = len(x) // length
        made = self.inputs(self.norm(x)).to(x.dtype)
        if self.bias is not None:
            made.add_(self.bias)
        if self.query is not None:
            low, made = made.split(self.split, dim=1)  # type: ignore[no-untyped-call]
            made = torch.cat((self.query(self.query_norm(low)).to(x.dtype), made), dim=1)
        made = self._rotated(made.view(batch, length, self.heads + 1, -1), angles)  # (B, T, H + 1, C + R)
        q, entry = made[:, :, :-1], made[:, :, -1]
        latent = entry[..., : self.rank].flatten(0, 1)
        entry[..., : self.rank] = self.latent_norm(latent).view(batch, length, -1)
        cache.entries.index_copy_(1, cache.slots, entry.to(cache.entries.dtype))

        entries = cache.entries.to(x.dtype)  # (B, S, C + R)
        scores = torch.bmm(q.reshape(batch, length * self.heads, -1), entries.transpose(1, 2))  # (B, T * H, S)
        if cache.mask is not None:
            by_token = scores.view(batch, length, self.heads, -1)
            scores = by_token.masked_fill(~cache.mask.transpose(1, 2), float("-inf")).view_as(scores)
        wide = torch.promote_types(scores.dtype, torch.float32)
        context = torch.bmm(scores.softmax(dim=-1, dtype=wide).to(x.dtype), entries[..., : self.rank])
        self.output.add_to(x, context.view(len(x), -1))
        if self.output_bias is not None:
            x.add_(self.output_bias)

    def _rotated(self, x: Tensor, angles: Angles) -> Tensor:
        """(B, T, heads, C + 2 R) -> (B, T, heads, C + R), written over x."""
        cos, sin = angles
        part = x[..., self.rank : self.whole]
        part.mul_(cos).addcmul_(x[..., self.whole :], sin)
        return x[..., : self.whole]


def _swiglu(inner: Tensor) -> Tensor:
    """(N, 2 F), gates before up-projections, which it overwrites -> (N, F)."""
    gate, up = inner.chunk(2, dim=-1)
    return F.silu(gate, inplace=True).mul_(up)


def _turned(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Reorder rows of rotary pairs (..., R, in): first halves before second ones, plus a copy after a quarter turn."""
    even, odd = rows[..., 0::2, :], rows[..., 1::2, :]
    return torch.cat((even, odd), dim=-2), torch.cat((-odd, even), dim=-2)
