"""Tables and figures of the study (docs/study_protocol.md), from the records of its runs alone.

    python scripts/study_report.py [--data docs/data/study] [--out docs]

Reads what scripts/study_records.py kept: ``*tune*.jsonl`` and, in all other files, the confirmatory runs. Writes
OUT/study_tables.md and OUT/figures/study_*.svg. scripts/study_check.py computes every figure of the tables again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev, variance
from typing import Any, NamedTuple

import numpy as np
from study_pictures import draw

from s15erav3.comparison.statistics import LEVEL, Difference, bootstrap, detectable, holm, quantile

Record = dict[str, Any]
ARMS = ("none", "loss_free", "quantile", "aux_global", "dsv3", "dense", "dense_time")
COMPARISONS = (
    ("loss_free", "none"),
    ("quantile", "none"),
    ("aux_global", "none"),
    ("dsv3", "none"),
    ("dsv3", "loss_free"),
    ("loss_free", "dense"),
    ("loss_free", "dense_time"),
)
SETTINGS = {
    "none": "optimizer.lr",
    "dense": "optimizer.lr",
    "loss_free": "balancing.rate",
    "quantile": "balancing.ema",
    "aux_global": "balancing.alpha",
    "dsv3": "balancing.loss.aux_sequence.alpha",
}
SECONDARY = {"MaxVio global": "balance/maxvio_global", "dead experts": "balance/dead_experts_global"}


class Study(NamedTuple):
    """Records by what they are for."""

    seeds: dict[str, dict[int, Record]]
    """Confirmatory runs by arm and seed."""
    noise: dict[str, list[Record]]
    """Runs of an arm that differ in rounding alone, the first seed's own run among them."""
    tuning: dict[str, dict[float, Record]]
    """Runs of the tuning by arm and value."""


def read(folder: Path) -> Study:
    """Read the records.

    Raises:
        SystemExit: there are none of confirmatory runs.
    """
    files = sorted(folder.glob("*.jsonl"))
    confirmatory = [record for file in files if "tune" not in file.name for record in _lines(file)]
    if not confirmatory:
        raise SystemExit(f"error: {folder} has no records of confirmatory runs; scripts/study_records.py writes them.")
    study = Study(defaultdict(dict), defaultdict(list), defaultdict(dict))
    for record in confirmatory:
        if not rounding(record):
            study.seeds[record["arm"]][record["seed"]] = record
    for record in confirmatory:
        if rounding(record) or record["seed"] == 1:
            study.noise[record["arm"]].append(record)
    for file in (file for file in files if "tune" in file.name):
        for record in _lines(file):
            study.tuning[record["arm"]][float(record["settings"][SETTINGS[record["arm"]]])] = record
    return study


def _lines(file: Path) -> list[Record]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def rounding(record: Record) -> int:
    """Number of the noise run; 0 for a run of the design."""
    return int(record["settings"].get("rounding", 0))


def test_bpb(record: Record) -> float:
    """Bits per byte of the test part."""
    return sum(record["test"]["nll"]) / sum(record["test"]["bytes"]) / math.log(2)


def compare(study: Study, arm: str, base: str) -> Difference:
    """Mean paired difference: variance over seeds, and over resampled documents."""
    a, b = study.seeds[arm], study.seeds[base]
    seeds = sorted(a.keys() & b.keys())
    pairs = [test_bpb(a[seed]) - test_bpb(b[seed]) for seed in seeds]
    nll = np.mean([np.subtract(a[s]["test"]["nll"], b[s]["test"]["nll"]) for s in seeds], axis=0)
    size = np.array(a[seeds[0]]["test"]["bytes"], dtype=np.float64)
    error = math.sqrt(variance(pairs) / len(pairs) + bootstrap(nll, size))
    reference = fmean(test_bpb(b[seed]) for seed in seeds)
    name = f"`{arm}` to `{base}`"
    return Difference(name, fmean(pairs), error, len(pairs) - 1, reference, f"{len(pairs)}", len(size))


def interval(values: list[float], form: str) -> str:
    """Mean and its 95 % t interval."""
    half = quantile(LEVEL, len(values) - 1) * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{fmean(values):{form}} ± {half:{form}}"


