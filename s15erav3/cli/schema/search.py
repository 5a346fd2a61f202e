"""The group ``hydra/sweeper`` with its sampler and pruner, for a search with Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from typing_extensions import Doc, TypedDict

from s15erav3.cli.schema.kinds import AtLeastOne, Count, Must, Path, Real, Share, Text, Whole, closed

Direction = Literal["minimize", "maximize"]
Seed = Annotated[
    Annotated[Whole, Ge(0), Le(2**31)] | None,
    Doc("seed that makes the search reproducible, also when resumed; null: random"),
]
StartupTrials = Annotated[Count, Doc("complete runs before any run is pruned")]
WarmupSteps = Annotated[Count, Doc("optimizer steps of a run before it can be pruned")]
IntervalSteps = Annotated[AtLeastOne, Doc("optimizer steps between two decisions, at validations")]
MinTrials = Annotated[AtLeastOne, Doc("complete runs with a validation at a step before runs are pruned there")]


@closed
class Optuna(TypedDict, total=False):
    """``hydra/sweeper=optuna``."""

    direction: Annotated[
        Direction | Annotated[list[Direction], MinLen(1)],
        Must("minimize or maximize, or a list of them"),
        Doc("direction of the objective; a list with one for each metric of sweep.objective"),
    ]
    n_trials: Annotated[AtLeastOne, Doc("runs of the whole study that did not fail; those that were pruned count")]
    n_jobs: Annotated[AtLeastOne, Doc("runs launched together, for launchers that run them side by side")]
    study_name: Annotated[Text, Doc("the study's name in its file")]
    storage: Annotated[Path, Doc("the study's file, a journal of Optuna's")]
    max_failure_rate: Annotated[Share, Doc("share of failed runs in a batch above which the search ends; 1: never")]
    custom_search_space: Annotated[
        Text | None, Doc("dotted name of a function (config, trial) that suggests further settings; null: none")
    ]
    params: Annotated[Mapping[str, Any], Doc("the search space; ranges and choices on the command line are added")]


@closed
class Random(TypedDict, total=False):
    """Independent draws."""

    seed: Seed


@closed
class Tpe(TypedDict, total=False):
    """Tree-structured Parzen estimator."""

    seed: Seed
    n_startup_trials: Annotated[Count, Doc("random runs before the sampler uses results")]


@closed
class Nsgaii(TypedDict, total=False):
    """Evolutionary search (NSGA-II)."""

    seed: Seed
    population_size: Annotated[Whole, Ge(2), Doc("runs of a generation")]


@closed
class NoPruner(TypedDict, total=False):
    """No pruning: every trial is trained to its end."""


@closed
class Median(TypedDict, total=False):
    """The worse half of the trials is pruned."""

    n_startup_trials: StartupTrials
    n_warmup_steps: WarmupSteps
    interval_steps: IntervalSteps
    n_min_trials: MinTrials


@closed
class Percentile(TypedDict, total=False):
    """A share of the worst trials is pruned."""

    percentile: Annotated[
        Real, Ge(0), Le(100), Doc("runs worse than this percentile of the complete runs at the same step are pruned")
    ]
    n_startup_trials: StartupTrials
    n_warmup_steps: WarmupSteps
    interval_steps: IntervalSteps
    n_min_trials: MinTrials


SWEEPER: dict[str, type] = {"s15erav3.sweeps.optuna_plugin.OptunaStudy": Optuna}
SAMPLER: dict[str, type] = {
    "optuna.samplers.TPESampler": Tpe,
    "optuna.samplers.RandomSampler": Random,
    "optuna.samplers.NSGAIISampler": Nsgaii,
}
PRUNER: dict[str, type] = {
    "optuna.pruners.NopPruner": NoPruner,
    "optuna.pruners.MedianPruner": Median,
    "optuna.pruners.PercentilePruner": Percentile,
}
