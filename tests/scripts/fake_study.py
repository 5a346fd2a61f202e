"""Run folders such as a study leaves them, with numbers that a test can work out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

STEPS = (1, 10, 20, 30, 40, 50, 60, 70, 80)
FLOOR = 0.1
EVEN = (1.0, 0.5, 0.4, 0.3, 0.3, 0.1, 0.1, 0.1, 0.1)
"""MaxVio at these steps. Means of five from step 40 on: 0.50, 0.32, 0.24, 0.18, 0.14; twice the floor is 0.2."""


def write_run(
    folder: Path,
    settings: list[str],
    *,
    bpb: float,
    maxvio: float | None,
    batch: tuple[float, ...] = EVEN,
    churn: tuple[float, ...] = (0.04, 0.02, 0.03, 0.0),
    status: str = "completed",
) -> None:
    """A run of four validations; ``maxvio=None`` is one without experts."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {setting}\n" for setting in settings))
    found: dict[str, Any] = {
        "status": status,
        "versions": {"torch": "2.13.0"},
        "git_commit": "abc",
        "device": "a CPU",
        "precision": "32-true",
        "max_steps": STEPS[-1],
        "params/total": 1_230_000,
        "params/active": 450_000,
        "val/bpb": bpb,
    }
    rows: list[dict[str, float]] = [{"step": step, "train/loss": 1.0} for step in STEPS]
    if maxvio is not None:
        found |= {"balance/maxvio_global": maxvio, "balance/dead_experts_global": 0.0}
        for row, value in zip(rows, batch, strict=True):
            row |= {"balance/maxvio_batch": value, "balance/maxvio_floor_batch": FLOOR}
        rows += [{"step": 20 * n, "balance/churn": value} for n, value in enumerate(churn, start=1)]
        loads = [[4, 2, 1, 1], [2, 2, 2, 2]]
        lines = [{"step": step, "layers": [1, 2], "load": loads} for step in STEPS]
        (folder / "balance.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(json.dumps(found))
    with (folder / "metrics.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["step"]))
