"""Differences in bits per byte to a reference group, with intervals over runs and validation documents.

Runs: the t interval of the mean difference, paired by seed where two seeds are shared, else Welch's. A bootstrap over
the three or so runs that a group has would reject a true hypothesis of no difference in a quarter of all cases.
Documents: a bootstrap, whose variance is added, where ``evaluate`` has left its file in every run's folder.
Comparisons: Holm's correction (1979). Runs that repeat a seed with other rounding are no further runs: they limit the
power from below.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, median, variance
from typing import Any, NamedTuple

import numpy as np

from s15erav3.analysis.bootstrap import LEVEL, Floats, resampled
from s15erav3.analysis.student import p_value, quantile
from s15erav3.comparison.effects import OFF
from s15erav3.comparison.groups import BPB, Group, value
from s15erav3.comparison.rounding import least_by_rounding, scatter, sentence
from s15erav3.comparison.settings import natural
from s15erav3.runs.reader import Run

DOCUMENTS = "evaluate-last-val.jsonl"
HEADER = ["group", "difference", "95 % interval", "relative", "p (Holm)", "verdict", "runs", "documents"]


class Difference(NamedTuple):
    """Mean difference of a group to the reference in bits per byte."""

    name: str
    mean: float
    error: float
    """Standard error."""
    df: int
    reference: float
    """Mean of the reference."""
    runs: str
    documents: int
    """Documents in the bootstrap; 0 without."""

    @property
    def p(self) -> float:
        """Two-sided p-value, uncorrected."""
        return p_value(self.mean / self.error, self.df) if self.error else float(self.mean == 0)

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval."""
        return quantile(LEVEL, self.df) * self.error


class Statistics(NamedTuple):
    """A table of differences, and what can be said of it; both empty if nothing can be compared."""

    rows: list[list[str]]
    notes: list[str]


def statistics(groups: Sequence[Group], names: Sequence[str]) -> Statistics:
    """Compare each causal group with the reference: the group with most settings off, then by the order of settings.

    A group is called better or worse only if its interval excludes 0 and its corrected p-value is below 0.05.
    """
    causal = [(group, name) for group, name in zip(groups, names, strict=True) if group.causal]
    fair = [(group, name) for group, name in causal if len(_runs(group)) > 1]
    noisy = [(group, its) for group, name in causal if (its := scatter(group, name)) is not None]
    said = [sentence([its for _, its in noisy])] if noisy else []
    if len(groups) < 2:
        return Statistics([], said)
    if len(fair) < 2:
        noisy.sort(key=lambda pair: _place(pair[0]))
        said += [seen(least)] if (least := least_by_rounding(noisy, noisy[0] if noisy else None)) else []
        return Statistics([], ["No intervals: they need two groups with at least two runs each.", *said])
    base, base_name = min(fair, key=lambda pair: _place(pair[0]))
    found = [difference(group, base, name) for group, name in fair if group is not base]
    rows = []
    for one, p in zip(found, holm([one.p for one in found]), strict=True):
        clear = p < LEVEL and abs(one.mean) > one.half
        verdict = ("better" if one.mean < 0 else "worse") if clear else "no difference shown"
        interval = f"{one.mean - one.half:+.4f} to {one.mean + one.half:+.4f}"
        relative = f"{one.mean / one.reference:+.2%}"
        documents = f"{one.documents:,}" if one.documents else "-"
        rows.append([one.name, f"{one.mean:+.4f}", interval, relative, f"{p:.3g}", verdict, one.runs, documents])
    by_rounding = least_by_rounding(noisy, next((pair for pair in noisy if pair[0] is base), None))
    least = max(by_rounding, median(detectable(one, len(found)) for one in found))
    many = f"{len(found)} comparison{'s' if len(found) > 1 else ''}"
    notes = [
        f"val/bpb, difference to {base_name}; {many}, Holm's correction.",
        seen(least),
        *said,
    ]
    if not all(one.documents for one in found):
        notes.append(
            f"Without the scatter of validation documents where a run lacks {DOCUMENTS}; s15erav3 evaluate "
            "RUN_DIR/checkpoints/last.ckpt writes it."
        )
    return Statistics(rows, notes)


