"""Tables and figures of a study by scripts/study_balancing.py, from its run folders.

Prints the tables and writes them to OUT/balancing_tables.md, the figures to OUT/figures/balancing_*.svg. A study
that is not finished is shown as far as it is; what is missing is listed.

    python scripts/study_balancing_report.py multirun/study [--out docs]

``--experts``, ``--strategies`` and ``--seeds`` are those of the study, where it was given them.
"""

from __future__ import annotations

import argparse
import math
from argparse import Namespace
from itertools import takewhile
from pathlib import Path
from statistics import median

from omegaconf import OmegaConf
from study_balancing import STRATEGIES, TOLERANCE, common
from study_figures import draw_all
from study_runs import (
    BALANCED,
    BPB,
    MAXVIO,
    NOT_CAUSAL,
    WINDOW,
    Run,
    Runs,
    Spread,
    Study,
    churn,
    of,
    paired,
    pareto,
    spread,
    steps_to_balance,
)

EVEN = 0.10  # the MaxVio to be reached
ROUNDING = 0.5  # percent of val/bpb by which a run may differ from itself with another number of threads
FREE = ("loss_free", "quantile")  # balance by biases alone, and causal
BLANK = ""  # has no meaning here
NOTHING = "Nothing has run yet."


def number(found: Spread | None, form: str) -> str:
    """``median (least to most)``."""
    if found is None:
        return BLANK
    middle, least, most = (f"{value:{form}}" for value in found)
    return f"{middle} ({least} to {most})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def main_table(study: Study, setting: str) -> list[str]:
    """Every strategy at its best value, then the dense control."""
    if not any(study.finals(setting, name) for name in study.strategies):
        return [NOTHING]
    head = ["strategy", "value", "causal", "val/bpb", "to none, %", "MaxVio global", "dead experts", "steps to balance"]
    none = study.finals(setting, "none")
    rows = []
    for name in study.strategies:
        value = study.chosen(setting, name)
        label = BLANK if value is None else f"{STRATEGIES[name].knob.removeprefix('balancing.')} {value:g}"
        rows.append([name, label, NOT_CAUSAL.get(name, "yes"), *figures(study.finals(setting, name), none)])
    rows.append(["dense", BLANK, "yes", *figures(study.dense(), none)])
    return table([*head, "churn, %", "parameters (active)"], rows)


def figures(runs: Runs, none: Runs) -> list[str]:
    """The cells of one strategy; of a dense model only some have a meaning."""
    if not runs:
        return ["not run yet", *[BLANK] * 6]
    uneven, dead = of(runs, MAXVIO), of(runs, "balance/dead_experts_global")
    turned, one = churn(runs), next(iter(runs.values())).result
    steps = median(steps_to_balance(run) for run in runs.values()) if uneven else None
    return [
        number(of(runs, BPB), ".4f"),
        BLANK if runs == none else number(paired(runs, none), "+.2f"),
        number(uneven, ".3f"),
        f"{dead.median:g}" if dead else BLANK,
        BLANK if steps is None else f"{steps:g}" if math.isfinite(steps) else "-",
        f"{100 * turned:.2f}" if turned is not None else BLANK,
        f"{one['params/total'] / 1e6:.2f} M ({one['params/active'] / 1e6:.2f} M)",
    ]


def tuning_table(study: Study, setting: str) -> list[str]:
    """Every value that was tried, the chosen one in bold."""
    rows = []
    for name in study.strategies:
        tried, chosen = study.tuned(setting, name), study.chosen(setting, name)
        if not any(tried.values()):
            continue
        cells = [
            f"{value:g}: " + (f"{run.result[BPB]:.4f}, {run.result[MAXVIO]:.3f}" if run else "not run yet")
            for value, run in tried.items()
        ]
        cells = [f"**{cell}**" if value == chosen else cell for value, cell in zip(tried, cells, strict=True)]
        ends = {max(tried), min(tried)} - {0.0, 1 if name == "bip" else None}  # below which there is nothing to try
        edge = BLANK if chosen is None else "yes" if chosen in ends else "no"
        rows.append([name, STRATEGIES[name].knob, edge, *cells])
    widest = max(map(len, rows), default=3)
    head = ["strategy", "setting", "at the edge", *["value: val/bpb, MaxVio"] * (widest - 3)]
    return table(head, [[*row, *[""] * (widest - len(row))] for row in rows]) if rows else [NOTHING]


def verdicts(study: Study, setting: str) -> list[str]:
    """What the numbers say to the questions that the study asks."""
    free = {name: runs for name in FREE if (runs := study.finals(setting, name))}
    if len(free) < len(FREE):
        return [f"{setting}: nothing can be said before {' and '.join(FREE)} have run."]
    violations = {name: spread(run.result[MAXVIO] for run in runs.values()) for name, runs in free.items()}
    best = min(FREE, key=lambda name: violations[name].median)
    answer = "yes" if violations[best].median <= EVEN else "no"
    lines = [
        f"Is MaxVio at most {EVEN:.2f} with the better of {' and '.join(FREE)}? **{answer.capitalize()}**: "
        f"{number(violations[best], '.3f')} with {best}."
    ]
    auxiliary = {n: study.finals(setting, n) for n in study.strategies if "balancing=aux" in STRATEGIES[n].choice}
    against = {name: found for name, runs in auxiliary.items() if (found := paired(free[best], runs))}
    if against:
        most = max(found.median for found in against.values())
        answer = "yes" if most <= 0 else "within rounding" if most <= ROUNDING else "no"
        told = [
            f"{difference(found)} against {name}, whose MaxVio is {number(of(auxiliary[name], MAXVIO), '.3f')}"
            for name, found in against.items()
        ]
        unknown = "".join(f"; {name} has not run" for name in auxiliary if name not in against)
        lines.append(
            f"Is val/bpb with {best} no worse than with every auxiliary loss? **{answer.capitalize()}**, by the "
            f"medians of the differences at the same seed: {'; '.join(told)}{unknown}."
        )
    for name in ("none", best):
        if found := paired(study.finals(setting, name), study.dense()):
            lines.append(
                f"Do experts pay, at equal cost per token? val/bpb with {name} against dense: {difference(found)}."
            )
    front = pareto(
        [
            (of(runs, MAXVIO).median, of(runs, BPB).median, name)
            for name in study.strategies
            if name not in NOT_CAUSAL and (runs := study.finals(setting, name))
        ]
    )
    lines.append(f"No causal strategy beats these in both val/bpb and MaxVio: {', '.join(name for *_, name in front)}.")
    return [f"{setting}: {line}" for line in lines]


