"""The name of a sweep's job while it runs: ``[3/8] e16 loss_free seed=2``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from omegaconf import DictConfig

from s15erav3.cli.overrides import key_of, value_of


class Job(Protocol):
    """The attributes of a planned job that its name needs."""

    @property
    def number(self) -> int:
        """Job number, from 0."""

    @property
    def overrides(self) -> Sequence[str]:
        """The job's command line, without Hydra's own settings."""

    @property
    def config(self) -> DictConfig:
        """The composed config, including Hydra's part."""


def head(job: Job, known: int) -> str:
    """Return the job's position among all jobs; a search that runs more jobs than planned omits the total.

    Args:
        known: number of jobs that the sweeper has requested. Where jobs come in batches, this is not the total.
    """
    sweeper = job.config.hydra.sweeper
    total = sweeper.get("n_trials") or (None if sweeper.get("max_batch_size") else known)
    number = job.number + 1
    return f"[{number}/{total}]" if total and number <= total else f"[{number}]"


def label(job: Job, varying: Collection[str]) -> str:
    """Return the settings in ``varying``: a group's choice by name, others by the last part of their key."""
    groups = job.config.hydra.runtime.choices
    told = [(key_of(override), value_of(override)) for override in job.overrides if override in varying]
    return " ".join(value if key in groups else f"{key.rpartition('.')[2]}={value}" for key, value in told)


def varying(commands: Iterable[Sequence[str]]) -> set[str]:
    """Return the settings that not all jobs share."""
    seen = [frozenset(command) for command in commands]
    common: frozenset[str] = frozenset.intersection(*seen) if len(seen) > 1 else frozenset()
    return {setting for command in seen for setting in command - common}
