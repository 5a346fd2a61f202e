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
        checkpoint["rng"] = collect_rng(trainer.strategy.root_device)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint["rng"]
        self.metrics = checkpoint.get("metrics", {})

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        # As late as possible: setting up loaders and loggers may draw random numbers.
        if self._restored is not None:
            restore_rng(self._restored, trainer.strategy.root_device)
            self._restored = None


def collect_rng(device: torch.device | None = None) -> dict[str, Any]:
    """Return the states of the random generators of Python, NumPy, torch and a CUDA device: by default all of them."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(each) for each in cuda_devices(device)],
    }


def restore_rng(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Restore the states from :func:`collect_rng`.

    With a device, it gets the first of the states: ranks draw the same numbers, and the first rank has saved its own.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    for each, saved in zip(cuda_devices(device), state["cuda"], strict=False):
        torch.cuda.set_rng_state(saved.cpu(), each)


def cuda_devices(device: torch.device | None) -> list[torch.device]:
    """The device itself if it is a CUDA device, none if it is another; ``None`` stands for all that there are."""
    if device is None:
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [device] if device.type == "cuda" else []
