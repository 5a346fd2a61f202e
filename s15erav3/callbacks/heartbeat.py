"""progress.json: a run's progress and its process, for monitoring the sweep from outside."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L

from s15erav3.callbacks.telemetry import Telemetry
from s15erav3.runs.progress import beat

SHOWN = ("train/loss", "train/bpb", "balance/maxvio_batch", "perf/tokens_per_second")


class Heartbeat(L.Callback):
    """Write ``{"step", "max_steps", "seconds", "pid", "host", "time"}`` and the latest metrics to progress.json.

    It is written at the start, every few seconds and at every validation. The metrics are those that :class:`Telemetry`
    read last, so this callback never synchronises the device.

    Args:
        run_dir: folder of ``progress.json``.
        every_seconds: minimum interval between two writes during training.
    """

    def __init__(self, run_dir: Path, every_seconds: float = 2.0) -> None:
        self.run_dir, self.every_seconds = run_dir, every_seconds
        self._began, self._wrote, self._first_step = time.time(), 0.0, 0
        self._validated: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._first_step = trainer.global_step
        self._write(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if time.time() - self._wrote >= self.every_seconds:
            self._write(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, {key: float(value) for key, value in trainer.callback_metrics.items()})

    def _write(self, trainer: L.Trainer, validated: dict[str, float] | None = None) -> None:
        if not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        self._validated = validated or self._validated
        telemetry = next((c for c in trainer.callbacks if isinstance(c, Telemetry)), None)  # type: ignore[attr-defined]
        latest = telemetry.latest if telemetry else {}
        overall = telemetry.throughput.overall() if telemetry and hasattr(telemetry, "throughput") else {}
        self._wrote = time.time()
        progress = {
            "step": trainer.global_step,
            "max_steps": trainer.max_steps,
            "first_step": self._first_step,
            "seconds": self._wrote - self._began,
            **{key: latest[key] for key in SHOWN if key in latest},
            **overall,
            **self._validated,
        }
        beat(self.run_dir, progress)
