"""``sweep.noise_runs``: repetitions of a sweep's jobs with the same seed and other rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from s15erav3.cli.overrides import key_of
from s15erav3.errors import UserError, check_number

KEY = "rounding"
BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""Hydra's own sweeper. Hydra runs its module a second time, so the class is not the one that an import gives."""


def noise_jobs(commands: Sequence[Sequence[str]], runs: int) -> list[list[str]]:
    """Return ``runs`` further jobs for the first of all jobs that differ only in their seed.

    They come in rounds, so a larger number only appends jobs to those of a smaller one.

    Args:
        commands: settings of each job.

    Raises:
        UserError: the jobs set ``rounding`` themselves.
    """
    first: dict[tuple[str, ...], Sequence[str]] = {}
    for command in commands:
        if runs and any(key_of(word) == KEY for word in command):
            raise UserError(f"sweep.noise_runs={runs} sets {KEY} of the jobs it adds; leave one of the two out.")
        first.setdefault(tuple(word for word in command if key_of(word) != "seed"), command)
    return [[*command, f"{KEY}={n}"] for n in range(1, runs + 1) for command in first.values()]


def add_noise_runs(config: DictConfig) -> None:
    """Let Hydra's own sweeper add the jobs of ``sweep.noise_runs``.

    Raises:
        UserError: the setting is no whole number of at least 0, or another sweeper chooses the jobs.
    """
    runs = config.sweep.noise_runs
    check_number("sweep.noise_runs", runs, at_least=0, whole=True)
    if not runs:
        return
    if config.hydra.sweeper._target_ != BASIC:
        raise UserError(
            f"sweep.noise_runs={runs} repeats the jobs of a sweep; in a search it must be 0: repeat its best job later."
        )
    sweeper = basic_sweeper()
    split, chunks = sweeper.split_arguments, sweeper.split_overrides_to_chunks

    def with_noise(overrides: list[Any], size: int | None) -> list[list[list[str]]]:
        jobs = split(overrides, None)[0]
        return list(chunks([*jobs, *noise_jobs(jobs, runs)], size))

    sweeper.split_arguments = staticmethod(with_noise)


def basic_sweeper() -> Any:
    """Return the class of Hydra's own sweeper."""
    return Plugins.instance().class_name_to_class[BASIC]
