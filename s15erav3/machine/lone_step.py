"""One training step of any config on random tokens, without a Trainer, data or callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from torch import Tensor, nn

from s15erav3.cli.trust import conf_dir
from s15erav3.session.build import build_module
from s15erav3.training.module import LanguageModule

VOCABULARY = 50_257
"""Tokens of GPT-2's encoding, which ``experiment=original`` uses."""


def composed(settings: Sequence[str]) -> DictConfig:
    """The config of ``s15erav3 train SETTINGS``."""
    if GlobalHydra.instance().is_initialized():  # inside a verb
        return compose("train", [*settings, "run_dir=."])
    with initialize_config_dir(str(conf_dir()), version_base=None):
        return compose("train", [*settings, "run_dir=."])


class LoneStep:
    """The real ``LanguageModule.training_step`` with a stand-in for the Trainer, in bf16 autocast on a GPU.

    Args:
        cfg: config of ``train``.
        device: ``cuda`` or ``cpu``.
        vocabulary: V.
        bf16: whether the step runs under bf16 autocast, as ``trainer.precision=bf16-mixed`` does.
    """

    def __init__(self, cfg: DictConfig, device: str, vocabulary: int = VOCABULARY, bf16: bool = True) -> None:
        tokenizer = SimpleNamespace(n_vocab=vocabulary, end_of_text=0, byte_lengths=np.full(vocabulary, 4))
        words = np.arange(vocabulary)  # each token once, for strategies that count them
        data: Any = SimpleNamespace(tokenizer=tokenizer, token_files=SimpleNamespace(part=lambda name: words))
        self.device, self.bf16 = device, bf16
        self.module: LanguageModule = build_module(cfg, data, device)
        move(self.module, device)
        self.optimizer = self.module.configure_optimizers()
        self.trainer = SimpleNamespace(
            global_step=0, max_steps=1000, world_size=1, callbacks=[], is_global_zero=True, loggers=[], model=None
        )
        stand_in: Any = self.module
        stand_in._trainer, stand_in._device = self.trainer, torch.device(device, 0)
        stand_in.optimizers = lambda use_pl_optimizer=True: self.optimizer
        stand_in.manual_backward = lambda loss: loss.backward()
        windows = cfg.data.batch_size * cfg.trainer.accumulate_grad_batches
        self.batch = torch.randint(vocabulary, (windows, cfg.data.sequence_length + 1), device=device)

    def __call__(self) -> Tensor:
        """Take one optimizer step; return its loss, a scalar on the device."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16, cache_enabled=False):  # as Lightning does
            self.module.training_step(self.batch, 0)
        self.trainer.global_step += 1
        assert self.module.last_step is not None
        return self.module.last_step.loss

    @property
    def tokens(self) -> int:
        """Targets of one step."""
        return self.batch[:, 1:].numel()


def move(module: nn.Module, device: str) -> None:
    """``module.to(device)``, also for fake tensors, whose parameters cannot be swapped; tied ones stay tied."""
    moved: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                there = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
                part._parameters[name] = moved.setdefault(id(parameter), there)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device)
