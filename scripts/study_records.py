"""Keep what the study needs of its runs: a line of JSON for each, small enough to commit.

    python scripts/study_records.py multirun/study [--split test] [--out docs/data/study]

Writes OUT/NAME.jsonl for a sweep's folder NAME: settings, code, versions, machine, every figure of ``result.json``, the
validations, the last loads, and the cost of each document of the split at the last step (by ``s15erav3 evaluate``,
where its file is missing). What ``s15erav3 evaluate CHECKPOINT split=test ablate=experts`` found before is kept too.
``--split none`` leaves the documents out, as for tuning. Runs that are not complete are named and left out, so the
command can be repeated while a sweep runs.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s15erav3.__main__ import main as s15erav3
from s15erav3.files import replace_text
from s15erav3.runs.reader import Run, find_runs, read_balance, read_metrics, read_run

CURVES = ("val/bpb", "balance/maxvio_global", "balance/churn", "balance/step_churn", "balance/weight_churn")


def record(run: Run, split: str | None) -> dict[str, Any]:
    """What is kept of a complete run.

    Raises:
        SystemExit: its last checkpoint cannot be evaluated.
    """
    settings = {key: value for key, value in run.overrides.items() if key != "data.path"}  # a place on one machine
    metrics = read_metrics(run.folder, ["step", *CURVES])
    validated = np.isfinite(metrics["val/bpb"])
    balance = read_balance(run.folder, at_most=2)
    kept = {
        "arm": arm(run.overrides),
        "settings": settings,
        "finished": datetime.fromtimestamp((run.folder / "result.json").stat().st_mtime, UTC).isoformat(
            timespec="seconds"
        ),
        "machine": machine(),
        **run.result,
        "validations": {name: column[validated].tolist() for name, column in metrics.items()},
        "last_load": balance.load[-1].astype(int).tolist() if balance else [],
    }
    if split:
        kept[split] = documents(run.folder, split)
        kept |= experts(json.loads((run.folder / f"evaluate-last-{split}.json").read_text()))
    return kept


def arm(overrides: dict[str, str]) -> str:
    """What is compared: the strategy where the command names one, else the experiment."""
    return overrides.get("balancing") or overrides["experiment"].rpartition("/")[2]


def experts(found: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation found of the experts, if it removed them: what each costs, and what it is used for."""
    if "ablation/change" not in found:
        return {}
    return {"experts": {key: its for key, its in found.items() if key.startswith(("ablation/", "specialisation/"))}}


def machine() -> dict[str, str]:
    """Instruction set and libraries of torch on this machine, which is taken to be that of the runs."""
    build = torch.__config__.show()
    blas = [line.strip(" -") for line in build.splitlines() if "Math Kernel" in line or "MKL-DNN" in line]
    return {"instructions": torch.backends.cpu.get_cpu_capability(), "blas": "; ".join(blas) or "unknown"}


def documents(folder: Path, split: str) -> dict[str, list[float]]:
    """Nats and bytes of each document at the last step."""
    file = folder / f"evaluate-last-{split}.jsonl"
    if not file.exists() and s15erav3(["evaluate", f"{folder}/checkpoints/last.ckpt", f"split={split}"]):
        raise SystemExit(f"error: {folder} cannot be evaluated; its message is above.")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {name: [row[name] for row in rows] for name in ("nll", "bytes")}


def main() -> None:
    """Read the sweeps, write a file for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+")
    parser.add_argument("--split", choices=("val", "test", "none"), default="test")
    parser.add_argument("--out", type=Path, default=Path("docs/data/study"))
    args = parser.parse_args()
    for sweep in args.sweeps:
        runs = [read_run(folder) for folder in find_runs(sweep)]
        complete = [run for run in runs if run.status == "completed"]
        for run in runs:
            if run.status != "completed":
                print(f"left out: {run.folder} ({run.status})")
        lines = [
            json.dumps(record(run, None if args.split == "none" else args.split), allow_nan=False) for run in complete
        ]
        args.out.mkdir(parents=True, exist_ok=True)
        file = args.out / f"{sweep.resolve().name}.jsonl"
        replace_text(file, "".join(f"{line}\n" for line in lines))
        print(f"{file}: {len(lines)} of {len(runs)} runs")


if __name__ == "__main__":
    main()
