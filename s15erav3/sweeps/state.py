"""What a job of a sweep finds in its folder, and so what is left to do."""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig, OmegaConf

from s15erav3 import runs
from s15erav3.analysis.run_folder import from_yaml, is_alive, read_run
from s15erav3.checkpoint import candidates, is_archive
from s15erav3.errors import UserError
from s15erav3.files import at_home
from s15erav3.overrides import leaves
from s15erav3.sweeps.objective import PRUNED

WHERE = ("run_dir", "resume", "sweep", "logger", "report")
"""Settings that say where a run is and who looks at it, and not what it is."""
ADOPTED = ("model", "experts", "tokenizer")
"""Groups that ``init_from`` overwrites in the config that a run saves."""


class Found(NamedTuple):
    """The state of a job's folder."""

    state: Literal["fresh", "done", "resume", "again"]
    """Nothing is there; complete or pruned, of the same code; has a checkpoint; has to begin anew."""
    why: str
    """Why it has to begin anew; empty otherwise."""
    result: dict[str, Any]
    """``result.json``, else ``progress.json``, as far as there is one."""


def examine(cfg: DictConfig, folder: Path) -> Found:
    """Look at a job's folder; nothing is changed.

    Args:
        cfg: the config that the job would have now, without Hydra's part.

    Raises:
        UserError: a run of other settings is there, or one that is at work.
    """
    parts = (".hydra/config.yaml", "result.json", "metrics.csv", "checkpoints")
    if not any((folder / part).exists() for part in parts):
        return Found("fresh", "", {})
    run = read_run(folder)
    if run.status == "broken":
        return Found("again", run.reason, {})
    can_go_on = any(is_archive(file) for file in candidates(folder))
    if run.status == "failed" and not can_go_on:  # of whatever settings: the wrong one is corrected
        return Found("again", "it failed before its first checkpoint", run.result)
    if run.status == "running" and _is_others(run.result):
        raise UserError(
            f"the run in {folder} is at work (process {run.result['pid']} on {run.result['host']}); wait for it, or "
            f"stop it; if there is no such run, remove {shlex.quote(str(folder / 'progress.json'))}."
        )
    changed = list(differences(run.config, cfg))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{folder} holds a run of other settings ({'; '.join(changed[:3])}{more}); a sweep goes on with the same "
            "command: choose another sweep.name."
        )
    if run.status in ("completed", PRUNED):
        if run.result.get("code") == runs.code():
            return Found("done", "", run.result)
        return Found("again", "it was made by other code", run.result)
    if run.result.get("error") == "Diverged":
        return Found("again", "it diverged", run.result)
    if can_go_on:
        return Found("resume", "", run.result)
    return Found("again", "it ended before its first checkpoint", run.result)


def _is_others(progress: dict[str, Any]) -> bool:
    """Whether another process is at work; one on another machine must have shown itself within a minute, for a
    cluster may start a job anew soon after the machine is lost."""
    if progress.get("host") != socket.gethostname():
        return time.time() - float(progress.get("time", 0)) < 60
    return progress.get("pid") != os.getpid() and is_alive(progress)


def differences(saved: dict[str, Any], now: DictConfig) -> Iterator[str]:
    """``key=saved, here key=now`` for every setting that decides what a run is.

    Args:
        saved: as read from ``.hydra/config.yaml``.
    """
    old, new = (_settings(config) for config in (saved, from_yaml(OmegaConf.to_yaml(now))))
    for key in sorted(old.keys() | new.keys()):
        there, here = (f"{key}={found[key]}" if key in found else f"no {key}" for found in (old, new))
        if there != here and old.get(key) != new.get(key):
            yield f"{there}, here {here}"


def _settings(container: dict[str, Any]) -> dict[str, Any]:
    ignored = WHERE + (ADOPTED if container.get("init_from") else ())
    flat = dict(leaves({key: value for key, value in container.items() if key not in ignored}))
    for path in ("init_from", "data.path"):  # a resumed run has saved them as absolute paths
        if flat.get(path):
            flat[path] = str(at_home(str(flat[path])).absolute())
    return flat


def set_aside(folder: Path, sweep: Path) -> Path:
    """Move what is in a job's folder to ``.superseded/`` of the sweep; its ``train.log`` stays, and goes on.

    Returns:
        where it is now.
    """
    name = os.path.relpath(folder, sweep).replace(os.sep, "_")
    places = (sweep / ".superseded" / f"{name}-{number}" for number in count(1))
    target = next(place for place in places if not place.exists())
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)
    folder.mkdir()
    if (target / "train.log").exists():
        (target / "train.log").rename(folder / "train.log")
    return target
