"""An outside check of docs/study_tables.md: every figure again, from docs/data/study, with NumPy alone.

    python scripts/study_check.py [--data docs/data/study] [--tables docs/study_tables.md]

Shares no code with scripts/study_report.py. Student's t is integrated numerically; what documents add to an interval is
bootstrapped with other random numbers, so cells that depend on it agree to 3 %. Then a permutation test (random signs
for the documents' differences, averaged over seeds) is compared with each verdict.
Exits with 1 if anything disagrees.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PAIRS = [
    *(("loss_free", "none"), ("quantile", "none"), ("aux_global", "none"), ("dsv3", "none")),
    *(("dsv3", "loss_free"), ("loss_free", "dense"), ("loss_free", "dense_time")),
]
Record = dict[str, Any]
Table = list[list[str]]


def t_distribution(df: int) -> tuple[np.ndarray, np.ndarray]:
    """Points x >= 0 and the probability of less than x in size, by the trapezoid rule over Student's density."""
    x = np.tan(np.linspace(0, np.pi / 2, 1_000_001)[:-1])
    density = (1 + x * x / df) ** (-(df + 1) / 2)
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))])
    return x, mass / mass[-1]


def t_critical(p: float, df: int) -> float:
    """Two-sided critical value."""
    x, mass = t_distribution(df)
    return float(np.interp(1 - p, mass, x))


def t_p(t: float, df: int) -> float:
    """Two-sided p-value of t."""
    x, mass = t_distribution(df)
    return float(1 - np.interp(abs(t), x, mass))


def tables(text: str) -> dict[str, Table]:
    """Cells of the page's tables by heading, without the head."""
    found: dict[str, Table] = {}
    for heading, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in body.splitlines() if line.startswith("|")]
        if rows:
            found[heading] = [[cell.strip("`*") for cell in row] for row in rows[2:]]
    return found


def numbers(cell: str) -> list[float]:
    """Numbers in a cell."""
    return [float(n) for n in re.findall(r"[-+]?\d+(?:\.\d+)?(?:e-?\d+)?", cell)]


class Check:
    """Counts what agrees."""

    def __init__(self) -> None:
        self.agree = self.differ = 0

    def same(self, where: str, printed: float, computed: float, tolerance: float) -> None:
        """Compare one figure."""
        if abs(printed - computed) <= tolerance:
            self.agree += 1
        else:
            self.differ += 1
            print(f"differs: {where}: printed {printed:g}, computed {computed:.6g}")

    def all(self, where: str, cell: str, computed: tuple[float, ...], tolerance: float) -> None:
        """Compare each figure of a cell."""
        for at, (a, b) in enumerate(zip(numbers(cell), computed, strict=True), start=1):
            self.same(f"{where}, number {at}", a, b, tolerance)


class Data(NamedTuple):
    """Records of docs/data/study."""

    all: list[Record]
    """Confirmatory runs and noise runs."""
    runs: dict[str, dict[int, Record]]
    """Confirmatory runs by arm and seed."""
    tried: list[Record]
    repeats: list[Record]
    explored: list[Record]
    classical: dict[str, float]

    def same_seed(self, arm: str) -> list[Record]:
        """Runs of an arm that differ in rounding alone."""
        return [r for r in self.all if r["arm"] == arm and (r["seed"] == 1 or "rounding" in r["settings"])]


def read(folder: Path) -> Data:
    """Read all files."""
    every, tried, repeats, explored = (
        [json.loads(line) for file in folder.glob(f"{kind}_*.jsonl") for line in file.read_text().splitlines()]
        for kind in ("study", "tune", "repeat", "explore")
    )
    plain = [r for r in every if "rounding" not in r["settings"]]
    runs = {arm: {r["seed"]: r for r in plain if r["arm"] == arm} for arm in {r["arm"] for r in plain}}
    file = folder / "baselines.json"
    return Data(every, runs, tried, repeats, explored, json.loads(file.read_text())["bpb"] if file.exists() else {})


