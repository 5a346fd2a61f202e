"""Statistics of a comparison, on synthetic runs with known effects."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from s15erav3.analysis.student import p_value, quantile
from s15erav3.comparison.groups import BPB, Group
from s15erav3.comparison.statistics import DOCUMENTS, bootstrap, detectable, difference, holm, statistics
from s15erav3.runs.reader import Run


def group(values: list[float], name: str = "aux", first: int = 0, folder: Path = Path("none")) -> Group:
    """Runs with these bits per byte and consecutive seeds."""
    runs = [
        Run(folder / name / str(seed), "completed", "", {BPB: v, "causal": True}, {}, {"seed": seed})
        for seed, v in enumerate(values, start=first)
    ]
    return Group({"balancing": name}, runs, runs)


@pytest.mark.parametrize(
    ("df", "t"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (10, 2.2281), (29, 2.0452)]
)
def test_quantiles_of_a_printed_table(df: int, t: float) -> None:
    assert quantile(0.05, df) == pytest.approx(t, abs=1e-4)
    assert p_value(-t, df) == pytest.approx(0.05, abs=1e-5)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_paired_difference_by_hand() -> None:
    """Differences -0.01, -0.02, -0.03: mean -0.02, standard error 0.01 / sqrt 3."""
    found = difference(group([1.49, 1.58, 1.37]), group([1.50, 1.60, 1.40], "none"), "aux")
    assert (found.mean, found.df) == (pytest.approx(-0.02), 2)
    assert found.error == pytest.approx(0.01 / math.sqrt(3))


def test_unlike_seeds_are_not_paired() -> None:
    """Welch: both variances are 0.01, of two runs each, so the standard error is sqrt(0.005 + 0.005)."""
    found = difference(group([1.0, 1.0 + math.sqrt(0.02)], first=5), group([2.0, 2.0 + math.sqrt(0.02)], "none"), "aux")
    assert (found.mean, found.error, found.df) == (pytest.approx(-1.0), pytest.approx(0.1), 2)


@pytest.mark.parametrize(("paired", "strategies"), [(True, 1), (False, 1), (True, 5)])
def test_false_positives_are_at_most_five_percent(paired: bool, strategies: int) -> None:
    """Over whole comparisons without any effect. Fails with a normal quantile, or without Holm's correction."""
    draw = np.random.default_rng(0)
    wrong, trials = 0, 1000
    for _ in range(trials):
        seeds = draw.normal(1.4, 0.02, 3) if paired else np.full(3, 1.4)
        made = [group((seeds + draw.normal(0, 0.005, 3)).tolist(), "none")]
        for i in range(strategies):
            made.append(group((seeds + draw.normal(0, 0.005, 3)).tolist(), f"s{i}", 0 if paired else 100))
        rows = statistics(made, [g.name for g in made]).rows
        wrong += any(row[5] in ("better", "worse") for row in rows)
    assert wrong / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize("runs", [3, 6])
def test_a_planted_effect_is_found_at_the_stated_power(runs: int) -> None:
    """The scatter is such that 1 % is what can be seen with a power of 80 %."""
    draw = np.random.default_rng(1)
    exact = difference(group(list(1.4 + np.arange(runs))), group([1.4] * runs, "none"), "aux")
    factor = detectable(exact._replace(error=1.0, reference=1.0), 1)
    scatter = 0.01 * 1.4 / factor * math.sqrt(runs)
    found = 0
    for _ in range(500):
        seeds = draw.normal(1.4, 0.02, runs)
        made = [group(seeds.tolist(), "none"), group((seeds - 0.014 + draw.normal(0, scatter, runs)).tolist())]
        found += statistics(made, ["none", "aux"]).rows[0][5] == "better"
    assert 0.72 <= found / 500 <= 0.88


def test_documents_widen_the_interval(tmp_path: Path) -> None:
    """The bootstrap's variance is that of a ratio of sums, by the delta method, and is added to that of the runs."""
    draw = np.random.default_rng(2)
    size, nll = draw.integers(500, 1500, 40), draw.normal(0, 20, 40)
    ratio = nll.sum() / size.sum()
    expected = ((nll - ratio * size) ** 2).sum() / size.sum() ** 2 / math.log(2) ** 2
    assert bootstrap(nll, size.astype(float)) == pytest.approx(expected, rel=0.1)
    made = [group([1.5, 1.51, 1.52], "none", folder=tmp_path), group([1.4, 1.42, 1.41], folder=tmp_path)]
    alone = difference(made[1], made[0], "aux")
    for its, extra in zip(made, (np.zeros(40), nll), strict=True):
        for run in its.runs:
            run.folder.mkdir(parents=True)
            rows = zip(extra.tolist(), size.tolist(), strict=True)
            (run.folder / DOCUMENTS).write_text("".join(json.dumps({"nll": a, "bytes": b}) + "\n" for a, b in rows))
    found = difference(made[1], made[0], "aux")
    assert (alone.documents, found.documents) == (0, 40)
    assert found.error**2 - alone.error**2 == pytest.approx(expected, rel=0.1)


def test_the_reference_is_the_strategy_that_is_off() -> None:
    made = [group([1.4, 1.41]), group([1.5, 1.52], "none")]
    found = statistics(made, ["aux", "none"])
    assert [row[0] for row in found.rows] == ["aux"] and "difference to none; 1 comparison," in found.notes[0]
    other = [group([1.5, 1.6], "bip"), group([1.4, 1.3], "aux"), group([1.2, 1.1], "bip2")]
    assert {row[0] for row in statistics(other, ["bip", "aux", "bip2"]).rows} == {"bip", "bip2"}, "not by results"
    assert statistics([made[0], group([1.5], "none")], ["aux", "none"]).notes[0].startswith("No intervals")
