"""The parts of a study, each checked before any run starts: its file, its sampler, its pruner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from hydra.utils import instantiate
from omegaconf import ListConfig
from optuna.distributions import check_distribution_compatibility
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler
from optuna.study import StudyDirection

from s15erav3.errors import UserError
from s15erav3.sweeps.journal import open_journal
from s15erav3.sweeps.search_space import Space

OLD = "study.db"
"""The file of a study by Optuna 2."""


def open_study(file: Path, name: str, directions: list[str], space: Space, pruner: BasePruner) -> optuna.Study:
    """Return the study of this name in ``file``, which is created if it is missing.

    Raises:
        UserError: the study in the folder has other directions or another search space.
    """
    if not file.exists() and (file.parent / OLD).exists():
        raise UserError(
            f"{file.parent / OLD} is a study of Optuna 2, which this version cannot resume; choose another sweep.name."
        )
    wanted = [StudyDirection[direction.upper()] for direction in directions]
    study = optuna.create_study(
        study_name=name, storage=open_journal(file), directions=wanted, load_if_exists=True, pruner=pruner
    )
    if study.directions != wanted:
        found = [direction.name.lower() for direction in study.directions]
        raise UserError(
            f"hydra.sweeper.direction={', '.join(directions)} does not fit the study {file} ({', '.join(found)}); "
            "correct it, or choose another sweep.name."
        )
    for trial in study.get_trials(deepcopy=False):
        for key in space.distributions.keys() & trial.distributions.keys():
            try:
                check_distribution_compatibility(trial.distributions[key], space.distributions[key])
            except ValueError as error:
                raise UserError(
                    f"{key} has another search space than in the study {file}, where it is "
                    f"{trial.distributions[key]}; a search resumes only with the same choices and kinds of ranges: "
                    "choose another sweep.name."
                ) from error
    return study


def make_sampler(settings: Any, trials: int) -> BaseSampler:
    """Return the sampler, which proposes settings.

    Args:
        settings: what Hydra instantiates. A fixed ``seed`` makes a search reproducible, however often it is interrupted
            and resumed, if a sampler is made for every batch.
        trials: number of trials in the study so far: each batch draws different random numbers.

    Raises:
        UserError: it is not a sampler, or stores pickles in the study.
    """
    seed = settings.get("seed")
    sampler = instantiate(settings, **({} if seed is None else {"seed": seed + trials}))
    if not isinstance(sampler, BaseSampler):
        raise UserError(
            f"hydra.sweeper.sampler={type(sampler).__name__} is not an Optuna sampler; use hydra/sweeper/sampler=tpe."
        )
    if keeps_pickles(sampler):
        raise UserError(
            "hydra.sweeper.sampler=CmaEsSampler would execute a pickle from the study's file, where it keeps its "
            "state; use hydra/sweeper/sampler=tpe."
        )
    return sampler


def keeps_pickles(sampler: BaseSampler) -> bool:
    """Return whether a sampler, or one that it uses, is the Optuna sampler that unpickles."""
    parts = (part for part in vars(sampler).values() if isinstance(part, BaseSampler))
    return isinstance(sampler, CmaEsSampler) or any(map(keeps_pickles, parts))


def check_pruner(settings: Any, objective: Any, directions: list[str]) -> BasePruner:
    """Return the pruner, which ends hopeless trials early.

    Args:
        settings: what Hydra instantiates.
        objective: ``sweep.objective``.

    Raises:
        UserError: it is not a pruner, or the objective is not measured at validations; or the number of objectives
            differs from the number of directions.
    """
    metrics = list(objective) if isinstance(objective, list | ListConfig) else [objective]
    if len(metrics) != len(directions):
        raise UserError(
            f"sweep.objective={objective} has {len(metrics)} metrics, but hydra.sweeper.direction="
            f"{', '.join(directions)} has {len(directions)}; give one direction for each."
        )
    pruner = instantiate(settings)
    if not isinstance(pruner, BasePruner):
        raise UserError(
            f"hydra.sweeper.pruner={type(pruner).__name__} is not an Optuna pruner; use hydra/sweeper/pruner=median."
        )
    if isinstance(pruner, NopPruner):
        return pruner
    if len(metrics) > 1:
        raise UserError(
            f"hydra.sweeper.pruner={type(pruner).__name__} needs a single objective, but sweep.objective={objective} "
            f"has {len(metrics)}; add hydra/sweeper/pruner=none."
        )
    if not str(objective).startswith("val/"):
        raise UserError(
            f"hydra.sweeper.pruner={type(pruner).__name__} needs an objective that every validation measures, such as "
            f"val/bpb, found sweep.objective={objective}; add hydra/sweeper/pruner=none."
        )
    return pruner