def bits(record: Record) -> float:
    """Bits per byte of the test part."""
    return float(np.sum(record["test"]["nll"]) / np.sum(record["test"]["bytes"]) / np.log(2))


def spread(values: list[float]) -> float:
    """Standard deviation in percent of the mean."""
    return 100 * float(np.std(values, ddof=1) / np.mean(values))


def mean_and_half(values: list[float]) -> tuple[float, float]:
    """Mean, and half of the 95 % interval."""
    n = len(values)
    return float(np.mean(values)), t_critical(0.05, n - 1) * float(np.std(values, ddof=1)) / n**0.5


def check_arms(printed: Table, data: Data, check: Check) -> None:
    """Means and intervals of the outcomes."""
    for arm, _, *cells in printed:
        its = list(data.runs[arm].values())
        outcomes = {
            "test bpb": (bits, 4),
            "val bpb": (lambda r: r["val/bpb"], 4),
            "MaxVio": (lambda r: r["balance/maxvio_global"], 3),
            "dead experts": (lambda r: r["balance/dead_experts_global"], 3),
            "MaxVio early": (lambda r: r["validations"]["balance/maxvio_global"][0], 2),
        }
        for cell, (name, (value, places)) in zip(cells, outcomes.items(), strict=True):
            if cell:
                check.all(f"Arms {arm} {name}", cell, mean_and_half([value(r) for r in its]), 0.51 * 10**-places)


def check_churn(printed: Table, data: Data, check: Check) -> None:
    """Churn at the validation nearest to half of the steps."""
    for arm, _, *cells in printed:
        curves = [(r["validations"], r["max_steps"] / 2) for r in data.runs[arm].values()]
        at = [int(np.argmin(np.abs(np.subtract(curve["step"], half)))) for curve, half in curves]
        for cell, key in zip(cells, ("step_churn", "weight_churn", "churn"), strict=True):
            values = [100 * curve[f"balance/{key}"][i] for (curve, _), i in zip(curves, at, strict=True)]
            check.all(f"Churn {arm} {key}", cell, mean_and_half(values), 0.0051)


def check_baselines(printed: Table, data: Data, check: Check) -> None:
    """Classical models, and how many runs are below each."""
    plain = [bits(r) for its in data.runs.values() for r in its.values()]
    for model, value, below in printed:
        check.same(f"Baselines {model}", float(value), data.classical[model], 0.000051)
        check.all(f"Baselines {model}", below, (sum(b < data.classical[model] for b in plain), len(plain)), 0)


def check_experts(printed: Table, data: Data, check: Check) -> None:
    """What experts are used for and worth."""
    for arm, seed, *cells, every, parts in printed:
        run = data.runs[arm][int(seed)]
        its = run["experts"]
        cost, load = np.ravel(its["ablation/change"]), np.ravel(run["last_load"])
        ranks = [np.array([np.sum(x < v) + (np.sum(x == v) - 1) / 2 for v in x]) for x in (cost, load)]
        known = [100 * its[f"specialisation/{d}/share_of_expert"] for d in ("token", "part", "event")]
        want = [*known, np.mean(cost), np.max(cost), np.corrcoef(*ranks)[0, 1]]
        for cell, value, places in zip(cells, want, (2, 2, 2, 5, 4, 2), strict=True):
            check.same(f"Experts {arm}", float(cell), float(value), 0.51 * 10**-places)
        for cell, domain in ((every, "all"), (parts, "part")):
            (row,) = (row for row in its["ablation/domains"] if row["domain"] == domain)
            check.all(f"Experts {arm} {domain}", cell, (row["change"] - row["other"], row["half"]), 0.000051)


def check_scatter(printed: Table, data: Data, check: Check) -> None:
    """Scatter by rounding and by seeds."""
    for arm, _, rounding, seeds in printed:
        check.same(f"Scatter {arm}", float(rounding), spread([bits(r) for r in data.same_seed(arm)]), 0.00051)
        check.same(f"Scatter {arm} seeds", float(seeds), spread([bits(r) for r in data.runs[arm].values()]), 0.00051)


