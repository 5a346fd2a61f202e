"""A job of a sweep as it was planned, and the result of one that could not write its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from s15erav3.runs.folder import write_config
from s15erav3.runs.reader import read_run
from s15erav3.runs.result import provenance, write_result
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


def leave_word(job: Planned, reason: str, status: str = "failed", error: str = "Killed", **more: Any) -> None:
    """Write the result of a job that could not: it was killed, or it never began.

    Args:
        more: further entries of ``result.json``.
    """
    run = read_run(job.folder)
    old = job.found.result if job.found.state in ("resume", "again") else {}
    if (job.folder / "result.json").exists() and run.result != old:
        return
    if not (job.folder / ".hydra" / "config.yaml").exists():
        job.folder.mkdir(parents=True, exist_ok=True)
        write_config(job.folder, job.settings, OmegaConf.masked_copy(job.config, "hydra"))
    figures = {key: value for key, value in run.result.items() if "/" in key or key in ("steps", "max_steps")}
    steps = {"steps": run.result.get("step", run.result.get("steps", 0))}
    outcome = {"status": status, "reason": reason, "error": error}
    write_result(job.folder, outcome | more | provenance() | figures | steps)
