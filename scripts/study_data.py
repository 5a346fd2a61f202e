"""Records of the study's runs (docs/study_protocol.md), and what its tables and figures compute from them.

Files of docs/data/study: ``study_*.jsonl`` confirmatory runs and noise runs, ``tune_*.jsonl`` the tuning,
``repeat_*.jsonl`` runs of the design made a second time, ``explore_*.jsonl`` exploratory runs, ``baselines.json``
n-gram models and compressors.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median, stdev, variance
from typing import Any, NamedTuple

import numpy as np

from s15erav3.comparison.statistics import LEVEL, Difference, bootstrap, quantile

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
MAXVIO = "balance/maxvio_global"


class Study(NamedTuple):
    """Records by what they are for."""

    seeds: dict[str, dict[int, Record]]
    """Confirmatory runs by arm and seed."""
    noise: dict[str, list[Record]]
    """Runs of an arm that differ in rounding alone, the first seed's own run among them."""
    tuning: dict[str, dict[float, Record]]
    """Runs of the tuning by arm and value."""
    repeats: list[Record]
    """Runs of the design that were made a second time."""
    explored: dict[tuple[str, str], list[Record]]
    """Exploratory runs by experts and strategy, the most even strategy first."""
    baselines: dict[str, float]
    """Bits per byte of the test part by each classical model."""


def read(folder: Path) -> Study:
    """Read the records.

    Raises:
        SystemExit: there are none of confirmatory runs.
    """
    kinds = ("study", "tune", "repeat", "explore")
    confirmatory, tuned, repeats, explored = (_lines(folder, f"{kind}_*.jsonl") for kind in kinds)
    if not confirmatory:
        raise SystemExit(f"error: {folder} has no records of confirmatory runs; scripts/study_records.py writes them.")
    file = folder / "baselines.json"
    baselines = json.loads(file.read_text())["bpb"] if file.exists() else {}
    by_strategy = _by_strategy(explored)
    study = Study({arm: {} for arm in ARMS}, defaultdict(list), defaultdict(dict), repeats, by_strategy, baselines)
    for record in confirmatory:
        if not rounding(record):
            study.seeds[record["arm"]][record["seed"]] = record
    for record in confirmatory:
        if rounding(record) or record["seed"] == 1:
            study.noise[record["arm"]].append(record)
    for record in tuned:
        study.tuning[record["arm"]][float(record["settings"][SETTINGS[record["arm"]]])] = record
    return study


def _by_strategy(records: list[Record]) -> dict[tuple[str, str], list[Record]]:
    found = defaultdict(list)
    for record in records:
        found[str(record["settings"].get("experts", "e16")), str(record["arm"])].append(record)
    return dict(sorted(found.items(), key=lambda item: (item[0][0], median(run[MAXVIO] for run in item[1]))))


def _lines(folder: Path, pattern: str) -> list[Record]:
    return [json.loads(line) for file in sorted(folder.glob(pattern)) for line in file.read_text().splitlines()]


def rounding(record: Record) -> int:
    """Number of the noise run; 0 for a run of the design."""
    return int(record["settings"].get("rounding", 0))


def test_bpb(record: Record) -> float:
    """Bits per byte of the test part."""
    return sum(record["test"]["nll"]) / sum(record["test"]["bytes"]) / math.log(2)


def halfway(record: Record, key: str) -> float:
    """Value of a curve at the validation nearest to half of the steps, where the learning rate begins to fall."""
    curve = record["validations"]
    return float(curve[key][np.argmin(np.abs(np.array(curve["step"]) - record["max_steps"] / 2))])


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


def by_rounding(study: Study, seeds: int) -> float:
    """Relative difference of two arms' means over seeds that would be seen if nothing but rounding made them scatter.

    Pooled variance of the noise runs of all arms; power 80 %, corrected for all comparisons. NaN without noise runs.
    """
    groups = [[test_bpb(run) for run in runs] for runs in study.noise.values() if len(runs) > 1]
    df = sum(len(group) - 1 for group in groups)
    if not df:
        return math.nan
    pooled = math.sqrt(sum((len(g) - 1) * variance(g) / fmean(g) ** 2 for g in groups) / df)
    return (quantile(LEVEL / len(COMPARISONS), df) + quantile(0.4, df)) * pooled * math.sqrt(2 / seeds)


def mean_and_half(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % t interval; NaN for a single value."""
    n = len(values)
    return fmean(values), quantile(LEVEL, n - 1) * stdev(values) / math.sqrt(n) if n > 1 else math.nan
