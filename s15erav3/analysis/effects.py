"""What experts are worth to parts of a text, in bits per byte.

Shapes: G groups of tokens (a domain and a value), L MoE layers, E routed experts, C cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from s15erav3.analysis.ablation import Costs
from s15erav3.analysis.bootstrap import Floats, interval
from s15erav3.analysis.division import Division, Ints
from s15erav3.analysis.needs import Need, Pooled, find_needs, pooled
from s15erav3.data.labels import NO_TEXT


class Effects(NamedTuple):
    """Changes of bits per byte when an expert is removed. The first group is the whole text."""

    layers: list[int]
    groups: list[tuple[str, str]]
    size: Ints
    """Bytes of each group, (G,)."""
    documents: Ints
    """Documents in which the group occurs, (G,)."""
    bpb: Floats
    """With all experts, (G,)."""
    change: Floats
    """(G, L, E)."""
    half: Floats
    """Half the 95 % interval over documents, (G, L, E); NaN in a single document."""
    needs: list[Need]
    """The specialist of each value that has one, and whether the value needs it."""
    domains: list[Pooled]
    """The same on average over the values of each domain; the last one is ``all``, over all domains."""


def effects(costs: Costs, division: Division, layers: Sequence[int]) -> Effects:
    """Turn the costs of cells into changes of bits per byte with intervals."""
    shape = tuple(costs.more.shape[:2])
    more, whole = costs.more.flatten(0, 1).t().numpy(), costs.whole.numpy()  # (C, L * E), (C,)
    ends = np.searchsorted(division.group, np.arange(len(division.groups) + 1)).tolist()
    parts = {
        group: slice(first, last)
        for group, first, last in zip(division.groups, ends, ends[1:], strict=False)
        if group[1] != NO_TEXT and division.size[first:last].sum()
    }
    each = [interval(more[part], division.size[part].astype(np.float64)) for part in parts.values()]
    size = np.array([division.size[part].sum() for part in parts.values()])
    needs = find_needs(costs, division, layers, parts)
    return Effects(
        layers=list(layers),
        groups=list(parts),
        size=size,
        documents=np.array([part.stop - part.start for part in parts.values()]),
        bpb=np.array([whole[part].sum() for part in parts.values()]) / size / math.log(2),
        change=np.stack([one.mean for one in each]).reshape(-1, *shape),
        half=np.stack([one.half for one in each]).reshape(-1, *shape),
        needs=[need for need, _ in needs],
        domains=pooled(needs, division),
    )
