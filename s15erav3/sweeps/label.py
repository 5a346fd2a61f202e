"""What a job of a sweep is called while it runs: ``[3/8] e16 loss_free seed=2``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from omegaconf import DictConfig

from s15erav3.cli.overrides import key_of, value_of


class Job(Protocol):
    """What a name needs of a planned job."""

    @property
    def number(self) -> int:
        """From 0."""

    @property
    def overrides(self) -> Sequence[str]:
        """Its command line, without Hydra's own settings."""

    @property
    def config(self) -> DictConfig:
        """Composed, with Hydra's part."""


def head(job: Job, known: int) -> str:
    """Its place among all jobs; a search that has to run more of them than it was to does not say of how many.

    Args:
        known: jobs that the sweeper has asked for. It is not all of them where they come in batches.
    """
    sweeper = job.config.hydra.sweeper
    total = sweeper.get("n_trials") or (None if sweeper.get("max_batch_size") else known)
    number = job.number + 1
    return f"[{number}/{total}]" if total and number <= total else f"[{number}]"


def label(job: Job, varying: Collection[str]) -> str:
    """Those of its settings that ``varying`` holds: a group's choice by its name, others with the end of their key."""
    groups = job.config.hydra.runtime.choices
    told = [(key_of(override), value_of(override)) for override in job.overrides if override in varying]
    return " ".join(value if key in groups else f"{key.rpartition('.')[2]}={value}" for key, value in told)


def varying(commands: Iterable[Sequence[str]]) -> set[str]:
    """The settings that not all jobs have in common."""
    seen = [frozenset(command) for command in commands]
    common: frozenset[str] = frozenset.intersection(*seen) if len(seen) > 1 else frozenset()
    return {setting for command in seen for setting in command - common}
