"""Effect of single settings with all others equal."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from s15erav3.comparison.groups import BPB, Group
from s15erav3.comparison.settings import ABSENT, natural

OFF = ("none", "null", "false", "dense", "0", "0.0")
"""Values that mean "off": preferred as the reference."""


class Effect(NamedTuple):
    """One value of a setting compared with another, over all pairs of groups that are otherwise equal."""

    setting: str
    """Settings that always change together count as one: ``optimizer.lr + optimizer.weight_decay``."""
    value: str
    reference: str
    differences: list[float]
    """Per pair: median of the group with ``value`` minus median of the group with ``reference``."""
    contexts: list[str]
    """Common settings of each pair."""

    @property
    def median(self) -> float:
        """Median of the differences."""
        return median(self.differences)


def effects(groups: Sequence[Group], metric: str, best: str = BPB) -> list[Effect]:
    """Compute the effects of all settings on a metric: the setting with the largest effect first, then by size.

    The reference is the value that is paired with most others; among ties one that means "off", else the first.
    Settings below a choice (``balancing.rate`` below ``balancing``) belong to the choice: of groups that differ only
    in these, the one with the lowest median of ``best`` represents the choice. Groups that are not causal are
    excluded.
    """
    fair = [group for group in groups if group.causal and group.spread(metric).n]
    found = [_of(fair, keys, metric, best) for keys in _together(groups)]
    found.sort(key=lambda its: -max((abs(effect.median) for effect in its), default=0.0))
    return [effect for its in found for effect in sorted(its, key=lambda effect: effect.median)]


def _together(groups: Sequence[Group]) -> list[list[str]]:
    """Group the settings that always change together, so that each determines the others."""
    found: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for key in groups[0].settings if groups else ():
        numbers: dict[str, int] = {}
        found[tuple(numbers.setdefault(group.settings[key], len(numbers)) for group in groups)].append(key)
    return list(found.values())


def _of(groups: Sequence[Group], keys: list[str], metric: str, best: str) -> list[Effect]:
    """Compute the effects of settings that change together."""
    cells: dict[tuple[str, ...], dict[tuple[str, ...], Group]] = defaultdict(dict)
    for group in groups:
        chosen = tuple(group.settings[key] for key in keys)
        if set(chosen) == {ABSENT}:
            continue
        shared = tuple(f"{k}={v}" for k, v in group.settings.items() if not _belongs(k, keys))
        rival = cells[shared].get(chosen)
        if rival is None or _rank(group, best) < _rank(rival, best):
            cells[shared][chosen] = group
    pairs = {shared: by_value for shared, by_value in cells.items() if len(by_value) > 1}
    count = Counter(chosen for by_value in pairs.values() for chosen in by_value)
    if not count:
        return []
    reference = min(count, key=lambda v: (-count[v], v[0] not in OFF, [natural(text) for text in v]))
    found: dict[tuple[str, ...], Effect] = {}
    for shared, by_value in pairs.items():
        if reference not in by_value:
            continue
        base = by_value[reference].spread(metric).median
        context = " ".join(part for part in shared if not part.endswith("=" + ABSENT))
        for chosen, group in by_value.items():
            if chosen != reference:
                name, its, other = (" + ".join(texts) for texts in (keys, chosen, reference))
                effect = found.setdefault(chosen, Effect(name, its, other, [], []))
                effect.differences.append(group.spread(metric).median - base)
                effect.contexts.append(context)
    return list(found.values())


def _belongs(key: str, keys: list[str]) -> bool:
    return any(key == one or key.startswith(one + ".") for one in keys)


def _rank(group: Group, metric: str) -> float:
    middle = group.spread(metric).median
    return math.inf if math.isnan(middle) else middle
