"""The work of one sweep job, whichever launcher starts it: skip, resume, or train from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from s15erav3.callbacks.pruning import Pruned
from s15erav3.cli.trust import read_config
from s15erav3.errors import UserError
from s15erav3.runs.identity import ADOPTED
from s15erav3.runs.rewind import resume_point
from s15erav3.session.resume import Resumed
from s15erav3.session.run import train
from s15erav3.sweeps.judge import pruning
from s15erav3.sweeps.objective import PRUNED, check_objective, objective
from s15erav3.sweeps.resume import Found, examine, set_aside
from s15erav3.terminal import say, short


def work(cfg: DictConfig) -> float | list[float] | str:
    """Complete the run in ``cfg.run_dir``.

    Returns:
        the run's ``sweep.objective``, or ``pruned``.

    Raises:
        UserError: the folder holds a run with different settings, or as :func:`s15erav3.train.train`.
        Interrupted: a signal ended the run; it can be resumed.
    """
    folder, sweep = Path(cfg.run_dir), Path(HydraConfig.get().sweep.dir).absolute()
    check_objective(cfg.sweep.objective)
    found = examine(cfg, folder)
    if found.state == "done" and found.result["status"] == PRUNED:
        return PRUNED
    try:
        if found.state == "done":
            result = found.result
        elif found.state == "resume":
            result = go_on(cfg, folder, sweep)
        else:
            make_room(found, folder, sweep)
            result = train(cfg, callbacks=pruning(cfg))
    except Pruned as verdict:
        say(f"{short(folder)} is pruned: {verdict}")
        return PRUNED
    return objective(cfg.sweep.objective, result)


def go_on(cfg: DictConfig, folder: Path, sweep: Path) -> dict[str, Any]:
    """Train from the last readable checkpoint, or from scratch if there is none."""
    settings = cfg.copy()
    if cfg.init_from:
        saved = read_config(folder / ".hydra" / "config.yaml")
        for group in (*ADOPTED, "init_from"):
            OmegaConf.update(settings, group, OmegaConf.select(saved, group), force_add=True)
    try:
        _, file, payload = resume_point(str(folder))
    except UserError as error:
        make_room(Found("again", str(error).rstrip("."), {}), folder, sweep)
        return train(cfg, callbacks=pruning(cfg))
    return train(settings, Resumed(file, payload), pruning(cfg))


def make_room(found: Found, folder: Path, sweep: Path) -> None:
    """Set aside what cannot be resumed, and report it."""
    if found.state == "again":
        place = set_aside(folder, sweep)
        say(f"{short(folder)} starts again: {found.why}; its old files are in {short(place)}")
