"""Scatter by rounding, on synthetic runs. Each docstring names mutations that the test was seen to fail with."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from s15erav3.analysis.student import quantile
from s15erav3.comparison.groups import BPB, Group, groups
from s15erav3.comparison.rounding import detectable_by_rounding, least_by_rounding, scatter
from s15erav3.comparison.statistics import statistics
from s15erav3.comparison.tables import left_out, to_csv
from s15erav3.runs.reader import Run


def run(name: str, bpb: float, seed: int = 1, rounding: int = 0, status: str = "completed") -> Run:
    config = {"seed": seed, "rounding": rounding, "balancing": {"name": name}}
    overrides = {"balancing.name": name, "seed": str(seed)} | ({"rounding": str(rounding)} if rounding else {})
    return Run(Path(f"{name}-{seed}-{rounding}"), status, "", {BPB: bpb, "causal": True}, overrides, config)


def made(name: str, bpb: float, deviation: float, seeds: int = 1) -> list[Run]:
    """Runs of some seeds, and two of seed 1 whose rounding moves them: a standard deviation of ``deviation``."""
    rounded = [run(name, bpb + sign * deviation, rounding=n) for n, sign in ((1, 1), (2, -1))]
    return [run(name, bpb + 0.1 * (seed - 1), seed) for seed in range(1, seeds + 1)] + rounded


def found(*runs: list[Run]) -> list[Group]:
    return groups([one for its in runs for one in its])


def test_noise_runs_are_in_their_group_but_not_counted() -> None:
    """In medians, in n, in the CSV and among failures. Seen to fail with noise runs counted, and listed as left out."""
    runs = [*made("aux", 1.4, 0.01, seeds=2), run("aux", 1.4, rounding=3, status="failed")]
    (group,) = found(runs)
    assert group.values(BPB) == pytest.approx([1.4, 1.5])
    assert [r.config["rounding"] for r in group.noise] == [1, 2, 3]
    assert [row[:2] for row in left_out(runs, [group])] == [["aux-1-3", "failed"]]
    rows = list(csv.DictReader(to_csv(runs, [group]).splitlines()))
    assert [(row["group"], row["seed"], row["rounding"]) for row in rows][:4] == [
        ("1", "1", "0"), ("1", "2", "0"), ("1", "1", "1"), ("1", "1", "2")
    ]  # fmt: skip


def test_the_scatter_is_that_of_one_seed() -> None:
    """1.40, 1.41 and 1.39 of seed 1, without 1.5 of seed 2. Seen to fail with all seeds, and without the first run."""
    its = scatter(found(made("aux", 1.4, 0.01, seeds=2))[0], "aux")
    assert its is not None
    assert (its.deviation, its.mean, its.n) == (pytest.approx(0.01), pytest.approx(1.4), 3)
    assert scatter(found([run("aux", 1.4)])[0], "aux") is None


def test_the_limit_by_rounding_by_hand() -> None:
    """Standard error sqrt(0.03^2 / 1 + 0.04^2 / 4), 4 degrees of freedom. Seen to fail with the runs exchanged."""
    one, base = (scatter(found(made(n, bpb, d))[0], n) for n, bpb, d in (("a", 1.4, 0.03), ("b", 1.5, 0.04)))
    assert one is not None and base is not None
    error = math.sqrt(0.03**2 + 0.04**2 / 4)
    expected = (quantile(0.025, 4) + quantile(0.4, 4)) * error / 1.5
    assert detectable_by_rounding(one, base, (1, 4), 2) == pytest.approx(expected)
    assert least_by_rounding([], None) == 0


def test_what_is_said() -> None:
    """With one run each, rounding alone limits what can be seen; with seeds it is the larger of both limits. Seen to
    fail without the larger one."""
    one = statistics(found(made("aux", 1.4, 0.014), made("none", 1.5, 0.003)), ["aux", "none"])
    limit = (quantile(0.05, 4) + quantile(0.4, 4)) * math.hypot(0.014, 0.003) / 1.5
    assert f"Differences below {100 * limit:.2g} % cannot" in " ".join(one.notes)
    assert "aux 1 % (3 runs), none 0.2 % (3 runs)" in " ".join(one.notes)
    seeds = statistics(found(made("aux", 1.4, 0.014, 2), made("none", 1.5, 0.003, 2)), ["aux", "none"])
    limit /= math.sqrt(2)  # the differences of both seeds are equal, so seeds set no limit
    assert f"Differences below {100 * limit:.2g} % cannot" in " ".join(seeds.notes)
    quiet = statistics(
        found([run("aux", 1.4), run("aux", 1.5, 2)], [run("none", 1.6), run("none", 1.7, 2)]), ["a", "b"]
    )
    assert not any("Rounding" in note for note in quiet.notes)
