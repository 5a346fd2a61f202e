"""Rotary position embedding (arXiv 2104.09864) on interleaved pairs, as in DeepSeek-V3, and YaRN."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from s15erav3.model.checks import ConfigError, check_types


@dataclass(frozen=True, kw_only=True)
class Yarn:
    """Context extension by YaRN (arXiv 2309.00071) with DeepSeek's two magnitude terms.

    Args:
        factor: s, how many times longer the context becomes.
        original_max_position_embeddings: positions that the model was trained on.
        beta_fast, beta_slow: a pair with more than ``beta_fast`` turns over the original context keeps its
            frequency; a pair with fewer than ``beta_slow`` is slowed down by ``factor``.
        mscale, mscale_all_dim: weights in :attr:`magnitude` and :attr:`softmax_factor`.

    Raises:
        ConfigError: a value is out of range.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0

    def __post_init__(self) -> None:
        check_types(self, may_be_zero={"mscale_all_dim"}, prefix="rope_scaling.")
        if self.factor < 1:
            raise ConfigError(f"rope_scaling.factor={self.factor} must be 1 or more: it lengthens the context")
        if self.beta_fast <= self.beta_slow:
            raise ConfigError(
                f"rope_scaling.beta_fast={self.beta_fast} must be greater than beta_slow={self.beta_slow}"
            )

    def _m(self, weight: float) -> float:
        return 0.1 * weight * math.log(self.factor) + 1.0

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines: m(mscale) / m(mscale_all_dim), where m(w) = 0.1 w ln s + 1."""
        return self._m(self.mscale) / self._m(self.mscale_all_dim)

    @property
    def softmax_factor(self) -> float:
        """Factor on all attention logits: m(mscale_all_dim)^2."""
        return self._m(self.mscale_all_dim) ** 2


def rope_frequencies(dim: int, theta: float, yarn: Yarn | None, device: torch.device) -> Tensor:
    """Radians per position of each pair: ``theta ** (-2i / R)``, slowed down by YaRN where it applies.

    With YaRN the frequency of a pair i that makes r(i) turns over the original context is unchanged for
    r >= beta_fast, divided by ``factor`` for r <= beta_slow, and interpolated linearly in i in between
    (arXiv 2309.00071, section 3.2; the bounds on i are rounded outwards as in DeepSeek-V3's code).

    Returns:
        fp32, (R / 2,).
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    frequencies = 1.0 / theta**exponents
    if yarn is None:
        return frequencies

    def pair_that_turns(times: float) -> float:
        return dim * math.log(yarn.original_max_position_embeddings / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(yarn.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(yarn.beta_slow)), dim - 1)
    width = high - low if high != low else 0.001
    pairs = torch.arange(dim // 2, dtype=torch.float32, device=device)
    kept = 1 - ((pairs - low) / width).clamp(0, 1)
    slowed = 1.0 / (yarn.factor * theta**exponents)
    return slowed * (1 - kept) + frequencies * kept


def rope_angles(positions: Tensor, dim: int, theta: float, yarn: Yarn | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's rotation, always computed in fp32.

    Args:
        positions: token positions, (..., T).
        dim: rotary width R, even.
        theta: base of the frequencies.
        yarn: context extension.

    Returns:
        two tensors (..., T, R / 2). They are recomputed in each forward pass: as buffers they would lose
        precision when the model is cast to bf16.
    """
    frequencies = rope_frequencies(dim, theta, yarn, positions.device)
    angles = positions.float().unsqueeze(-1) * frequencies
    magnitude = 1.0 if yarn is None else yarn.magnitude
    return angles.cos() * magnitude, angles.sin() * magnitude


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x0, x1), (x2, x3), ... of the last dimension.

    Args:
        x: (..., T, R).
        cos, sin: (T, R / 2), or with leading dimensions that broadcast to x's.

    Returns:
        (..., T, R) with the first halves of all pairs before the second ones. Queries and keys are
        reordered in the same way, so their dot products equal those of the interleaved layout.
    """
    even, odd = x.view(*x.shape[:-1], -1, 2).unbind(-1)  # the gradient of two strided slices would fill zeros and add
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
