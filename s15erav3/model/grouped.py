"""One matrix product per expert over tokens sorted by expert, as two custom operators opaque to compilers.

``torch.nn.functional.grouped_mm`` uses one kernel where the device and dtype support it (bf16 on CUDA);
elsewhere contiguous slices are multiplied one by one. Both write directly into stacked results: autograd
never sees single experts, so no per-expert gradient of the whole stack is materialised.

The operators are defined in the older way: calling one that ``torch.library.custom_op`` made imports torch's whole
compiler, over a second of every command's start.

Shapes: M rows sorted by expert, E experts, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def _in_one_kernel(x: Tensor) -> bool:
    return x.is_cuda and x.dtype == torch.bfloat16


def _slices(ends: Tensor) -> Iterator[tuple[int, slice]]:
    start = 0
    for expert, end in enumerate(ends.tolist()):
        yield expert, slice(start, end)
        start = end


def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Compute ``y[m] = weight[e(m)] @ x[m]``, where row m belongs to expert e(m).

    Args:
        x: rows sorted by expert, (M, I).
        weight: stacked matrices, (E, O, I).
        ends: one past each expert's last row, int32, (E,).

    Returns:
        (M, O).
    """
    result: Tensor = torch.ops.s15erav3.grouped_linear(x, weight, ends)
    return result


def _linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    if _in_one_kernel(x):
        return F.grouped_mm(x, weight.transpose(-2, -1), offs=ends)
    out = x.new_empty(x.shape[0], weight.shape[1])
    for expert, rows in _slices(ends):
        torch.mm(x[rows], weight[expert].t(), out=out[rows])
    return out


def grouped_outer(y: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    """Compute ``g[e] = sum of y[m] x[m]^T over the rows m of expert e``, the gradient of the stacked matrices.

    Args:
        y: (M, O).
        x: (M, I).
        ends: one past each expert's last row, int32, (E,).

    Returns:
        (E, O, I); zero for an expert without rows.
    """
    result: Tensor = torch.ops.s15erav3.grouped_outer(y, x, ends)
    return result


def _outer(y: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    if _in_one_kernel(x):
        sums = F.grouped_mm(y.t(), x, offs=ends)
        # Some kernels do not write the result of an empty group (pytorch issue 172439).
        filled = ends.diff(prepend=ends.new_zeros(1)) > 0
        return torch.where(filled[:, None, None], sums, 0)
    out = x.new_empty(ends.shape[0], y.shape[1], x.shape[1])
    for expert, rows in _slices(ends):
        torch.mm(y[rows].t(), x[rows], out=out[expert])
    return out


def _fake_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    if _in_one_kernel(x):  # which refuses some strides
        return F.grouped_mm(x, weight.transpose(-2, -1), offs=ends)
    return x.new_empty(x.shape[0], weight.shape[1])


def _fake_outer(y: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    if _in_one_kernel(x):
        return F.grouped_mm(y.t(), x, offs=ends)
    return x.new_empty(ends.shape[0], y.shape[1], x.shape[1])


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    x, weight, ends = ctx.saved_tensors  # type: ignore[attr-defined]
    grad = grad.contiguous()
    return grouped_linear(grad, weight.transpose(1, 2), ends), grouped_outer(grad, x, ends), None


_library = torch.library.Library("s15erav3", "DEF")  # type: ignore[no-untyped-call]
for _schema, _kernel, _fake in (
    ("grouped_linear(Tensor x, Tensor weight, Tensor ends) -> Tensor", _linear, _fake_linear),
    ("grouped_outer(Tensor y, Tensor x, Tensor ends) -> Tensor", _outer, _fake_outer),
):
    _name = _schema.partition("(")[0]
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"s15erav3::{_name}", _fake, lib=_library)
torch.library.register_autograd("s15erav3::grouped_linear", _backward, setup_context=_save, lib=_library)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("s15erav3::grouped_linear", _device, torch.bfloat16, lib=_library)
