"""Matrices of decoding: as they are, or with 8 bits per weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Plain:
    """A matrix in the compute dtype.

    Args:
        weight: (in, out), see :func:`laid`.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        return torch.mm(x, self.weight)

    def add_to(self, total: Tensor, x: Tensor, factor: float = 1.0) -> None:
        """Add ``factor`` times the product with x (N, in) to ``total`` (N, out)."""
        total.addmm_(x, self.weight, alpha=factor)


class Int8:
    """A matrix of integers from -127 to 127 with one scale for each output, multiplied in bf16 on a CPU.

    Args:
        weight: (out, in).
    """

    def __init__(self, weight: Tensor) -> None:
        weight = weight.detach().float()
        self.scale = (weight.abs().amax(dim=1) / 127).clamp(min=1e-30).bfloat16()
        rounded = (weight / self.scale.unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
        self.padding = -weight.shape[1] % 16  # the kernel reads 16 inputs at a time, also beyond the end of a row
        self.weight = F.pad(rounded, (0, self.padding)).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out) in bf16."""
        x = x.to(torch.bfloat16)
        x = F.pad(x, (0, self.padding)) if self.padding else x.contiguous()
        return torch._weight_int8pack_mm(x, self.weight, self.scale)

    def add_to(self, total: Tensor, x: Tensor, factor: float = 1.0) -> None:
        """Add ``factor`` times the product with x (N, in) to ``total`` (N, out), in the dtype of ``total``."""
        total.add_(self(x), alpha=factor)


Matrix = Plain | Int8


def matrix(weight: Tensor, dtype: torch.dtype, int8: bool) -> Matrix:
    """The matrix ``weight`` (out, in) in ``dtype``, or with 8 bits per weight."""
    return Int8(weight) if int8 else Plain(laid(weight, dtype))


def laid(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Transpose a matrix (..., out, in) to (..., in, out), on a CPU also in memory.

    Products with one or a few vectors then read it up to twice as fast (scripts/bench_generate.py).
    """
    turned = weight.detach().to(dtype).transpose(-2, -1)
    return turned if weight.is_cuda else turned.contiguous()
