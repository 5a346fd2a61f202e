"""Rotary positions against multiplication by complex numbers, YaRN by hand and against transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s15erav3.interop import hf_config
from s15erav3.model import Transformer
from s15erav3.model.rope import Yarn, apply_rope, rope_angles, rope_frequencies
from tests.model.reference import tiny_config

CPU = torch.device("cpu")


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


def test_yarn_keeps_fast_pairs_slows_slow_ones_and_blends_between() -> None:
    """Hand-computed: catches a ramp that runs backwards, bounds rounded inwards, and log or 2 pi left out.

    A pair i of R = 8 with theta = 10^4 turns 4096 / (2 pi 10^i) times: 651.9, 65.19, 6.519, 0.6519. The bounds are
    i = 4 log10(4096 / (64 pi)) / 4 = 1.309 for 32 turns and log10(4096 / (2 pi)) = 2.814 for one, so 1 and 3.
    """
    yarn = Yarn(factor=40.0, original_max_position_embeddings=4096)
    expected = [1.0, 0.1, 0.01 * (1 + 1 / 40) / 2, 0.001 / 40]
    torch.testing.assert_close(rope_frequencies(8, 1e4, yarn, CPU), torch.tensor(expected), rtol=1e-6, atol=0)
    plain = torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(rope_frequencies(8, 1e4, None, CPU), plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        rope_frequencies(8, 1e4, Yarn(factor=1.0, original_max_position_embeddings=4096), CPU), plain, rtol=1e-6, atol=0
    )


def test_the_magnitudes_are_those_of_deepseek() -> None:
    """Catches log2 or log10 for ln, a scale that is not squared, and the two weights swapped."""
    yarn = Yarn(factor=40.0, original_max_position_embeddings=4096, mscale=1.0, mscale_all_dim=1.0)
    assert yarn.magnitude == 1.0
    assert yarn.softmax_factor == pytest.approx(1.3688879**2, rel=1e-6)  # 0.1 ln 40 + 1
    other = Yarn(factor=math.exp(5), original_max_position_embeddings=16, mscale=2.0, mscale_all_dim=0.5)
    assert other.magnitude == pytest.approx((0.1 * 2 * 5 + 1) / (0.1 * 0.5 * 5 + 1), rel=1e-12)
    assert other.softmax_factor == pytest.approx(1.25**2, rel=1e-12)
    off = Yarn(factor=math.exp(5), original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=0.0)
    assert (off.magnitude, off.softmax_factor) == (pytest.approx(1.5), 1.0)
    same = Yarn(factor=1.0, original_max_position_embeddings=16, mscale=0.7, mscale_all_dim=0.3)
    assert (same.magnitude, same.softmax_factor) == (1.0, 1.0)


def test_the_magnitudes_reach_angles_and_attention() -> None:
    """Computed and never used, they would leave a model of the hub with the wrong temperature."""
    values = {"factor": 8.0, "original_max_position_embeddings": 16, "mscale": 1.3, "mscale_all_dim": 0.6}
    config = tiny_config(rope_scaling=values, num_nextn_predict_layers=1)
    yarn = config.rope_scaling
    assert yarn is not None
    cos, sin = rope_angles(torch.arange(9), 8, 100.0, yarn)
    torch.testing.assert_close((cos**2 + sin**2).sqrt(), torch.full((9, 4), yarn.magnitude), rtol=1e-6, atol=0)
    net = Transformer(config)
    scales = [block.self_attn.scale for block in (*net.layers, net.mtp[0].block)]
    assert scales == [pytest.approx(20**-0.5 * (0.06 * math.log(8) + 1) ** 2)] * 4


@settings(max_examples=60, derandomize=True)
@given(
    dim=st.sampled_from([2, 4, 8, 32, 64]),
    theta=st.sampled_from([2.0, 100.0, 1e4, 5e5]),
    factor=st.sampled_from([1.0, 1.5, 4.0, 40.0]),
    original=st.sampled_from([1, 16, 256, 4096]),
    betas=st.sampled_from([(32.0, 1.0), (4.0, 2.0), (64.0, 0.5), (1.001, 1.0)]),
    mscales=st.sampled_from([(1.0, 1.0), (0.707, 0.707), (1.0, 0.5), (0.8, 1.3), (1.0, 0.0)]),
)
def test_yarn_is_that_of_transformers(
    dim: int, theta: float, factor: float, original: int, betas: tuple[float, float], mscales: tuple[float, float]
) -> None:
    """To the bit: catches a difference in the bounds' corner cases, such as both on the same pair."""
    from transformers import DeepseekV3Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import yarn_apply_mscale

    values: dict[str, Any] = dict(
        zip(("beta_fast", "beta_slow", "mscale", "mscale_all_dim"), betas + mscales, strict=True)
    )
    values |= {"factor": factor, "original_max_position_embeddings": original}
    config = tiny_config(qk_rope_head_dim=dim, rope_theta=theta, rope_scaling=values)
    theirs = DeepseekV3Config(**hf_config.to_hub(config))
    expected, magnitude = ROPE_INIT_FUNCTIONS["yarn"](theirs, CPU)
    yarn = config.rope_scaling
    assert yarn is not None
    assert torch.equal(rope_frequencies(dim, theta, yarn, CPU), expected)
    assert yarn.magnitude == pytest.approx(magnitude, rel=1e-15)
    assert yarn.softmax_factor == pytest.approx(yarn_apply_mscale(theirs.rope_parameters, 1.0), rel=1e-15)


def test_padded_sequences_have_angles_of_their_own() -> None:
    """Positions (B, 1, T) turn queries (B, H, T, R) as each row alone would be."""
    positions = torch.tensor([[[0, 0, 1, 2]], [[3, 4, 5, 6]]])
    x = randn(2, 3, 4, 8)
    together = apply_rope(x, *rope_angles(positions, 8, 100.0))
    for row in range(2):
        torch.testing.assert_close(together[row], apply_rope(x[row], *rope_angles(positions[row, 0], 8, 100.0)))
