"""What the guard against non-finite steps and the lock on a run's folder cost: steps with and without, in turns.

A callback switches the guard off for every second step of one training, so both meet the same machine.
``python scripts/bench_step.py --guard`` calls this.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from s15erav3.balancing import LossFree
from s15erav3.model import ModelConfig, Transformer
from s15erav3.runs.lock import only_trainer
from s15erav3.training import module as training
from s15erav3.training.nonfinite import Guard
from s15erav3.training.optim import adamw
from s15erav3.training.schedule import Constant


class Turns(L.Callback):
    """Time every step; the guard is off in odd ones."""

    def __init__(self) -> None:
        self.times: dict[bool, list[float]] = {True: [], False: []}
        self._off: Any = nullcontext()

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Tensor, batch_idx: int
    ) -> None:
        self._off = without_guard() if batch_idx % 2 else nullcontext()
        self._off.__enter__()
        if batch.is_cuda:
            torch.cuda.synchronize()
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Tensor, batch_idx: int
    ) -> None:
        if batch.is_cuda:
            torch.cuda.synchronize()
        self.times[batch_idx % 2 == 0].append(time.perf_counter() - self._began)
        self._off.__exit__(None, None, None)
        raw: Any = module.optimizers(use_pl_optimizer=False)
        raw.found_inf = None


def without_guard() -> ExitStack:
    """The step as it would be without the guard: nothing counted, kept, put back or left out."""
    stack, never = ExitStack(), torch.zeros((), dtype=torch.bool)

    def see(self: Guard, bad: Tensor, loss: Tensor, step: int, batch: Tensor) -> Tensor:
        return never.to(bad.device)

    stack.enter_context(patch.object(Guard, "see", see))
    stack.enter_context(patch.object(training, "skips_on_device", lambda optimizer: False))
    stack.enter_context(patch.object(training, "copies", lambda balancer: {}))
    stack.enter_context(patch.object(training, "put_back", lambda *arguments: None))
    return stack


def bench(config: ModelConfig, ids: Tensor, rounds: int) -> None:
    """Measure on windows ``ids`` (B, T + 1), and print."""
    turns = Turns()
    module = training.LanguageModule(
        Transformer(config),
        LossFree(0.001),
        optimizer=lambda net: adamw(net, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, decay_embeddings=True),
        schedule=Constant(),
        byte_lengths=torch.full((config.vocab_size,), 4),
    )
    steps = 2 * (rounds + 2)
    trainer = L.Trainer(
        accelerator="gpu" if ids.is_cuda else "cpu", devices=1, max_steps=steps, logger=False, callbacks=[turns],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=0, precision="bf16-mixed" if ids.is_cuda else "32-true",
    )  # fmt: skip
    trainer.fit(module, DataLoader([ids.cpu()] * steps, batch_size=None))  # type: ignore[arg-type]
    medians = {on: statistics.median(times[2:]) for on, times in turns.times.items()}
    pairs = sorted(on / off for on, off in zip(turns.times[True][2:], turns.times[False][2:], strict=True))
    half = 0.98 * len(pairs) ** 0.5  # of the ranks between which the median lies with 95 %, by the binomial
    low = pairs[max(0, int(len(pairs) / 2 - half))]
    high = pairs[min(len(pairs) - 1, int(len(pairs) / 2 + half))]
    print(f"step with the guard: {medians[True] * 1e3:.2f} ms, without: {medians[False] * 1e3:.2f} ms")
    print(f"ratio: {statistics.median(pairs):.3f}, 95 % interval {low:.3f} to {high:.3f}, {len(pairs)} pairs")
    with tempfile.TemporaryDirectory() as folder:
        spent = []
        for _ in range(101):
            began = time.perf_counter()
            with only_trainer(Path(folder)):
                pass
            spent.append(time.perf_counter() - began)
    print(f"the lock, once in a run: {statistics.median(spent) * 1e3:.2f} ms")