def verdict(one: Difference, p: float) -> str:
    """What the protocol allows to be said."""
    if p < LEVEL and abs(one.mean) > one.half:
        return "gains" if one.mean < 0 else "costs"
    return f"no difference larger than {100 * (abs(one.mean) + one.half) / one.reference:.2f} %"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def arms_table(study: Study) -> list[str]:
    """Outcomes of each arm."""
    rows = []
    for arm in ARMS:
        runs = list(study.seeds[arm].values())
        if runs:
            cells = [
                interval([run[key] for run in runs], ".3f") if key in runs[0] else "" for key in SECONDARY.values()
            ]
            bits = interval([test_bpb(run) for run in runs], ".4f")
            rows.append([f"`{arm}`", f"{len(runs)}", bits, interval([r["val/bpb"] for r in runs], ".4f"), *cells])
    return table(["arm", "runs", "test bpb", "val bpb", *SECONDARY], rows)


def primary_table(study: Study) -> list[str]:
    """The primary comparisons that have at least two pairs."""
    ready = [pair for pair in COMPARISONS if len(study.seeds[pair[0]].keys() & study.seeds[pair[1]].keys()) > 1]
    found = [compare(study, *pair) for pair in ready]
    rows = []
    for one, p in zip(found, holm([one.p for one in found]), strict=True):
        low, mean, high = (100 * x / one.reference for x in (one.mean - one.half, one.mean, one.mean + one.half))
        smallest = 100 * detectable(one, len(COMPARISONS))
        cells = [
            f"{mean:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
            f"{p:.3f}" if p >= 0.001 else "< 0.001",
            verdict(one, p),
            f"{smallest:.2f}",
            one.runs,
        ]
        rows.append([one.name, *cells])
    head = ["comparison", "test bpb, %", "95 % interval, %", "p (Holm)", "verdict", "smallest visible, %", "pairs"]
    return table(head, rows)


def noise_table(study: Study) -> list[str]:
    """Scatter by rounding alone, beside that of seeds."""
    rows = []
    for arm in ARMS:
        same, seeds = ([test_bpb(run) for run in runs] for runs in (study.noise[arm], study.seeds[arm].values()))
        if len(same) > 1 and len(seeds) > 1:
            cells = [f"{100 * stdev(values) / fmean(values):.3f}" for values in (same, seeds)]
            rows.append([f"`{arm}`", f"{len(same)}", *cells])
    return table(["arm", "runs", "rounding alone, %", "seeds, %"], rows)


def tuning_table(study: Study) -> list[str]:
    """Every value that was tried; the one of the lowest loss in bold."""
    rows = []
    for arm, tried in study.tuning.items():
        best = min(tried, key=lambda value: tried[value]["val/bpb"])
        for value in sorted(tried):
            run = tried[value]
            uneven = run.get("balance/maxvio_global")
            text = f"**{value:g}**" if value == best else f"{value:g}"
            cells = [f"{run['val/bpb']:.4f}", "" if uneven is None else f"{uneven:.3f}"]
            rows.append([f"`{arm}`", f"`{SETTINGS[arm]}`", text, *cells])
    return table(["arm", "setting", "value", "val bpb", "MaxVio global"], rows)


def provenance(study: Study) -> list[str]:
    """Code, versions and machine of the confirmatory runs; more than one where they differ."""
    runs = [run for arm in study.seeds.values() for run in arm.values()]
    versions = sorted({f"{name} {version}" for run in runs for name, version in run["versions"].items()})
    commits, devices = (sorted({str(run[key]) for run in runs}) for key in ("git_commit", "device"))
    noise = sum(rounding(run) > 0 for its in study.noise.values() for run in its)
    made = f"{', '.join(versions)}; git {', '.join(commits)}; {'; '.join(devices)}"
    return [f"{len(runs)} runs and {noise} noise runs; {made}."]


def page(study: Study) -> str:
    """The whole Markdown page."""
    lines = ["# Tables of the study", "", "Generated from `docs/data/study`; do not edit.", ""]
    lines += ["```bash", "python scripts/study_report.py", "python scripts/study_check.py", "```", ""]
    lines += ["## Primary comparisons", "", *primary_table(study), ""]
    lines += ["Mean paired difference in percent of the second arm; terms as in the [protocol](study_protocol.md).", ""]
    lines += ["## Arms", "", *arms_table(study), "", "Mean and 95 % t interval over seeds.", ""]
    lines += ["## Scatter", "", *noise_table(study), "", "Standard deviation of test bpb, in percent.", ""]
    lines += ["## Tuning", "", *tuning_table(study), "", "One run each; bold: the lowest val bpb, which is taken.", ""]
    return "\n".join([*lines, "## Runs", "", *provenance(study), ""])


def main() -> None:
    """Read, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("docs/data/study"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    study = read(args.data)
    text = page(study)
    print(text)
    (args.out / "figures").mkdir(parents=True, exist_ok=True)
    (args.out / "study_tables.md").write_text(text)
    for file in draw(study, args.out / "figures"):
        print(f"wrote {file}")


if __name__ == "__main__":
    main()