def check_repeats(printed: Table, data: Data, check: Check) -> None:
    """Runs that were made twice."""
    for arm, seed, *cells, apart in printed:
        (again,) = (r for r in data.repeats if r["arm"] == arm and r["seed"] == int(seed))
        first = data.runs[arm][int(seed)]
        for cell, record in zip(cells, (first, again), strict=True):
            check.same(f"Repeats {arm}", float(cell), bits(record), 0.00000051)
        most = np.abs(np.array(again["test"]["nll"]) / np.array(first["test"]["nll"]) - 1).max()
        check.same(f"Repeats {arm} documents", float(apart), 100 * float(most), 0.00051)


def check_design(printed: Table, data: Data, check: Check) -> None:
    """What a run of each arm is."""
    for arm, *cells in printed:
        for run in data.runs[arm].values():
            test = (len(run["test"]["nll"]), sum(run["test"]["bytes"]))
            sizes = (run["steps"], run["tokens"], run["params/total"], run["params/active"], *test, run["epochs"])
            for cell, size in zip(cells, sizes, strict=True):
                check.same(f"Design {arm}", float(cell.replace(",", "")), size, 0.0051)


def check_tuning(printed: Table, data: Data, check: Check) -> None:
    """Every value that was tried."""
    for arm, setting, value, loss, uneven in printed:
        (run,) = (r for r in data.tried if r["arm"] == arm and float(r["settings"][setting]) == float(value))
        check.same(f"Tuning {arm} {value}", float(loss), run["val/bpb"], 0.000051)
        if uneven:
            check.same(f"Tuning {arm} {value} MaxVio", float(uneven), run["balance/maxvio_global"], 0.00051)


def check_explored(printed: Table, data: Data, check: Check) -> None:
    """Medians and ranges of the exploratory runs; no row is missing."""
    check.same("Exploratory runs", sum(int(row[2]) for row in printed), len(data.explored), 0)
    for experts, strategy, _, *cells in printed:
        its = [r for r in data.explored if (r["settings"].get("experts", "e16"), r["arm"]) == (experts, strategy)]
        curves = [(r["validations"], r["max_steps"] / 2) for r in its]
        at = [int(np.argmin(np.abs(np.subtract(curve["step"], half)))) for curve, half in curves]
        columns = {
            "test bpb": ([bits(r) for r in its], 4),
            "MaxVio": ([r["balance/maxvio_global"] for r in its], 3),
            "dead experts": ([r["balance/dead_experts_global"] for r in its], 3),
            "churn": ([100 * c["balance/step_churn"][i] for (c, _), i in zip(curves, at, strict=True)], 2),
        }
        for cell, (name, (values, places)) in zip(cells, columns.items(), strict=True):
            want = (float(np.median(values)), min(values), max(values))
            check.all(f"Exploratory {experts} {strategy} {name}", cell, want, 0.51 * 10**-places)


class Effect(NamedTuple):
    """A paired difference in bits per byte."""

    mean: float
    error: float
    df: int
    reference: float
    permutation: float
    """p-value over random signs of the documents' differences."""
    p: float


def effect(a: dict[int, Record], b: dict[int, Record], draw: np.random.Generator) -> Effect:
    """Compare two arms over the seeds that both have."""
    seeds = sorted(a.keys() & b.keys())
    differences = np.array([bits(a[s]) - bits(b[s]) for s in seeds])
    nll = np.mean([np.subtract(a[s]["test"]["nll"], b[s]["test"]["nll"]) for s in seeds], axis=0)
    size = np.array(a[seeds[0]]["test"]["bytes"], dtype=float)
    at = draw.integers(len(nll), size=(20_000, len(nll)))
    documents = np.var(nll[at].sum(1) / size[at].sum(1) / np.log(2))
    error = float((np.var(differences, ddof=1) / len(seeds) + documents) ** 0.5)
    flips = draw.choice([-1.0, 1.0], size=(20_000, len(nll)))
    permutation = float(np.mean(np.abs(flips @ nll) >= abs(nll.sum()) * (1 - 1e-12)))
    mean, df = float(differences.mean()), len(seeds) - 1
    return Effect(mean, error, df, float(np.mean([bits(b[s]) for s in seeds])), permutation, t_p(mean / error, df))


