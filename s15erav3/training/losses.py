"""Next-token cross-entropy that never stores all logits.

Shapes: N tokens, D hidden size, V vocabulary, C tokens per chunk.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def chunked_cross_entropy(
    hidden: Tensor, head: Tensor, targets: Tensor, chunk: int, keep: Tensor | None = None, compiled: bool = False
) -> Tensor:
    """Sum over tokens of ``-log softmax(head @ hidden)[target]``, in nats.

    Logits exist for ``chunk`` tokens at a time. Their gradient is computed in the forward pass, so
    nothing of size (N, V) is ever stored and nothing is computed twice.

    Args:
        hidden: (N, D).
        head: (V, D).
        targets: int64, (N,).
        chunk: C, at least 1.
        keep: mask of the tokens that count, bool, (N,); all by default.
        compiled: compile what is done to the logits of a whole chunk. The same within rounding.

    Returns:
        fp32 scalar (fp64 for fp64 inputs).
    """
    if not torch.is_grad_enabled():  # needs_input_grad is true even here; detach, so that no gradient is computed
        hidden, head = hidden.detach(), head.detach()
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, head = hidden.to(dtype), head.to(dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        total: Tensor = _ChunkedCrossEntropy.apply(hidden, head, targets, chunk, keep, compiled)  # type: ignore[no-untyped-call]
        return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, chunk: int, keep: Tensor | None, compiled: bool
    ) -> Tensor:
        want_hidden, want_head = ctx.needs_input_grad[:2]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total = hidden.new_zeros((), dtype=wide)
        grad_hidden = torch.empty_like(hidden) if want_hidden else None
        grad_head = torch.zeros_like(head, dtype=wide) if want_head else None
        # One buffer for the logits of all chunks: fresh memory of this size costs a CPU as much as the softmax.
        buffer = hidden.new_empty(min(chunk, len(hidden)), len(head))
        want_grad = want_hidden or want_head
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            rows, index = hidden[part], targets[part].unsqueeze(-1)
            counts = None if keep is None else keep[part].unsqueeze(-1)
            scores = torch.mm(rows, head.t(), out=buffer[: len(rows)])
            in_place = _compiled() if compiled and want_grad and len(rows) == len(buffer) else _nll_to_gradient
            total += in_place(scores, index, counts, want_grad)
            if not want_grad:
                continue
            grad = scores
            if grad_hidden is not None:
                torch.mm(grad, head, out=grad_hidden[part])
            if grad_head is not None:
                if grad_head.dtype == grad.dtype:
                    grad_head.addmm_(grad.t(), rows)
                else:
                    grad_head += grad.t() @ rows
        ctx.save_for_backward(grad_hidden, None if grad_head is None else grad_head.to(head.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        of_hidden, of_head = ctx.saved_tensors
        return (
            None if of_hidden is None else of_hidden * grad.to(of_hidden.dtype),
            None if of_head is None else of_head * grad.to(of_head.dtype),
            None,
            None,
            None,
            None,
        )


def _nll_to_gradient(scores: Tensor, index: Tensor, counts: Tensor | None, want_grad: bool) -> Tensor:
    """Sum over tokens of -log softmax(scores)[index]; ``scores`` become its gradient, softmax - onehot, in place.

    Args:
        scores: (C, V).
        index: (C, 1).
        counts: mask of the tokens that count, (C, 1); all by default.
        want_grad: without, ``scores`` are left as anything.
    """
    wide = torch.promote_types(scores.dtype, torch.float32)
    log_probs = (
        torch.log_softmax(scores, -1, out=scores) if scores.dtype == wide else torch.log_softmax(scores, -1, wide)
    )
    counted = log_probs.gather(1, index)
    nll = -(counted if counts is None else counted * counts).sum()
    if want_grad:
        grad = log_probs.exp_().scatter_add_(1, index, -torch.ones_like(counted))
        if counts is not None:
            grad.mul_(counts)
        if grad is not scores:
            scores.copy_(grad)
    return nll


def _nll_to_gradient_fused(scores: Tensor, index: Tensor, counts: Tensor | None, want_grad: bool) -> Tensor:
    """The same written for a compiler, which makes a reduction and one pass of it: the exponentials are taken once."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    shifted = wide - wide.amax(-1, keepdim=True)
    exp = shifted.exp()
    norm = exp.sum(-1, keepdim=True)
    nll = norm.log() - shifted.gather(1, index)
    onehot = torch.arange(scores.shape[1], device=scores.device) == index
    grad = exp / norm - onehot.to(wide.dtype)
    scores.copy_(grad if counts is None else grad * counts)
    return (nll if counts is None else nll * counts).sum()


@cache
def _compiled() -> Any:
    return torch.compile(_nll_to_gradient_fused, dynamic=False)
