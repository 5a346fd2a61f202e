"""Searches whose runs take no time: what a training leaves in its folder, by a formula in place of a model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from s15erav3.callbacks.pruning import Pruned, Pruning
from s15erav3.cli.trust import conf_dir
from s15erav3.errors import UserError
from s15erav3.sweeps.judge import NO_PRUNER, TrialJudge
from s15erav3.sweeps.study import Study

STEPS = (10, 20, 30)
SPACE = "optimizer.lr=tag(log,interval(1e-4,1.0))"


class Killed(BaseException):
    """This process, by SIGKILL: nothing of the program handles it."""


def bpb(lr: float, step: int) -> float:
    """What a validation measures: the best is optimizer.lr=0.01."""
    return 1 + (math.log10(lr) + 2) ** 2 + 1 / step


class Runs:
    """A launcher in ``folder``, a sweep's, that leaves complete and pruned runs alone, as all of them do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun: list[int] = []
        """The number of each run that was begun or gone on with."""
        self.lrs: list[float] = []
        self.before: Callable[[int], None] = lambda job: None
        """Called with the number of a run when it begins."""
        self.pruner: Any = None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """As Hydra's launchers do."""
        values = [self._returned(job, list(words)) for job, words in enumerate(job_overrides, initial_job_idx)]
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=value) for value in values]

    def _returned(self, job: int, words: list[str]) -> Any:
        place = self.folder / str(job)
        result = place / "result.json"
        found = json.loads(result.read_text()) if result.exists() else {}
        if found.get("status") not in ("completed", "pruned"):
            lr = float(dict(word.split("=", 1) for word in words)["optimizer.lr"])
            self.begun.append(job)
            self.lrs.append(lr)
            (place / ".hydra").mkdir(parents=True, exist_ok=True)
            (place / ".hydra" / "config.yaml").write_text("seed: 1\n")
            (place / "progress.json").write_text('{"step": 0}')
            try:
                self.before(job)
                found = {"status": "completed", "val/bpb": self._trained(job, lr), "lr": lr}
            except (Pruned, UserError) as error:
                found = {"status": "pruned" if isinstance(error, Pruned) else "failed", "reason": str(error)}
            result.write_text(json.dumps(found))
        return {"completed": found.get("val/bpb"), "pruned": "pruned", "failed": None}[found["status"]]

    def _trained(self, job: int, lr: float) -> float:
        callbacks = []
        if self.pruner["_target_"] != NO_PRUNER:
            judge = TrialJudge(self.folder / "study.journal", "study", OmegaConf.create(self.pruner), job)
            callbacks = [Pruning("val/bpb", judge)]
        trainer: Any = SimpleNamespace(state=SimpleNamespace(fn="fit"), max_steps=STEPS[-1], should_stop=False)
        for step in STEPS:
            trainer.global_step, trainer.callback_metrics = step, {"val/bpb": bpb(lr, step)}
            for callback in callbacks:
                callback.on_train_batch_start(trainer)
                callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
        return bpb(lr, STEPS[-1])


def part(name: str) -> dict[str, Any]:
    """A file of ``conf/hydra/sweeper/``."""
    found: dict[str, Any] = yaml.safe_load((conf_dir() / "hydra" / "sweeper" / f"{name}.yaml").read_text())
    return found


def search(
    runs: Runs, *words: str, objective: Any = "val/bpb", sampler: Any = None, pruner: Any = None, **settings: Any
) -> None:
    """A search over :data:`SPACE`, and what ``words`` change, with the settings of ``conf/``.

    Args:
        sampler, pruner: settings that replace those of TPE with a fixed seed, and of no pruner.
        settings: other settings of ``hydra.sweeper``.
    """
    kept = {key: value for key, value in part("optuna").items() if key not in ("_target_", "_recursive_", "defaults")}
    kept |= {"storage": str(runs.folder / "study.journal"), "pruner": pruner or part("pruner/none")}
    kept |= {"sampler": sampler or part("sampler/tpe") | {"seed": 3}} | settings
    runs.pruner = kept["pruner"]
    study: Any = Study(**kept)
    study.config = OmegaConf.create(
        {"sweep": {"objective": objective}, "hydra": {"sweep": {"dir": str(runs.folder)}, "sweeper": kept}}
    )
    study.context, study.launcher = SimpleNamespace(config_loader=None), runs
    study.sweep([SPACE, *words])


def trials(folder: Path) -> list[Any]:
    """Of the study in a sweep's folder, read by Optuna alone."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name="study", storage=storage).trials
