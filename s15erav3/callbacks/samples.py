"""Sample from the model after a few prompts at every validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch

from s15erav3.model.generate import generate
from s15erav3.model.sampling import Sampling
from s15erav3.training.shards import whole_net


class Samples(L.Callback):
    """Continue the prompts with a fixed seed and write the texts to ``samples.jsonl`` and the loggers.

    Args:
        run_dir: folder of ``samples.jsonl``.
        prompts: texts to continue; ``None`` uses those of the data module.
        max_new_tokens: largest number of new tokens per text; 0 disables sampling.
        temperature, top_k, top_p, min_p, repetition_penalty: see :class:`Sampling`.
        seed: sampling seed, the same at every validation.
    """

    def __init__(
        self,
        run_dir: str,
        prompts: str | list[str] | None = None,
        max_new_tokens: int = 48,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.95,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.file = Path(run_dir) / "samples.jsonl"
        self.prompts = [prompts] if isinstance(prompts, str) else prompts
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.latest: list[dict[str, Any]] = []
        self.sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        net: Any = pl_module.net
        if not self.max_new_tokens or not net.config.causal:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.prompts is None:
            self.prompts = data.prompts()
        if not self.prompts:
            return
        net = whole_net(net)  # by all ranks
        if not trainer.is_global_zero:
            return
        tokenizer = data.tokenizer
        tokens: list[list[int]] = [[] for _ in self.prompts]

        def emit(sequence: int, token: int) -> bool:
            tokens[sequence].append(token)
            return True

        autocast = torch.autocast(pl_module.device.type, torch.bfloat16, enabled=trainer.precision == "bf16-mixed")
        # Compiled blocks run as eager ones: torch compiles at most eight versions of a block, which training needs.
        with autocast, torch.compiler.set_stance("force_eager"):
            generate(
                net,
                [[tokenizer.end_of_text, *tokenizer.encode(prompt)] for prompt in self.prompts],
                emit,
                max_new_tokens=self.max_new_tokens,
                sampling=self.sampling,
                seed=self.seed,
                context=data.length,
                stop=tokenizer.end_of_text,
            )
        self.latest = [
            {"step": trainer.global_step, "prompt": prompt, "text": tokenizer.decode(ids)}
            for prompt, ids in zip(self.prompts, tokens, strict=True)
        ]
        with self.file.open("a") as file:
            file.writelines(json.dumps(sample) + "\n" for sample in self.latest)
        for logger in trainer.loggers:
            if hasattr(logger, "log_samples"):
                logger.log_samples(self.latest, trainer.global_step)
