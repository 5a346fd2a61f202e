"""What the horizontal axis of a training curve measures: steps, tokens, FLOPs or the wall clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

STEPS, TOKENS, FLOPS, CLOCK = "steps", "tokens", "FLOPs", "wall clock"
RULERS = STEPS, TOKENS, FLOPS, CLOCK
"""Names of the rulers. Values on them are optimizer steps, tokens, FLOPs and seconds."""


class Ruler(NamedTuple):
    """How values are written along the axis."""

    title: str
    """Of the axis, with the unit."""
    unit: str
    """After a value under the pointer."""
    form: str = ",d"
    """Format of a value under the pointer, in the notation of d3."""
    per: float = 1.0
    """Values in one unit of the axis: 60 for minutes, as values are seconds."""
    whole: bool = True
    """Whether values are integers."""
    exponent: str = "e"
    """Plotly's ``exponentformat`` of the ticks."""

    def places(self, values: ArrayLike) -> list[int] | list[float]:
        """Return values (S,) in units of the axis: integers, or numbers of six digits."""
        inside = np.asarray(values, dtype=np.float64) / self.per
        return [int(one) for one in inside] if self.whole else [float(f"{one:.6g}") for one in inside]


def ruler(name: str, values: Iterable[ArrayLike] = ()) -> Ruler:
    """Return the ruler of a name; the unit of the wall clock fits the largest of the values (S,) of all curves."""
    if name == CLOCK:
        found = [np.asarray(its, dtype=np.float64) for its in values]
        longest = max((float(np.nanmax(its)) for its in found if np.isfinite(its).any()), default=0.0)
        unit, per = ("h", 3600.0) if longest >= 10_800 else ("min", 60.0) if longest >= 180 else ("s", 1.0)
        return Ruler(f"training time ({unit})", unit, ",.3~f", per, whole=False)
    return {
        STEPS: Ruler("step", "steps"),
        TOKENS: Ruler("tokens", "tokens"),
        FLOPS: Ruler("training FLOPs", "FLOPs", ".3~s", whole=False, exponent="SI"),
    }[name]
