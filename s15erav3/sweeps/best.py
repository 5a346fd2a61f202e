"""The result of a search: the best run, or the Pareto front, printed and written to ``optimization_results.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import yaml

from s15erav3.files import replace_text
from s15erav3.sweeps.journal import JOB
from s15erav3.sweeps.search_space import as_text
from s15erav3.terminal import say


def tell_best(study: optuna.Study, folder: Path) -> None:
    """Print and save the result, if any trial has a value.

    Args:
        folder: the sweep's folder.
    """
    several = len(study.directions) > 1
    best = study.best_trials
    if not best:
        return
    for trial in sorted(best, key=lambda trial: trial.values):
        found = ", ".join(f"{value:.4f}" for value in trial.values)
        settings = " ".join(f"{key}={as_text(value)}" for key, value in trial.params.items())
        say(f"{'front' if several else 'best'}: run {trial.user_attrs.get(JOB)}  {found}  {settings}")
    results: dict[str, Any] = {"name": "optuna"}
    if several:
        results["solutions"] = [{"params": trial.params, "values": trial.values} for trial in best]
    else:
        results |= {"best_params": study.best_params, "best_value": study.best_value}
    replace_text(folder / "optimization_results.yaml", yaml.safe_dump(results, sort_keys=False, allow_unicode=True))
