"""Additions to Lightning's checkpoints: the run's description, its latest metrics, the random generators."""

from __future__ import annotations

import random
from typing import Any

import lightning as L
import numpy as np
import torch


class RunState(L.Callback):
    """Add ``run`` (plain containers: config, model, tokenizer), ``metrics`` and ``rng`` to every checkpoint.

    Lightning saves no generator state. Everything is stored as tensors and numbers, so that checkpoints load with
    ``weights_only=True``.
    """

    def __init__(self, run: dict[str, Any]) -> None:
        self.run = run
        self.metrics: dict[str, float] = {}
        """Metrics of the last validation before the checkpoint resumed from: the run may have no further step to do."""
        self._restored: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        for logger in trainer.loggers:  # loggers write this step's pending metrics first
            if hasattr(logger, "end_row"):
                logger.end_row()
            logger.save()
        checkpoint["run"] = self.run
        checkpoint["metrics"] = self.metrics | {name: float(v) for name, v in trainer.callback_metrics.items()}
        checkpoint["rng"] = collect_rng()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint["rng"]
        self.metrics = checkpoint.get("metrics", {})

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        # As late as possible: setting up loaders and loggers may draw random numbers.
        if self._restored is not None:
            restore_rng(self._restored)
            self._restored = None


def collect_rng() -> dict[str, Any]:
    """Return the states of the random generators of Python, NumPy, torch and CUDA."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Restore the states from :func:`collect_rng`; CUDA's only if the number of devices is the same."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
