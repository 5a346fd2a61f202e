"""How much an expert tells about its tokens, and which experts tell most.

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
    """Bits, of the frequencies as they are."""
    corrected: Tensor
    """Bits, by Miller and Madow; may fall below 0."""
    share: Tensor
    """``corrected`` over the entropy of the value: 1 if the expert gives it away; 0 where there is one value."""


def mutual_information(counts: Tensor) -> Information:
    """I(expert; value) = H(expert) + H(value) - H(expert, value) over slots, counts (L, V, E).

    Entropies of frequencies are too small on average, by about (m - 1) / 2n nats with m values that occur among n
    slots (Miller 1955). The joint one, with up to V E cells, errs most: many rare values, names or the vocabulary,
    show information where there is none. ``corrected`` adds that term to each entropy. It takes slots for
    independent draws, and neighbouring tokens are not: what is left of a few thousandths of a bit may be chance.
    """
    counts = counts.double()
    n = counts.sum(dim=(-2, -1))
    entropies, terms = [], []
    for table in (counts.sum(dim=-2), counts.sum(dim=-1), counts.flatten(-2)):
        entropies.append(torch.special.entr(table / n.unsqueeze(-1)).sum(dim=-1))
        terms.append(((table > 0).sum(dim=-1) - 1) / (2 * n))
    plug_in = (entropies[0] + entropies[1] - entropies[2]) / math.log(2)
    corrected = plug_in + (terms[0] + terms[1] - terms[2]) / math.log(2)
    value_bits = entropies[1] / math.log(2)
    share = torch.where(value_bits > 0, corrected / value_bits.clamp(min=1e-12), 0.0)
    return Information(plug_in, corrected, share)


class Specialist(NamedTuple):
    """An expert that takes more of a value than of the text."""

    domain: str
    value: str
    layer: int
    expert: int
    times: float
    """The expert's share of the value's slots over its share of all slots of the layer."""
    assignments: int
    """Slots of that value that it took."""

    def __str__(self) -> str:
        return (
            f"layer {self.layer:02d}, E{self.expert:02d}: {self.times:.1f} times its share on {self.domain} "
            f"'{self.value}' ({self.assignments:,} assignments)"
        )


def specialists(routed: Routed, *, each: int = 1, least: int = 100, strong: float = 1.2) -> Iterator[Specialist]:
    """The ``each`` strongest of each domain, strongest first, that take ``strong`` times their share or more.

    End of text, which has no value, is left out.

    Only (value, expert) pairs are looked at where an expert that knew nothing of the value would have taken
    ``least`` assignments: chance moves those by some 10 %; of rarer ones the strongest are strong by chance.
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
