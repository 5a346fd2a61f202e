"""Rotary positions (arXiv 2104.09864), on interleaved pairs as DeepSeek-V3 lays them out."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_angles(positions: Tensor, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's rotation, always computed in fp32.

    Args:
        positions: token positions, (T,).
        dim: rotary width R, even.
        theta: base of the frequencies ``theta ** (-2i / R)``.

    Returns:
        two tensors (T, R / 2). They are recomputed for each forward: kept as buffers, a model cast to
        bf16 would round its positions.
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim
    angles = torch.outer(positions.float(), 1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x0, x1), (x2, x3), ... of the last dimension.

    Args:
        x: (..., T, R).
        cos, sin: (T, R / 2).

    Returns:
        (..., T, R) with the first halves of all pairs before the second ones. Queries and keys are
        reordered alike, so their dot products are those of the interleaved layout.
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
