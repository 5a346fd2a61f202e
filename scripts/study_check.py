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
from typing import Any

import numpy as np

PAIRS = [
    *(("loss_free", "none"), ("quantile", "none"), ("aux_global", "none"), ("dsv3", "none")),
    *(("dsv3", "loss_free"), ("loss_free", "dense"), ("loss_free", "dense_time")),
]
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
            found[heading] = rows[2:]
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


def bits(record: dict[str, Any]) -> float:
    """Bits per byte of the test part."""
    return float(np.sum(record["test"]["nll"]) / np.sum(record["test"]["bytes"]) / np.log(2))


def mean_and_half(values: list[float]) -> tuple[float, float]:
    """Mean, and half of the 95 % interval."""
    n = len(values)
    return float(np.mean(values)), t_critical(0.05, n - 1) * float(np.std(values, ddof=1)) / n**0.5


def main() -> None:
    """Check every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("docs/data/study"))
    parser.add_argument("--tables", type=Path, default=Path("docs/study_tables.md"))
    args = parser.parse_args()
    printed, check = tables(args.tables.read_text()), Check()
    tuned = set(args.data.glob("*tune*.jsonl"))
    confirmatory = set(args.data.glob("*.jsonl")) - tuned
    records = [json.loads(s) for file in confirmatory for s in file.read_text().splitlines()]
    plain = [r for r in records if not int(r["settings"].get("rounding", 0))]
    runs = {arm: {r["seed"]: r for r in plain if r["arm"] == arm} for arm in {r["arm"] for r in plain}}

    for arm, _, *cells in printed["Arms"]:
        its = list(runs[arm.strip("`")].values())
        keys = (None, "val/bpb", "balance/maxvio_global", "balance/dead_experts_global")
        for cell, key in zip(cells, keys, strict=True):
            if cell:
                found = mean_and_half([bits(r) if key is None else r[key] for r in its])
                for name, a, b in zip(("mean", "half"), numbers(cell), found, strict=True):
                    check.same(
                        f"Arms {arm} {key or 'test bpb'} {name}", a, b, 0.00051 if key and "bal" in key else 0.000051
                    )

    for arm, _, rounding, seeds in printed["Scatter"]:
        name = arm.strip("`")
        noisy = [
            bits(r) for r in records if r["arm"] == name and (r["seed"] == 1 or int(r["settings"].get("rounding", 0)))
        ]
        for cell, values in ((rounding, noisy), (seeds, [bits(r) for r in runs[name].values()])):
            check.same(f"Scatter {arm}", float(cell), 100 * float(np.std(values, ddof=1) / np.mean(values)), 0.00051)

    tried = [json.loads(s) for file in tuned for s in file.read_text().splitlines()]
    for arm, setting, value, loss, uneven in printed.get("Tuning", []):
        (run,) = (
            r
            for r in tried
            if r["arm"] == arm.strip("`") and float(r["settings"][setting.strip("`")]) == numbers(value)[0]
        )
        check.same(f"Tuning {arm} {value}", float(loss), run["val/bpb"], 0.000051)
        if uneven:
            check.same(f"Tuning {arm} {value} MaxVio", float(uneven), run["balance/maxvio_global"], 0.00051)

    draw = np.random.default_rng(1)
    found = {}
    for a, b in PAIRS:
        seeds = sorted(runs.get(a, {}).keys() & runs.get(b, {}).keys())
        if len(seeds) > 1:
            differences = np.array([bits(runs[a][s]) - bits(runs[b][s]) for s in seeds])
            nll = np.mean([np.subtract(runs[a][s]["test"]["nll"], runs[b][s]["test"]["nll"]) for s in seeds], axis=0)
            size = np.array(runs[a][seeds[0]]["test"]["bytes"], dtype=float)
            at = draw.integers(len(nll), size=(20_000, len(nll)))
            spread = np.var(nll[at].sum(1) / size[at].sum(1) / np.log(2))
            error = (np.var(differences, ddof=1) / len(seeds) + spread) ** 0.5
            flips = draw.choice([-1.0, 1.0], size=(20_000, len(nll)))
            permutation = float(np.mean(np.abs(flips @ nll) >= abs(nll.sum()) * (1 - 1e-12)))
            reference = float(np.mean([bits(runs[b][s]) for s in seeds]))
            df = len(seeds) - 1
            found[f"`{a}` to `{b}`"] = (
                differences.mean(),
                error,
                df,
                reference,
                permutation,
                t_p(differences.mean() / error, df),
            )
    order = sorted(found, key=lambda name: found[name][5])
    corrected, last = {}, 0.0
    for rank, name in enumerate(order):
        last = max(last, min(1.0, (len(order) - rank) * found[name][5]))
        corrected[name] = last
    for name, mean, between, p, verdict, smallest, _ in printed["Primary comparisons"]:
        effect, error, df, reference, permutation, _ = found[name]
        half = t_critical(0.05, df) * error
        low, high = numbers(between.replace(" to ", " "))
        scale = 100 / reference
        near = 0.0051 + 0.03 * half * scale
        check.same(f"{name} mean", float(mean), effect * scale, 0.0051)
        check.same(f"{name} low", low, (effect - half) * scale, near)
        check.same(f"{name} high", high, (effect + half) * scale, near)
        check.same(f"{name} p", numbers(p)[0], corrected[name], 0.001 + 0.1 * corrected[name])
        power = (t_critical(0.05 / len(PAIRS), df) + t_critical(0.4, df)) * error * scale
        check.same(f"{name} smallest visible", float(smallest), power, 0.0051 + 0.03 * power)
        shown = verdict in ("gains", "costs")
        if not shown:
            check.same(f"{name} far end", numbers(verdict)[0], (abs(effect) + half) * scale, near)
        if shown and permutation >= 0.05:
            check.differ += 1
            print(f"differs: {name}: {verdict}, but the permutation test has p = {permutation:.3f}")
        print(f"{name}: {verdict}; permutation of documents p = {permutation:.4f}")
    print(f"{check.agree} figures agree, {check.differ} differ")
    sys.exit(1 if check.differ else 0)


if __name__ == "__main__":
    main()