def holm(p: dict[str, float]) -> dict[str, float]:
    """Correct p-values for their number."""
    found, last = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        last = max(last, min(1.0, (len(p) - rank) * p[name]))
        found[name] = last
    return found


def check_primary(printed: Table, data: Data, check: Check) -> None:
    """The primary comparisons: effects, intervals, Holm's correction, verdicts and what could be seen."""
    draw, runs = np.random.default_rng(1), data.runs
    ready = [(a, b) for a, b in PAIRS if len(runs.get(a, {}).keys() & runs.get(b, {}).keys()) > 1]
    found = {f"{a}` to `{b}": effect(runs[a], runs[b], draw) for a, b in ready}
    corrected = holm({name: its.p for name, its in found.items()})
    flipped = holm({name: its.permutation for name, its in found.items()})
    groups = [[bits(r) for r in its] for arm in runs if len(its := data.same_seed(arm)) > 1]
    loose = sum(len(group) - 1 for group in groups)
    rounding = (sum(np.var(g) / np.mean(g) ** 2 * len(g) for g in groups) / loose) ** 0.5 if loose else np.nan
    for name, between, p, verdict, smallest, alone, _ in printed:
        its = found[name]
        scale, half = 100 / its.reference, t_critical(0.05, its.df) * its.error
        near = 0.0051 + 0.03 * half * scale
        mean, *ends = numbers(between)
        check.same(f"{name} mean", mean, its.mean * scale, 0.0051)
        for end, value in zip(ends, (its.mean - half, its.mean + half), strict=True):
            check.same(f"{name} interval", end, value * scale, near)
        check.same(f"{name} p", numbers(p)[0], corrected[name], 0.001 + 0.1 * corrected[name])
        power = (t_critical(0.05 / len(PAIRS), its.df) + t_critical(0.4, its.df)) * its.error * scale
        check.same(f"{name} smallest visible", float(smallest), power, 0.0051 + 0.03 * power)
        if loose:
            sure = t_critical(0.05 / len(PAIRS), loose) + t_critical(0.4, loose)
            check.same(
                f"{name} by rounding alone", float(alone), 100 * sure * rounding * (2 / (its.df + 1)) ** 0.5, 0.0051
            )
        shown = verdict in ("gains", "costs")
        if not shown:
            check.all(f"{name} far end", verdict, ((abs(its.mean) + half) * scale,), near)
        elif flipped[name] >= 0.05:
            check.differ += 1
            print(f"differs: {name}: {verdict}, but the permutation test has p = {flipped[name]:.3f} (Holm)")
        print(f"`{name}`: {verdict}; permutation of documents p = {its.permutation:.4f}, Holm {flipped[name]:.4f}")


CHECKS = {
    "Primary comparisons": check_primary,
    "Arms": check_arms,
    "Churn": check_churn,
    "Baselines": check_baselines,
    "Experts": check_experts,
    "Scatter": check_scatter,
    "Repeats": check_repeats,
    "Design": check_design,
    "Tuning": check_tuning,
    "Exploratory": check_explored,
}


def main() -> None:
    """Check every table of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("docs/data/study"))
    parser.add_argument("--tables", type=Path, default=Path("docs/study_tables.md"))
    args = parser.parse_args()
    data, check = read(args.data), Check()
    for heading, printed in tables(args.tables.read_text()).items():
        CHECKS[heading](printed, data, check)
    print(f"{check.agree} figures agree, {check.differ} differ")
    sys.exit(1 if check.differ else 0)


if __name__ == "__main__":
    main()
