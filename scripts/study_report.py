"""Tables and figures of the study (docs/study_protocol.md), from the records of its runs alone.

    python scripts/study_report.py [--data docs/data/study] [--out docs]

Writes OUT/study_tables.md and OUT/figures/study_*.svg. scripts/study_check.py computes every printed figure again.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import fmean, median, stdev

import torch
from study_data import (
    ARMS,
    COMPARISONS,
    MAXVIO,
    SETTINGS,
    Study,
    by_rounding,
    compare,
    halfway,
    mean_and_half,
    read,
    rounding,
    test_bpb,
)
from study_pictures import draw
from torchmetrics.functional import spearman_corrcoef

from s15erav3.comparison.statistics import LEVEL, Difference, detectable, holm

OUTCOMES = {"MaxVio global": MAXVIO, "dead experts": "balance/dead_experts_global"}
CHURN = {"whole step": "balance/step_churn", "weights alone": "balance/weight_churn", "biases alone": "balance/churn"}
DOMAINS = ("token", "part", "event")


def interval(values: list[float], form: str, scale: float = 1) -> str:
    """Mean and its 95 % t interval."""
    mean, half = mean_and_half(values)
    return f"{scale * mean:{form}} ± {scale * half:{form}}"


def verdict(one: Difference, p: float) -> str:
    """What the protocol allows to be said: that an arm costs or gains, or that no difference is larger than x %."""
    if p < LEVEL and abs(one.mean) > one.half:
        return "gains" if one.mean < 0 else "costs"
    return f"none above {100 * (abs(one.mean) + one.half) / one.reference:.2f} %"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def primary_table(study: Study) -> list[str]:
    """The primary comparisons that have at least two pairs."""
    ready = [pair for pair in COMPARISONS if len(study.seeds[pair[0]].keys() & study.seeds[pair[1]].keys()) > 1]
    found = [compare(study, *pair) for pair in ready]
    rows = []
    for one, p in zip(found, holm([one.p for one in found]), strict=True):
        low, mean, high = (100 * x / one.reference for x in (one.mean - one.half, one.mean, one.mean + one.half))
        cells = [
            f"{mean:+.2f} ({low:+.2f} to {high:+.2f})",
            f"{p:.3f}" if p >= 0.001 else "< 0.001",
            verdict(one, p),
            f"{100 * detectable(one, len(COMPARISONS)):.2f}",
            "" if math.isnan(least := 100 * by_rounding(study, one.df + 1)) else f"{least:.2f}",
            one.runs,
        ]
        rows.append([one.name, *cells])
    head = ["comparison", "test bpb, %", "p (Holm)", "difference"]
    return table([*head, "visible from, %", "rounding alone, %", "pairs"], rows)


def arms_table(study: Study) -> list[str]:
    """Outcomes of each arm."""
    rows = []
    for arm in ARMS:
        runs = list(study.seeds[arm].values())
        if runs:
            bits = [interval([test_bpb(run) for run in runs], ".4f"), interval([r["val/bpb"] for r in runs], ".4f")]
            cells = [interval([run[key] for run in runs], ".3f") if key in runs[0] else "" for key in OUTCOMES.values()]
            early = [run["validations"][MAXVIO][0] for run in runs if MAXVIO in run]
            rows.append([f"`{arm}`", f"{len(runs)}", *bits, *cells, interval(early, ".2f") if early else ""])
    return table(["arm", "runs", "test bpb", "val bpb", *OUTCOMES, "MaxVio early"], rows)


def churn_table(study: Study) -> list[str]:
    """What a step re-routes, halfway."""
    rows = []
    for arm in ARMS:
        runs = [run for run in study.seeds[arm].values() if MAXVIO in run]
        if runs:
            cells = [interval([halfway(run, key) for run in runs], ".2f", 100) for key in CHURN.values()]
            rows.append([f"`{arm}`", f"{len(runs)}", *cells])
    return table(["arm", "runs", *CHURN], rows)


def baselines_table(study: Study) -> list[str]:
    """Classical models, best first, and how many runs beat each."""
    bits = [test_bpb(run) for arm in study.seeds.values() for run in arm.values()]
    models = sorted(study.baselines.items(), key=lambda item: item[1])
    rows = [[name, f"{value:.4f}", f"{sum(run < value for run in bits)} of {len(bits)}"] for name, value in models]
    return table(["model", "test bpb", "runs below it"], rows)


def experts_table(study: Study) -> list[str]:
    """What the removal of an expert costs, and whether the experts that serve a value most are those that it needs."""
    rows = []
    for arm in ARMS:
        for seed, run in study.seeds[arm].items():
            if found := run.get("experts"):
                cost, load = (
                    torch.tensor(its).flatten().double() for its in (found["ablation/change"], run["last_load"])
                )
                needs = {row["domain"]: row for row in found["ablation/domains"]}
                cells = [f"{100 * found[f'specialisation/{domain}/share_of_expert']:.2f}" for domain in DOMAINS]
                cells += [f"{cost.mean():.5f}", f"{cost.max():.4f}", f"{spearman_corrcoef(cost, load):+.2f}"]
                for row in (needs["all"], needs["part"]):
                    cells.append(f"{row['change'] - row['other']:+.4f} ± {row['half']:.4f}")
                rows.append([f"`{arm}`", f"{seed}", *cells])
    known = [f"{domain}, %" for domain in DOMAINS]
    return table(["arm", "seed", *known, "mean cost", "largest cost", "load and cost", "specialists", "of parts"], rows)


def scatter_table(study: Study) -> list[str]:
    """Scatter by rounding alone, beside that of seeds."""
    rows = []
    for arm in ARMS:
        same, seeds = ([test_bpb(run) for run in runs] for runs in (study.noise[arm], study.seeds[arm].values()))
        if len(same) > 1 and len(seeds) > 1:
            cells = [f"{100 * stdev(values) / fmean(values):.3f}" for values in (same, seeds)]
            rows.append([f"`{arm}`", f"{len(same)}", *cells])
    return table(["arm", "runs", "rounding alone, %", "seeds, %"], rows)


def repeats_table(study: Study) -> list[str]:
    """Runs that were made twice: both results, and how far documents' costs lie apart."""
    rows = []
    for again in study.repeats:
        first = study.seeds[again["arm"]][again["seed"]]
        apart = max(abs(b / a - 1) for a, b in zip(first["test"]["nll"], again["test"]["nll"], strict=True))
        bits = [f"{test_bpb(run):.6f}" for run in (first, again)]
        rows.append([f"`{again['arm']}`", f"{again['seed']}", *bits, f"{100 * apart:.3f}"])
    return table(["arm", "seed", "test bpb", "again", "largest difference of a document, %"], rows)


