"""A job of a sweep as it was planned, before any job started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from s15erav3.sweeps.resume import Found


class Planned(NamedTuple):
    """A job that a sweeper has requested."""

    number: int
    overrides: list[str]
    """The job's command line, without Hydra's own settings."""
    config: DictConfig
    """The composed config, including Hydra's part."""
    folder: Path
    found: Found
    """State of the folder before any job started."""
    command: Sequence[str] = ()
    """The job's command line as the sweeper gave it."""

    @property
    def settings(self) -> DictConfig:
        """Return the config without Hydra's part."""
        return without_hydra(self.config)


def without_hydra(config: DictConfig) -> DictConfig:
    """Return a copy of a composed config without Hydra's part."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
