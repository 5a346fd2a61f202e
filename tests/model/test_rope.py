"""Rotary positions against multiplication by complex numbers."""

from __future__ import annotations

import pytest
import torch

from s15erav3.model.rope import apply_rope, rope_angles


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dim", "theta"), [(2, 10000.0), (8, 10000.0), (8, 100.0), (32, 5e5)])
def test_rotation_is_a_product_of_complex_numbers(dim: int, theta: float) -> None:
    """Catches half-split pairs, a turned sign, and frequencies with a wrong exponent."""
    positions = torch.tensor([0, 1, 2, 5, 63])
    x = randn(3, 5, dim)
    cos, sin = rope_angles(positions, dim, theta)
    ours = apply_rope(x, cos.double(), sin.double())

    frequencies = theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    turn = torch.polar(torch.ones(5, dim // 2, dtype=torch.float64), positions.double()[:, None] * frequencies)
    expected = torch.view_as_complex(x.view(3, 5, dim // 2, 2)) * turn
    torch.testing.assert_close(ours, torch.cat((expected.real, expected.imag), dim=-1), rtol=1e-4, atol=2e-5)


def test_products_depend_on_the_distance_alone() -> None:
    """Catches queries and keys that are reordered differently, or rotated in opposite directions."""
    q, k = randn(1, 8), randn(1, 8, seed=1)

    def score(i: int, j: int) -> torch.Tensor:
        angles = [rope_angles(torch.tensor([p]), 8, 100.0) for p in (i, j)]
        left, right = (apply_rope(v, c.double(), s.double()) for v, (c, s) in zip((q, k), angles, strict=True))
        return (left * right).sum()

    torch.testing.assert_close(score(7, 3), score(24, 20), rtol=1e-5, atol=1e-5)
    assert not torch.isclose(score(7, 3), score(7, 4), rtol=1e-3)
    torch.testing.assert_close(score(0, 0), (q * k).sum())


def test_angles_are_fp32_whatever_the_default_dtype() -> None:
    """Positions beyond 256 are not whole numbers in bf16: neighbours would share an angle."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        cos, sin = rope_angles(torch.arange(1000), 8, 10000.0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert cos.dtype == sin.dtype == torch.float32
    torch.testing.assert_close(cos[:, 0], torch.arange(1000).double().cos().float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rotation_keeps_the_dtype(dtype: torch.dtype) -> None:
    """Catches fp32 angles that widen the queries of a cast model."""
    assert apply_rope(randn(4, 8).to(dtype), *rope_angles(torch.arange(4), 8, 100.0)).dtype == dtype