def tuning_table(study: Study) -> list[str]:
    """Every value that was tried; the one of the lowest loss in bold."""
    rows = []
    for arm, tried in study.tuning.items():
        best = min(tried, key=lambda value: tried[value]["val/bpb"])
        for value in sorted(tried):
            run = tried[value]
            uneven = run.get(MAXVIO)
            text = f"**{value:g}**" if value == best else f"{value:g}"
            cells = [f"{run['val/bpb']:.4f}", "" if uneven is None else f"{uneven:.3f}"]
            rows.append([f"`{arm}`", f"`{SETTINGS[arm]}`", text, *cells])
    return table(["arm", "setting", "value", "val bpb", "MaxVio global"], rows)


def design_table(study: Study) -> list[str]:
    """What a run of each arm is."""
    counts = ("steps", "tokens", "params/total", "params/active")
    rows = []
    for arm in ARMS:
        for run in list(study.seeds[arm].values())[:1]:
            sizes = (*(run[key] for key in counts), len(run["test"]["nll"]), sum(run["test"]["bytes"]))
            rows.append([f"`{arm}`", *(f"{size:,.0f}" for size in sizes), f"{run['epochs']:.2f}"])
    head = ["arm", "steps", "tokens", "parameters", "active", "test documents", "test bytes", "epochs"]
    return table(head, rows)