def seen(least: float) -> str:
    """The power of the comparison, from the smallest relative difference that it finds."""
    return f"Differences below {100 * least:.2g} % cannot be seen with these runs (power 80 %)."


def difference(group: Group, base: Group, name: str) -> Difference:
    """Estimate the mean difference of two groups with at least two runs each; runs of one seed are averaged."""
    a, b = _runs(group), _runs(base)
    shared = sorted(a.keys() & b.keys())
    if len(shared) > 1:
        a, b = ({seed: its[seed] for seed in shared} for its in (a, b))
        pairs = [_mean(a[seed]) - _mean(b[seed]) for seed in shared]
        mean, squared, df, runs = fmean(pairs), variance(pairs) / len(pairs), len(pairs) - 1, f"{len(pairs)} pairs"
    else:
        its, other = ([_mean(runs) for runs in x.values()] for x in (a, b))
        mean, runs = fmean(its) - fmean(other), f"{len(its)} and {len(other)}"
        parts = [variance(x) / len(x) for x in (its, other)]
        squared = sum(parts)
        spread = sum(v * v / (len(x) - 1) for v, x in zip(parts, (its, other), strict=True))
        df = max(1, int(squared * squared / spread)) if spread else len(its) + len(other) - 2
    costs = [_documents([run for runs in x.values() for run in runs]) for x in (a, b)]
    reference, n = fmean(_mean(runs) for runs in b.values()), 0
    if costs[0] is not None and costs[1] is not None and np.array_equal(costs[0][1], costs[1][1]):
        n = len(costs[0][0])
        squared += bootstrap(costs[0][0] - costs[1][0], costs[0][1])
    return Difference(name, mean, math.sqrt(squared), df, reference, runs, n)


def bootstrap(nll: Floats, size: Floats, draws: int = 2000) -> float:
    """Variance of bits per byte over resampled documents: nats and bytes of each, (D,)."""
    return float(np.var(resampled(nll[:, None], size, draws)))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, step by step from the smallest."""
    found, last = [0.0] * len(p), 0.0
    for rank, at in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        found[at] = last = max(last, min(1.0, (len(p) - rank) * p[at]))
    return found


def detectable(one: Difference, comparisons: int) -> float:
    """Relative difference that is found with a probability of about 80 % if it is the smallest p-value of all."""
    return (quantile(LEVEL / comparisons, one.df) + quantile(0.4, one.df)) * one.error / one.reference


def _place(group: Group) -> tuple[int, list[Any]]:
    """Order of reference groups, which must not depend on their results."""
    texts = list(group.settings.values())
    return -sum(text in OFF for text in texts), [natural(text) for text in texts]


def _runs(group: Group) -> dict[str, list[Run]]:
    """Return the counted runs with a finite metric by seed."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in group.counted:
        if math.isfinite(value(run, BPB)):
            found[str(run.config.get("seed"))].append(run)
    return found


def _mean(runs: Sequence[Run]) -> float:
    return fmean(value(run, BPB) for run in runs)


def _documents(runs: Sequence[Run]) -> tuple[Floats, Floats] | None:
    """Return mean nats and bytes of each document, (D,); ``None`` unless all runs have them for the same documents."""
    try:
        tables = [[json.loads(s) for s in (r.folder / DOCUMENTS).read_text().splitlines()] for r in runs]
        nll = np.array([[float(row["nll"]) for row in rows] for rows in tables])
        size = np.array([[float(row["bytes"]) for row in rows] for rows in tables])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return (nll.mean(axis=0), size[0]) if nll.size and (size == size[0]).all() else None
