"""How a run ended, and what it came to: the two halves of ``result.json``."""

from __future__ import annotations

import signal
from typing import Any

import lightning as L
from hydra.errors import HydraException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf.errors import OmegaConfBaseException

from s15erav3 import cli, screen
from s15erav3.callbacks.last_checkpoint import Interrupted
from s15erav3.callbacks.run_state import RunState
from s15erav3.callbacks.telemetry import Telemetry
from s15erav3.data.datamodule import CommentaryData
from s15erav3.errors import Accident, UserError
from s15erav3.model import count_parameters
from s15erav3.training.module import LanguageModule
from s15erav3.training.nonfinite import Diverged
from s15erav3.trust import conf_dir


def ending(error: BaseException) -> tuple[dict[str, Any], int]:
    """How ``result.json`` tells of a run that ``error`` ended, and its exit status.

    ``error`` is there the kind: ``UserError`` and ``Diverged`` are the user's to mend, others are bugs or accidents.
    """
    if isinstance(error, Interrupted):
        return {"status": "interrupted", "reason": str(error)}, error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "reason": "stopped by SIGINT"}, 128 + signal.SIGINT
    if isinstance(error, SystemExit):  # of a cluster's launcher, which has queued the job again
        return {"status": "interrupted", "reason": "its process was told to exit"}, 1
    if isinstance(error, HydraException | OmegaConfBaseException):
        error = UserError(cli.explain(error, conf_dir(), "train"))
    told = isinstance(error, UserError | Diverged | MisconfigurationException)
    name = type(error).__name__
    reason = str(error) if told else f"{name}: {error}"
    return {
        "status": "failed",
        "reason": reason,
        "error": "UserError" if isinstance(error, UserError) and not isinstance(error, Accident) else name,
    }, 1


def measured(seed: int, data: CommentaryData, module: LanguageModule, trainer: L.Trainer) -> dict[str, Any]:
    """The figures of ``result.json``: the last value of every metric, under the metric's own name."""
    counts = count_parameters(module.net.config)
    figures: dict[str, Any] = {
        "seed": seed,
        "steps": trainer.global_step,
        "max_steps": trainer.max_steps,
        "tokens": module.tokens_seen,
        "epochs": module.samples_seen / data.samples_per_epoch,
        "params/total": counts.total,
        "params/active": counts.active,
        "tokenizer": data.tokenizer.name,
        "device": screen.device_name(module.device),
        "precision": trainer.precision,
        "causal": module.net.config.causal,
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Telemetry):
            whole = {k: v for k, v in callback.latest.items() if k.partition("/")[0] in ("train", "balance", "perf")}
            figures |= whole | (callback.throughput.overall() if hasattr(callback, "throughput") else {})
        if isinstance(callback, RunState):
            figures |= callback.metrics
        if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None and callback.monitor:
            figures["best/" + callback.monitor] = float(callback.best_model_score)
    return figures | {k: float(v) for k, v in trainer.callback_metrics.items()}