def explored_table(study: Study) -> list[str]:
    """Every strategy at its defaults on a smaller model."""
    rows = []
    for (experts, strategy), runs in study.explored.items():
        cells = [middle([test_bpb(run) for run in runs], ".4f")]
        cells += [middle([run[key] for run in runs], ".3f") for key in OUTCOMES.values()]
        cells += [middle([halfway(run, "balance/step_churn") for run in runs], ".2f", 100)]
        rows.append([experts, f"`{strategy}`", f"{len(runs)}", *cells])
    return table(["experts", "strategy", "runs", "test bpb", *OUTCOMES, "churn, %"], rows)


def middle(values: list[float], form: str, scale: float = 1) -> str:
    """Median and range."""
    low, mid, high = (scale * value for value in (min(values), median(values), max(values)))
    return f"{mid:{form}} ({low:{form}} to {high:{form}})"


def provenance(study: Study) -> list[str]:
    """Code, versions and machine of the confirmatory runs; more than one where they differ."""
    runs = [run for arm in study.seeds.values() for run in arm.values()]
    versions = sorted({f"{name} {version}" for run in runs for name, version in run["versions"].items()})
    commits, devices = (sorted({str(run[key]) for run in runs}) for key in ("git_commit", "device"))
    noise = sum(rounding(run) > 0 for its in study.noise.values() for run in its)
    made = f"{', '.join(versions)}; git {', '.join(commits)}; {'; '.join(devices)}"
    return [f"{len(runs)} runs and {noise} noise runs; {made}."]


SECTIONS = {
    "Primary comparisons": (
        primary_table,
        "Mean paired difference in percent of the second arm, 95 % interval; terms: [protocol](study_protocol.md).\n"
        "*Visible from*: the difference that this design finds in four of five cases, from the scatter of its pairs;\n"
        "beside it the same if runs scattered by *rounding alone*.",
    ),
    "Arms": (
        arms_table,
        "Mean and 95 % t interval over seeds, at the last step; *early*: at the first validation, step 300.",
    ),
    "Churn": (
        churn_table,
        "Share of tokens, in percent, that one training step sends to other experts, where the learning rate begins\n"
        "to fall. Mean and 95 % t interval over seeds.",
    ),
    "Baselines": (
        baselines_table,
        "Fitted on the same training part; `scripts/ngram_baseline.py RUN_DIR --split test`.",
    ),
    "Experts": (
        experts_table,
        "One run of each arm. *Token* to *event*: what the domain's value says of a slot's expert, in percent of the\n"
        "expert's entropy. *Cost*: bits per byte more on the test part without an expert, over all experts of all\n"
        "layers; *load and cost*: their rank correlation. *Specialists*: how much more the removal of a value's\n"
        "specialist costs that value than the removal of another expert, with its 95 % interval over documents; *of\n"
        "parts*: the same for the parts of a commentary.",
    ),
    "Scatter": (scatter_table, "Standard deviation of test bpb, in percent."),
    "Repeats": (repeats_table, "Runs of the design made a second time, on another day."),
    "Design": (design_table, "*Active*: parameters that a token uses."),
    "Tuning": (tuning_table, "One run each; bold: the lowest val bpb, which is taken."),
    "Exploratory": (
        explored_table,
        "Strategies at their defaults on a smaller model (`model=pico`), the most even first. Median over seeds, and\n"
        "range; no tests, no verdicts. *Churn*: of a whole step, halfway.",
    ),
}


def page(study: Study) -> str:
    """The whole Markdown page."""
    lines = ["# Tables of the study", "", "Generated from `docs/data/study`; do not edit.", ""]
    lines += ["```bash", "python scripts/study_report.py", "python scripts/study_check.py", "```", ""]
    for title, (rows, note) in SECTIONS.items():
        if len(found := rows(study)) > 2:
            lines += [f"## {title}", "", *found, "", note, ""]
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
