"""Effects of ablation as rows and sentences, for the terminal and for pages."""

from __future__ import annotations

import math

import numpy as np

from s15erav3.analysis.effects import Effects

LARGEST = ("expert", "more", "95 % interval")
DOMAINS = ("domain", "values", "specialist", "another", "difference", "95 % interval")
SPECIALISTS = ("domain", "value", "expert", "times its share", *DOMAINS[2:])


def largest_rows(found: Effects, count: int = 10) -> list[tuple[str, ...]]:
    """Rows, under :data:`LARGEST`, of the experts without which the whole text costs most."""
    rows: list[tuple[str, ...]] = []
    for at in np.argsort(-found.change[0], axis=None, kind="stable")[:count]:
        layer, expert = np.unravel_index(at, found.change[0].shape)
        value, half = found.change[0, layer, expert], found.half[0, layer, expert]
        rows.append((f"L{found.layers[layer]:02d} E{expert:02d}", f"{value:+.4f}", between(value, half)))
    return rows


def domain_rows(found: Effects) -> list[tuple[str, ...]]:
    """Rows, under :data:`DOMAINS`, of the means over the values of each domain."""
    return [(one.domain, str(one.values), *_pair(one.change, one.other, one.half)) for one in found.domains]


def specialist_rows(found: Effects) -> list[tuple[str, ...]]:
    """Rows, under :data:`SPECIALISTS`, of the values, strongest specialist first."""
    return [
        (
            *(one.domain, one.value, f"L{one.layer:02d} E{one.expert:02d}", f"{one.times:.1f}"),
            *_pair(one.change, one.other, one.half),
        )
        for one in sorted(found.needs, key=lambda need: -need.times)
    ]


def verdict(found: Effects) -> str:
    """One sentence on all specialists; it names a direction only if the interval excludes 0."""
    if not found.domains:
        return "No value has a specialist here: an expert with at least 1.2 times its share of the value."
    one = found.domains[-1]
    excess, shown = one.change - one.other, "no difference shown"
    if abs(excess) > one.half:
        shown = f"values need their specialists {'more' if excess > 0 else 'less'} than another expert"
    many = f"{one.values} value{'s' if one.values > 1 else ''}"
    where = between(excess, one.half)
    return f"Specialist less another expert of its layer, {many}: {excess:+.4f} bits/byte ({where}); {shown}."


def between(value: float, half: float) -> str:
    """An interval; a dash if there is none."""
    return f"{value - half:+.4f} to {value + half:+.4f}" if math.isfinite(half) else "-"


def _pair(change: float, other: float, half: float) -> tuple[str, ...]:
    return f"{change:+.4f}", f"{other:+.4f}", f"{change - other:+.4f}", between(change - other, half)
