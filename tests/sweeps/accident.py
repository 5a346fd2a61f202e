"""A callback that makes chosen jobs of a sweep fail, for as long as a file says so; and records where each runs."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L


class Accident(L.Callback):
    """Look into ``plan``, a JSON file of ``{key: [what, step]}``, at the end of each step.

    Args:
        plan: ``what`` is ``raise``, ``kill`` (this process, by SIGKILL), ``slow`` (half a second a step), ``hold``
            (at the step, while the plan exists), or the name of a signal: it is sent in the midst of the step, or,
            with ``val `` before it, of its validation.
        key: of this job; ``"*"`` in the plan means every job.
    """

    def __init__(self, plan: str, key: Any) -> None:
        self.plan, self.key = Path(plan), str(key)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._record("begin", trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._record("end", trainer)

    def _record(self, what: str, trainer: L.Trainer) -> None:
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
        seen = [os.environ.get(name) for name in names]
        line = [what, self.key, trainer.global_step, time.time(), os.getpid(), *seen]
        with self.plan.with_suffix(".record").open("a") as record:
            record.write(json.dumps(line) + "\n")

    def _planned(self) -> tuple[str, int]:
        plan = json.loads(self.plan.read_text()) if self.plan.exists() else {}
        what, step = plan.get(self.key) or plan.get("*") or ("", -1)
        return what, step

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        what, step = self._planned()
        if what.startswith("SIG") and trainer.global_step + 1 == step:
            os.kill(os.getpid(), signal.Signals[what])

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        what, step = self._planned()
        if what.startswith("val SIG") and trainer.global_step == step:
            os.kill(os.getpid(), signal.Signals[what.removeprefix("val ")])

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        what, step = self._planned()
        if "SIG" in what:
            return
        if what == "slow":
            time.sleep(0.5)
        elif what == "hold":
            if trainer.global_step == step:
                self._record("hold", trainer)
                while self.plan.exists():
                    time.sleep(0.1)
        elif trainer.global_step == step:
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("an accident")
