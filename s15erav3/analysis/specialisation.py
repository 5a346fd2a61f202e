"""Expert specialisation: mutual information between experts and token values, and the strongest specialists.

Shapes: L MoE layers, E routed experts, V values of a domain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from s15erav3.analysis.collect import Routed
from s15erav3.data.labels import NO_TEXT


class Information(NamedTuple):
    """Mutual information of a slot's expert and its token's value, per layer, fp64, (L,) each."""

    plug_in: Tensor
    """Plug-in estimate from the observed frequencies, in bits."""
    corrected: Tensor
    """Miller-Madow estimate, in bits; can be negative."""
    share: Tensor
    """``corrected`` divided by the entropy of the value: 1 if the expert determines it; 0 if there is one value."""
    share_of_expert: Tensor
    """``corrected`` divided by the entropy of the expert, which bounds it and falls when routing collapses."""


def mutual_information(counts: Tensor) -> Information:
    """Compute I(expert; value) = H(expert) + H(value) - H(expert, value) over slots from counts (L, V, E).

    Plug-in entropies are biased downwards by about (m - 1) / 2n nats, with m distinct values among n slots
    (Miller 1955). The joint entropy, with up to V E cells, has the largest bias: domains with many rare values, such
    as names or the vocabulary, show spurious information. ``corrected`` adds that term to each entropy. It assumes
    independent slots, but neighbouring tokens are correlated: a few thousandths of a bit can be noise.
    """
    counts = counts.double()
    n = counts.sum(dim=(-2, -1))
    entropies, terms = [], []
    for table in (counts.sum(dim=-2), counts.sum(dim=-1), counts.flatten(-2)):
        entropies.append(torch.special.entr(table / n.unsqueeze(-1)).sum(dim=-1))
        terms.append(((table > 0).sum(dim=-1) - 1) / (2 * n))
    plug_in = (entropies[0] + entropies[1] - entropies[2]) / math.log(2)
    corrected = plug_in + (terms[0] + terms[1] - terms[2]) / math.log(2)
    # Over dimension -2 the values are summed: the first entropy is the expert's, the second the value's.
    of_expert, of_value = (
        torch.where(bits > 0, corrected / bits.clamp(min=1e-12), 0.0)
        for bits in (entropies[0] / math.log(2), entropies[1] / math.log(2))
    )
    return Information(plug_in, corrected, of_value, of_expert)


class Specialist(NamedTuple):
    """An expert with a larger share of a value than of the whole text."""

    domain: str
    value: str
    layer: int
    expert: int
    times: float
    """The expert's share of the value's slots divided by its share of all slots of the layer."""
    assignments: int
    """Slots of that value at this expert."""

    def __str__(self) -> str:
        return (
            f"layer {self.layer:02d}, E{self.expert:02d}: {self.times:.1f} times its share on {self.domain} "
            f"'{self.value}' ({self.assignments:,} assignments)"
        )


def specialists(routed: Routed, *, each: int = 1, least: int = 100, strong: float = 1.2) -> Iterator[Specialist]:
    """Yield the ``each`` strongest specialists per domain, strongest first, with lift of at least ``strong``.

    End-of-text, which has no value, is excluded.

    Only (value, expert) pairs with at least ``least`` expected assignments under independence are considered: noise
    is then about 10 %; among rarer pairs the strongest would be strong by chance.
    """
    found = []
    for name, (values, slots, _) in routed.domains.items():
        expected = slots.sum(dim=-1, keepdim=True).double() * slots.sum(dim=-2, keepdim=True)
        expected /= slots.sum(dim=(-2, -1), keepdim=True)
        times = torch.where(expected >= least, slots / expected.clamp(min=1e-12), 0.0)
        times[:, [value == NO_TEXT for value in values]] = 0.0
        for place in times.flatten().argsort(descending=True, stable=True)[:each]:
            layer, value, expert = (int(i) for i in torch.unravel_index(place, times.shape))
            if (strength := times[layer, value, expert].item()) < strong:
                break
            count = int(slots[layer, value, expert])
            found.append(Specialist(name, values[value], routed.layers[layer], expert, strength, count))
    yield from sorted(found, key=lambda specialist: -specialist.times)
