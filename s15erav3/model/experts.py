"""SwiGLU feed-forward networks: a single one, and a stack of routed ones with sorted dispatch.

Shapes: N tokens, K experts per token, D hidden, E experts, F width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s15erav3.model.config import ModelConfig
from s15erav3.model.grouped import grouped_linear
from s15erav3.model.router import Routing


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))`` (arXiv 2002.05202), without biases: dense layers, shared experts."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, width, bias=False)
        self.up_proj = nn.Linear(hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


Compute = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A function with the arguments and the result of :func:`grouped_swiglu`."""


class RoutedExperts(nn.Module):
    """E SwiGLU experts as stacked parameters, each applied to the tokens that chose it.

    Tokens are copied K times, sorted by expert, multiplied group by group and returned to their order: the
    cost does not grow with E, and no mask over all tokens is scanned per expert.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, hidden, width = config.n_routed_experts, config.hidden_size, config.expert_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))
        self.compute: Compute = grouped_swiglu

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """Compute ``sum_k weights[n, k] * expert_{experts[n, k]}(x[n])``, summed over the slots of token n.

        Args:
            x: (N, D).
            routing: routing of these N tokens.

        Returns:
            (N, D) in x's dtype.
        """
        return apply_experts(x, routing, self.gate_up_proj, self.down_proj, self.compute)


def apply_experts(x: Tensor, routing: Routing, gate_up: Tensor, down: Tensor, compute: Compute | None = None) -> Tensor:
    """Functional form of :class:`RoutedExperts`, with weights (E, 2 F, D) and (E, D, F) as arguments.

    ``compute`` applies each expert to its rows, :func:`grouped_swiglu` by default.

    Dropped tokens, tokens of dropped experts and slots that are not used are multiplied like any other, then weighted
    with 0.
    """
    compute = compute or grouped_swiglu
    ends = routing.load.cumsum(0).to(torch.int32)
    if routing.tokens is not None:  # expert choice: slots are already sorted; a token can have any number of them
        out = compute(x.index_select(0, routing.tokens), gate_up, down, ends)
        weighted = (out * routing.weights.unsqueeze(-1)).to(x.dtype)
        return torch.zeros_like(x).index_add(0, routing.tokens, weighted)
    order = routing.experts.flatten().argsort(stable=True)  # (N * K): slots sorted by expert
    ends[-1].fill_(order.numel())  # slots that are not used come last: they have weight 0, but must not be undefined
    slot = torch.empty_like(order)
    slot[order] = torch.arange(order.numel(), device=order.device)  # where each slot went
    k = routing.experts.shape[1]
    rows: Tensor = _Scatter.apply(x, order, slot, k)  # type: ignore[no-untyped-call]
    back = permuted(compute(rows, gate_up, down, ends), slot, order)
    weighted = back.view(-1, k, x.shape[-1]) * routing.weights.unsqueeze(-1)  # (N, K, D)
    return weighted.sum(dim=1).to(x.dtype)


def grouped_swiglu(rows: Tensor, gate_up: Tensor, down: Tensor, ends: Tensor) -> Tensor:
    """Apply each expert to its own rows: (S, D), sorted by expert -> (S, D). ``ends``: see :func:`grouped_linear`."""
    gate, up = grouped_linear(rows, gate_up, ends).chunk(2, dim=-1)
    out: Tensor = grouped_linear(F.silu(gate) * up, down, ends)
    return out


def apply_to_few(x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Do the same for a few tokens on a CPU without gradients: only the chosen experts, one after another.

    Args:
        x: (N, D).
        experts, weights: fields of these tokens' routing, (N, K).
        gate_up, down: (E, 2 F, D), (E, D, F), in x's dtype.

    Returns:
        (N, D).
    """
    k = experts.shape[1]
    chosen, order = experts.flatten().sort(stable=True)
    ids = chosen.tolist()
    starts = [i for i, expert in enumerate(ids) if i == 0 or ids[i - 1] != expert]
    groups = [(ids[start], slice(start, end)) for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]
    rows = x[order // k]
    inner, out = x.new_empty(len(ids), gate_up.shape[1]), torch.empty_like(rows)
    for expert, part in groups:
        torch.mm(rows[part], gate_up[expert].t(), out=inner[part])
    gate, up = inner.chunk(2, dim=-1)
    inner = F.silu(gate) * up * weights.flatten()[order].to(x.dtype).unsqueeze(-1)
    for expert, part in groups:
        torch.mm(inner[part], down[expert].t(), out=out[part])
    return torch.zeros_like(x).index_add_(0, order // k, out)


class _Scatter(torch.autograd.Function):
    """Copy every token to its K sorted slots.

    The gradient is a gather and a sum over K, not an ``index_add``: faster on a CPU, deterministic on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, slot: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.k = k
        return x.index_select(0, order // k)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (slot,) = ctx.saved_tensors
        return grad.index_select(0, slot).view(-1, ctx.k, grad.shape[-1]).sum(dim=1), None, None, None


def permuted(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """``x[index]`` for a permutation (S,) of the rows of x (S, D). Its gradient is a gather with the inverse."""
    out: Tensor = _Permute.apply(x, index, inverse)  # type: ignore[no-untyped-call]
    return out


class _Permute(torch.autograd.Function):
    """See :func:`permuted`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None
