"""Whether values need their specialists: removing one, against removing another expert of the same layer.

Shapes: L MoE layers, E routed experts, D documents of a value, S specialists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from s15erav3.analysis.ablation import Costs
from s15erav3.analysis.bootstrap import Floats, interval, resampled, spread
from s15erav3.analysis.division import Division

LEAST = 100
"""Minimum expected assignments under independence of a value's specialist: noise is then about 10 %."""
STRONG = 1.2
"""Minimum of ``times`` for an expert to be a specialist."""
Part = tuple[str, str]


class Need(NamedTuple):
    """Changes of a value's bits per byte without its specialist and without another expert.

    The specialist of a value is the expert, of any layer, with the greatest share of the assignments of the tokens that
    predict the value over its share of all: a statistic of the routing alone.
    """

    domain: str
    value: str
    layer: int
    expert: int
    times: float
    """That share over the share of all."""
    change: float
    """Without the specialist."""
    other: float
    """Without one of the other experts of its layer: their mean."""
    half: float
    """Half the 95 % interval of ``change - other`` over documents."""


class Pooled(NamedTuple):
    """Means over the values of a domain that have a specialist."""

    domain: str
    values: int
    change: float
    other: float
    half: float


class Differences(NamedTuple):
    """A specialist less the mean of the other experts, in each document of the value."""

    nll: Floats
    """Nats, (D,)."""
    part: slice
    """The cells."""


def find_needs(
    costs: Costs, division: Division, layers: Sequence[int], parts: Mapping[Part, slice]
) -> list[tuple[Need, Differences]]:
    """Find the specialist of each value of two documents or more that has one, in the order of ``parts``."""
    experts = costs.more.shape[1]
    if experts == 1:
        return []
    found = []
    load = costs.uses[..., parts["all", "all"]].sum(dim=-1).double()  # (L, E)
    for (domain, value), part in parts.items():
        if domain == "all" or part.stop - part.start < 2:  # a single document shows no scatter
            continue
        uses = costs.uses[..., part].sum(dim=-1).double()
        expected = load * uses.sum(dim=-1, keepdim=True) / load.sum(dim=-1, keepdim=True)
        times = np.where(expected >= LEAST, uses / expected.clamp(min=1e-12), 0)
        layer, expert = (int(at) for at in np.unravel_index(times.argmax(), times.shape))
        if times[layer, expert] < STRONG:
            continue
        its, size = costs.more[layer, :, part].numpy(), division.size[part].astype(np.float64)
        others = (its.sum(axis=0) - its[expert]) / (experts - 1)
        pair = interval(np.stack([its[expert], others, its[expert] - others], axis=1), size)
        change, other, _ = pair.mean.tolist()
        need = Need(
            domain, value, layers[layer], expert, float(times[layer, expert]), change, other, float(pair.half[2])
        )
        found.append((need, Differences(its[expert] - others, part)))
    return found


def pooled(needs: Sequence[tuple[Need, Differences]], division: Division) -> list[Pooled]:
    """Average over the values of each domain, and over all values; empty without specialists."""
    if not needs:
        return []
    shape = int(division.document.max()) + 1, len(needs)
    nll, size = np.zeros(shape), np.zeros(shape)
    for i, (_, difference) in enumerate(needs):
        documents = division.document[difference.part]
        nll[documents, i], size[documents, i] = difference.nll, division.size[difference.part]
    draws = resampled(nll, size)
    rows = [need for need, _ in needs]
    found = []
    for domain in [*dict.fromkeys(need.domain for need in rows), "all"]:
        its = [i for i, need in enumerate(rows) if domain in (need.domain, "all")]
        drawn = draws[:, its]
        there = np.isfinite(drawn)  # a draw can lack all documents of a rare value
        drawn, there = (table[there.any(axis=1)] for table in (drawn, there))
        mean = np.where(there, drawn, 0).sum(axis=1) / there.sum(axis=1)
        change, other = (float(np.mean([getattr(rows[i], name) for i in its])) for name in ("change", "other"))
        found.append(Pooled(domain, len(its), change, other, float(spread(mean[:, None], shape[0])[0])))
    return found
