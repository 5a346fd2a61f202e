"""Log all training metrics every N steps in one row, read from the device in one transfer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from s15erav3.balancing.diagnostics import (
    bias_norm,
    bias_spread,
    dead_experts,
    evenness,
    max_violation,
    random_floor,
)
from s15erav3.callbacks.expert_series import all_experts, condenses, few_experts, layer_balance
from s15erav3.callbacks.throughput import Throughput
from s15erav3.model import ModelConfig, training_flops_per_token
from s15erav3.training.hardware import peak_flops
from s15erav3.training.module import LanguageModule
from s15erav3.training.records import StepRecord

Metrics = dict[str, float]


class Telemetry(L.Callback):
    """Log ``train/*``, ``perf/*``, ``balance/*`` and experts' loads, biases and bias updates.

    Between logged steps only sums are kept, on the device. ``balance.jsonl`` contains the same loads, biases
    and bias updates as exact numbers: one line ``{"step", "tokens", "layers", "load", "bias", "update"}``
    per row, with the biases after the update.

    Args:
        run_dir: folder of ``balance.jsonl``.
        every_n_steps: optimizer steps between two rows; the first and the last step are always logged.
        per_expert: experts whose scalars go to the loggers (``balance.jsonl`` always has all of them): ``True`` all,
            ``False`` none, ``"auto"`` all if a layer has at most 64 series, i.e. 21 experts, and otherwise its
            most and least loaded experts and quantiles over its experts.
        extremes: how many of the most and of the least loaded experts ``"auto"`` logs.
    """

    def __init__(self, run_dir: str, every_n_steps: int = 10, per_expert: bool | str = True, extremes: int = 4) -> None:
        self.balance_file = Path(run_dir) / "balance.jsonl"
        self.every_n_steps, self.per_expert, self.extremes = every_n_steps, per_expert, extremes
        self.latest: Metrics = {}
        self.throughput: Throughput
        self._losses: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """The last row, and the losses since then, which an interrupted run has not logged yet."""
        return {"losses": [loss.tolist() for loss in self._losses], "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the losses that have not been logged yet.

        Raises:
            ValueError: they are not a list of numbers for each step.
        """
        losses = [torch.tensor(loss, dtype=torch.float32) for loss in state_dict["losses"]]
        if any(loss.ndim != 1 for loss in losses):
            raise ValueError("the losses are no rows of numbers")
        self._losses = losses
        latest = state_dict.get("latest", {})
        self.latest = {str(name): float(value) for name, value in latest.items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        config = _language(pl_module).net.config
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        peak = peak_flops(pl_module.device, trainer.precision == "bf16-mixed")
        self.throughput = Throughput(training_flops_per_token(config, data.length), peak and peak * trainer.world_size)
        self.throughput.begin(pl_module.device)
        self._losses = [loss.to(pl_module.device) for loss in self._losses]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if hasattr(self, "throughput"):
            self.throughput.pause()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if hasattr(self, "throughput"):
            self.throughput.start()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.throughput.pause()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Tensor, batch_idx: int
    ) -> None:
        module = _language(pl_module)
        record = module.last_step
        assert record is not None
        tokens = batch[:, 1:].numel() * trainer.world_size
        self.throughput.add(tokens)
        losses = (record.loss, record.bpb, record.mtp_loss, record.balance_loss)
        now = torch.stack([loss.float() for loss in losses if loss is not None])
        if self._losses and len(self._losses[-1]) != len(now):
            self._losses.clear()  # from before a changed setting added or removed a loss term
        self._losses.append(now)
        step = trainer.global_step
        if step % self.every_n_steps and step not in (1, trainer.max_steps):
            return
        self.latest = self._read(module, record, tokens)
        self.latest |= self.throughput.since_last(pl_module.device)
        self.latest |= {
            "tokens": module.tokens_seen,
            "flops": module.tokens_seen * self.throughput.flops_per_token,
            "train/learning_rate": record.learning_rate,
        }
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, step)

    def _read(self, module: LanguageModule, record: StepRecord, tokens: int) -> Metrics:
        """Read a row from the device; this is the only synchronisation."""
        losses, tolerant = torch.stack(self._losses), module.guard.tolerated > 0
        if tolerant:  # skipped steps do not count
            finite = torch.isfinite(losses)
            losses = torch.where(finite, losses, 0.0).sum(0) / finite.sum(0)
        else:
            losses = losses.mean(0)
        several: Any = module.trainer.strategy if module.trainer.world_size > 1 else None
        if several is not None:
            losses = several.reduce(losses, reduce_op="mean")
        names = ["train/loss", "train/bpb"]
        sometimes = {"train/mtp_loss": record.mtp_loss, "train/balance_loss": record.balance_loss}
        names += [*(name for name, loss in sometimes.items() if loss is not None), "train/grad_norm"]
        parts = [module.guard.counts, losses, record.grad_norm.reshape(1)]
        if record.loads is not None and getattr(several, "expert_parallel", False):
            names.append("balance/rank_maxvio")
            parts.append(max_violation(several.rank_loads(record.loads, record.own_loads)).mean().reshape(1))
        self._losses.clear()
        moved = record.loads is not None and record.bias_update is not None
        if moved:
            biases = torch.stack([router.bias for router in module.routers])
            parts += [t.flatten() for t in (record.loads, biases, record.bias_update, record.dropped) if t is not None]
        host = torch.cat([part.double() for part in parts]).cpu()
        counts, host = host[:5], host[5:]
        module.refuse_if_diverged(counts.tolist())
        metrics = dict(zip(names, host.tolist(), strict=False))
        if tolerant:
            metrics["train/skipped_steps"] = counts[1].item()
        if moved:
            config = module.net.config
            tables = host[len(names) :].view(-1, len(module.routers), config.n_routed_experts)
            loads, biases, update = tables[:3]
            layers = list(config.moe_layers)
            self._append(module, layers, loads, biases, update)
            metrics |= balance_metrics(config, loads, biases, tokens)
            if record.dropped is not None:
                metrics["balance/drop_rate"] = (tables[3].sum() / loads.sum()).item()
            if self.per_expert:
                metrics |= layer_balance(layers, loads)
                if condenses(self.per_expert, config.n_routed_experts):
                    metrics |= few_experts(layers, loads, biases, update, self.extremes)
                else:
                    metrics |= all_experts(layers, loads, biases, update)
        return metrics

    def _append(self, module: LanguageModule, layers: list[int], loads: Tensor, biases: Tensor, update: Tensor) -> None:
        if not module.trainer.is_global_zero:
            return
        line = {
            "step": module.trainer.global_step,
            "tokens": module.tokens_seen,
            "layers": layers,
            "load": loads.long().tolist(),
            "bias": biases.tolist(),
            "update": update.tolist(),
        }
        with self.balance_file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def balance_metrics(config: ModelConfig, loads: Tensor, biases: Tensor, tokens: int) -> Metrics:
    """Balance metrics of one optimizer step from its loads and the biases after it, both (L, E), on the host."""
    if config.fixed_top_k:
        random = random_floor(tokens, config.n_routed_experts, config.num_experts_per_tok)
        number = {"balance/maxvio_floor": random}
    else:  # no floor: with expert choice the loads are even for any tokens; else there is any number of choices
        used = loads[: config.num_moe_layers].sum(dim=-1).mean() / tokens
        number = {"balance/experts_per_token": used.item()}
    even = {name: value.mean().item() for name, value in evenness(loads).items()}
    return {
        "balance/maxvio_batch": even["maxvio"],
        "balance/minvio_batch": even["minvio"],
        **number,
        **{f"balance/{name}": even[name] for name in ("entropy", "cv", "gini")},
        "balance/dead_experts": float(dead_experts(loads).sum()),
        "balance/bias_norm": bias_norm(biases).mean().item(),
        "balance/bias_spread": bias_spread(biases).mean().item(),
    }


def _language(module: L.LightningModule) -> LanguageModule:
    assert isinstance(module, LanguageModule)
    return module
