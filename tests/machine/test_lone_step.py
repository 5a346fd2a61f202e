"""A step without a Trainer is one that telemetry reads, as checks on GPUs and on fake ones rely on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from s15erav3.callbacks.telemetry import Telemetry
from s15erav3.machine.lone_step import LoneStep, composed


def test_telemetry_reads_a_lone_step(tmp_path: Path) -> None:
    """Seen to fail when telemetry asked one process for its strategy."""
    step = LoneStep(composed(["model=pico", "data.batch_size=1", "data.sequence_length=16"]), "cpu", bf16=False)
    telemetry = Telemetry(str(tmp_path), every_n_steps=1)
    speed: Any = SimpleNamespace(add=lambda tokens: None, since_last=lambda device: {}, flops_per_token=1.0)
    telemetry.throughput = speed
    loss = step()
    telemetry.on_train_batch_end(step.trainer, step.module, None, step.batch, 0)  # type: ignore[arg-type]
    assert torch.isfinite(loss) and abs(telemetry.latest["train/loss"] - loss.item()) < 1e-6
    assert telemetry.latest["balance/maxvio_batch"] >= 0