def difference(found: Spread) -> str:
    """A difference in percent, and whether the seeds agree on it."""
    middle, least, most = found
    seeds = "worse in every seed" if least > 0 else "better in every seed" if most < 0 else "the seeds disagree"
    small = ", all within rounding" if max(-least, most) <= ROUNDING else ""
    return f"{middle:+.2f} % ({least:+.2f} to {most:+.2f}: {seeds}{small})"


def shared_settings(study: Study) -> list[str]:
    """The command of the study, as its runs tell it: without places, which differ from machine to machine."""
    stages = {stage: study.completed(stage) for stage in ("tune", "final")}
    command = [f"--experts {' '.join(study.settings)}", f"--seeds {len(study.seeds)}"]
    if study.strategies != list(STRATEGIES):
        command.append(f"--strategies {' '.join(study.strategies)}")
    for stage, option in (("tune", "--tune-steps"), ("final", "--steps")):
        command += [f"{option} {steps}" for steps in sorted({run.result["max_steps"] for run in stages[stage]})]
    for run in (stages["final"] or stages["tune"])[:1]:
        given = [str(override) for override in OmegaConf.load(run.folder / ".hydra" / "overrides.yaml")]
        values = dict(override.split("=", 1) for override in given)
        count = len(common(Namespace(data="", model="", set=[]), 0, 0))
        extra = takewhile(lambda override: not override.startswith("experts="), given[count:])
        data = Path(values["data.path"].strip("'")).name
        command = [f"--data {data}", f"--model {values['model']}", *command, *(f"--set {one}" for one in extra)]
    return command


def provenance(runs: list[Run]) -> str:
    """Code, versions and device of the runs; more than one where they differ."""
    results = [run.result for run in runs]
    versions = sorted({f"{name} {version}" for r in results for name, version in r["versions"].items()})
    commits = sorted({str(r["git_commit"]) for r in results})
    devices = sorted({f"{r['device']}, {r['precision']}" for r in results})
    return f"{len(runs)} runs; {', '.join(versions)}; git {', '.join(commits)}; {'; '.join(devices)}"


def report(study: Study) -> str:
    """The whole Markdown page."""
    lines = ["# Balancing: the tables", "", "Generated from the run folders; do not edit.", "", "```bash"]
    lines += [f"python scripts/study_balancing.py {' '.join(shared_settings(study))}"]
    lines += ["python scripts/study_balancing_report.py multirun/study", "```", ""]
    lines += [provenance(study.completed("tune") + study.completed("final")) + ".", "", "## Verdicts", ""]
    lines += [f"- {line}" for setting in study.settings for line in verdicts(study, setting)] + [""]
    for setting in study.settings:
        lines += [f"## Every strategy at its best, experts={setting}", "", *main_table(study, setting), ""]
    lines += [
        f"Medians over seeds {', '.join(map(str, study.seeds))} (range). *To none*: difference in val/bpb at the same "
        "seed. *MaxVio global* and *dead experts* (sum over layers): of the validation text. *Steps to balance*: the "
        f"first logged step from which on MaxVio of a training step, as a mean of {WINDOW} logged steps, stays at or "
        f"below {BALANCED:g} times what random routing shows; - if it never does. *Churn*: share of tokens whose "
        "experts the last bias update changed, at the validations before the last. Times are not given, "
        "as runs shared a machine: scripts/bench_balancing.py measures them. Not causal: bip lets later tokens decide "
        "in training, expert_choice in validation too, so that its val/bpb is none of a language model.",
        "",
    ]
    for setting in study.settings:
        lines += [f"## Tuning, experts={setting}", "", *tuning_table(study, setting), ""]
    lines += [
        "One run each. Chosen, in bold: the lowest MaxVio among the values whose val/bpb is within "
        f"{100 * (TOLERANCE - 1):.1f} % of the lowest. *At the edge*: a still better value may lie beyond those tried.",
        "",
    ]
    missing = study.missing()
    if missing:
        lines += ["## Not run yet", "", *(f"- {job}: {', '.join(names)}" for job, names in missing.items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Read, print, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--experts", nargs="+", default=["e16", "e64"])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    study = Study(args.study, args.experts, args.strategies, list(range(1, args.seeds + 1)))
    if not study.completed("tune") + study.completed("final"):
        parser.error(f"{args.study} holds no completed run of a study")
    text = report(study)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "balancing_tables.md").write_text(text)
    for file in draw_all(study, args.out / "figures"):
        print(f"wrote {file}")


if __name__ == "__main__":
    main()
