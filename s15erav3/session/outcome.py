"""Outcome of a run: ``result.json`` and the messages to the user."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
from hydra.errors import HydraException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from s15erav3.callbacks.last_checkpoint import Interrupted
from s15erav3.callbacks.pruning import Pruned
from s15erav3.callbacks.run_state import RunState
from s15erav3.callbacks.telemetry import Telemetry
from s15erav3.cli import hydra_setup
from s15erav3.cli.trust import conf_dir
from s15erav3.data.datamodule import CommentaryData
from s15erav3.errors import Accident, UserError
from s15erav3.metrics import find
from s15erav3.model import count_parameters
from s15erav3.ranks.watch import RankEnded
from s15erav3.runs.checkpoint import candidates, load_checkpoint
from s15erav3.runs.result import write_result
from s15erav3.session.banner import device_name
from s15erav3.session.compiling import compile_seconds
from s15erav3.session.threads import Threads
from s15erav3.terminal import program, say
from s15erav3.training.module import LanguageModule
from s15erav3.training.nonfinite import Diverged


def ending(error: BaseException) -> tuple[dict[str, Any], int]:
    """Entries of ``result.json`` for a run that ended with ``error``, and its exit status.

    The key ``error`` holds the kind: the user can fix a ``UserError`` or ``Diverged``; others are bugs or accidents.
    """
    if isinstance(error, Pruned):
        return {"status": "pruned", "reason": str(error)}, 0
    if isinstance(error, Interrupted):
        return {"status": "interrupted", "reason": str(error)}, error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "reason": "stopped by SIGINT"}, 128 + signal.SIGINT
    if isinstance(error, SystemExit):  # raised by a cluster launcher that has requeued the job
        return {"status": "interrupted", "reason": "its process was asked to exit"}, 1
    if isinstance(error, HydraException | OmegaConfBaseException):
        error = UserError(hydra_setup.explain(error, conf_dir(), "train"))
    told = isinstance(error, UserError | Diverged | MisconfigurationException)
    name = type(error).__name__
    reason = str(error) if told else f"{name}: {error}"
    return {
        "status": "failed",
        "reason": reason,
        "error": "UserError" if isinstance(error, UserError) and not isinstance(error, Accident) else name,
    }, 1


def measured(
    seed: int, data: CommentaryData, module: LanguageModule, trainer: L.Trainer, threads: Threads
) -> dict[str, Any]:
    """Metrics of ``result.json``: the last value of every metric that the metrics table assigns to it."""
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
        "device": device_name(trainer.strategy.root_device),  # the module is back on the host
        "threads": threads.number,
        "precision": trainer.precision,
        "causal": module.net.config.causal,
    }
    if (seconds := compile_seconds(module.net)) is not None:
        figures["perf/compile_seconds"] = seconds
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Telemetry):
            figures |= {k: v for k, v in callback.latest.items() if (metric := find(k)) and "result" in metric.where}
            figures |= callback.throughput.overall() if hasattr(callback, "throughput") else {}
        if isinstance(callback, RunState):
            figures |= callback.metrics
        if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None and callback.monitor:
            figures["best/" + callback.monitor] = float(callback.best_model_score)
    return figures | {k: float(v) for k, v in trainer.callback_metrics.items()}


def say_interrupted(error: Interrupted) -> int:
    """Report that a signal ended the run and how to resume it; return the exit status."""
    say(f"{error}; {way_on(error.run_dir)}")
    return error.exit_status


def way_on(run_dir: Path) -> str:
    """The command that resumes a run, as a clause."""
    if not any(candidates(run_dir)):
        return "it had no checkpoint yet"
    return f"resume with: {program()} train resume={shlex.quote(str(run_dir))}"


def because(ended: RankEnded, run_dir: Path) -> UserError | Interrupted:
    """The error of a run that was ended by another rank."""
    if ended.kind == "signal":
        return Interrupted(ended.status, run_dir)
    if ended.status == UserError.exit_status:
        return UserError(ended.reason)
    if ended.kind == "bug":
        print(ended.trace, file=sys.stderr)
    whole = ended.kind == "Accident"
    return Accident(ended.reason if whole else f"{ended}, which ends the run; {way_on(run_dir)}.")


def record(run_dir: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``; if that fails, print how the run ended."""
    try:
        write_result(run_dir, result)
    except OSError as error:
        ended = ": ".join(part for part in (result.get("status"), result.get("reason")) if part)
        say(f"{run_dir / 'result.json'} cannot be written ({error.strerror}); the run ended as {ended}")


def diverged(error: Diverged, cfg: DictConfig, run_dir: Path) -> str:
    """Message about the divergence: what happened, which files remain, and how to resume."""
    said = f"training diverged: {error}; weights, biases and files are as before it. "
    skip = f"trainer.skip_nonfinite={cfg.trainer.get('skip_nonfinite', 0) + 1}"
    file = run_dir / "checkpoints" / "last.ckpt"
    if not file.is_file():
        return f"{said}There is no checkpoint yet; lower optimizer.lr, raise schedule.warmup_steps or set {skip}."
    step = load_checkpoint(file)["global_step"]
    resume = f"{program()} train resume={shlex.quote(str(run_dir))}"
    return f"{said}Last good checkpoint: {file} (step {step}); resume with: {resume} optimizer.lr=..., or {skip}."
