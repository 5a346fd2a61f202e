"""Images of loads and biases at every validation, for loggers that support them."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from s15erav3.training.module import LanguageModule


class ExpertMedia(L.Callback):
    """Log heatmaps (layers x experts) of the validation's loads and of the biases, and a histogram of load shares.

    The histogram counts experts by their share of a layer's load. The callback reads from the device only after a
    validation, which has just synchronised it. Loggers without ``log_media`` receive nothing.
    """

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        # By now telemetry, validation, samples and images of the previous step are complete.
        for logger in trainer.loggers:
            if hasattr(logger, "end_row"):
                logger.end_row()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModule)
        load = pl_module.validation.last_loads
        takers = [logger for logger in trainer.loggers if hasattr(logger, "log_media")]
        if load is None or not takers or not trainer.is_global_zero:
            return
        from s15erav3.figures.heatmap import bias_heatmap, load_heatmap  # slow (0.5 s), and needed for media only

        layers = list(pl_module.net.config.moe_layers)  # MTP layers come last, and validation skips them
        load = load.cpu().double()
        biases = torch.stack([router.bias for router in pl_module.routers]).cpu()
        shares = load / load.mean(dim=-1, keepdim=True).clamp(min=1e-12)
        figures = {
            "load_heatmap": load_heatmap(load.numpy(), layers[: len(load)], "Load of each expert in validation"),
            "bias_heatmap": bias_heatmap(biases.numpy(), layers),
        }
        for logger in takers:
            logger.log_media(figures, {"load_histogram": shares.flatten().tolist()}, trainer.global_step)
