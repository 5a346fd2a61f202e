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
        want_grad = want_hidden or want_head
        compiled = compiled and want_grad
        # One buffer for the logits of all chunks: fresh memory of this size costs a CPU as much as the softmax.
        buffer = hidden.new_empty(min(chunk, len(hidden)), len(head), dtype=hidden.dtype if compiled else wide)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            rows, index = hidden[part], targets[part].unsqueeze(-1)
            counts = None if keep is None else keep[part].unsqueeze(-1)
            scores = buffer[: len(rows)]
            if scores.dtype == rows.dtype:
                torch.mm(rows, head.t(), out=scores)
            else:
                scores.copy_(rows @ head.t())
            if compiled:
                total -= (_compiled() if len(rows) == len(buffer) else _in_one_pass)(scores, index, counts)
            else:
                total -= _in_place(scores, index, counts, want_grad)
            if not want_grad:
                continue
            grad = scores.to(hidden.dtype)
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


def _in_place(scores: Tensor, index: Tensor, counts: Tensor | None, want_grad: bool) -> Tensor:
    """Sum over tokens of log softmax(scores)[index]; ``scores`` become the loss's gradient, softmax - onehot.

    Args:
        scores: (C, V), fp32 or fp64.
        index: (C, 1).
        counts: mask of the tokens that count, (C, 1); all by default.
        want_grad: without, ``scores`` are left as anything.
    """
    log_probs = torch.log_softmax(scores, -1, out=scores)
    counted = log_probs.gather(1, index)
    if want_grad:
        log_probs.exp_().scatter_add_(1, index, -torch.ones_like(counted))
        if counts is not None:
            scores.mul_(counts)
    return (counted if counts is None else counted * counts).sum()


def _in_one_pass(scores: Tensor, index: Tensor, counts: Tensor | None) -> Tensor:
    """The same for any floating type, written for a compiler: a reduction and one pass, exponentials taken once."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    shifted = wide - wide.amax(-1, keepdim=True)
    exp = shifted.exp()
    norm = exp.sum(-1, keepdim=True)
    counted = shifted.gather(1, index) - norm.log()
    onehot = torch.arange(scores.shape[1], device=scores.device) == index
    grad = exp / norm - onehot.to(wide.dtype)
    scores.copy_(grad if counts is None else grad * counts)
    return (counted if counts is None else counted * counts).sum()


@cache
def _compiled() -> Any:
    return torch.compile(_in_one_pass, dynamic=False)
