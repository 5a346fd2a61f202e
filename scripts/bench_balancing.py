"""What balancing and its logging cost: a whole training step with and without them, in turns within one process.

``on`` has the strategy, its bias or loss, and telemetry's row of every expert each 10 steps to metrics.csv and
balance.jsonl; ``off`` has balancing=none and no telemetry. Both are fitted by a Trainer, a few steps each in turn; the
ratio is of medians. Beside it, the time spent inside the strategy and the telemetry, as a share of the step. On a CPU
it is the thread's own time that counts. A strategy's own gate (top-1, thresholds) is part of its step.

Then each strategy trains a fresh model on the bundled text at a constant learning rate. The churn of a step is the
share of a probe's tokens whose experts an optimizer step changed, ``balance/step_churn``; ``none`` shows what weights
do by themselves. Medians over the validations (one each 5 steps) of the second half.

    python scripts/bench_balancing.py [--model small] [--strategies loss_free quantile ...] [--rounds 5]
        [--churn-steps 100]

Without ``--strategies`` all choices of the group balancing are measured.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from s15erav3.callbacks.telemetry import Telemetry
from s15erav3.cli.hydra_setup import conf_dir
from s15erav3.loggers.csv import MetricsCSV
from s15erav3.model import Transformer
from s15erav3.session.build import build_balancer, build_data, build_module, build_trainer, model_config
from s15erav3.training.module import LanguageModule

ALL = {file.stem for file in (conf_dir() / "balancing").glob("*.yaml")}
STEPS = 10  # of one fit, so that each holds one row of telemetry
CHURN = ("balance/step_churn", "balance/weight_churn")
EVERY = 5  # steps between two measurements of churn


class Clock(L.Callback):
    """Seconds from the beginning of each step to that of the next, logging included."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.now = time.perf_counter if torch.cuda.is_available() else time.thread_time

    def on_train_batch_start(self, *args: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append(self.now())

    def on_train_end(self, *args: Any) -> None:
        self.on_train_batch_start()


class Data(L.LightningDataModule):
    """The same random windows again and again."""

    def __init__(self, vocabulary: int, batch: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.batches = [torch.randint(vocabulary, (batch, length + 1)) for _ in range(STEPS)]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


def spent_in(owner: Any, name: str, account: dict[str, float], key: str) -> None:
    """Let ``owner.name`` add its seconds to ``account[key]``."""
    inner: Callable[..., Any] = getattr(owner, name)
    now = Clock().now

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = now()
        try:
            return inner(*args, **kwargs)
        finally:
            account[key] += now() - began

    setattr(owner, name, timed)


class Noted(L.Callback):
    """Metrics of each validation."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def config_of(args: argparse.Namespace, strategy: str, *more: str) -> DictConfig:
    """The config of a training balanced by ``strategy``."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        chosen = [f"balancing={strategy}", f"model={args.model}", f"experts={args.experts}"]
        return compose("train", [*chosen, "run_dir=.", *more])


def churn(args: argparse.Namespace, strategy: str, folder: Path) -> list[float]:
    """Medians of ``CHURN`` over the second half of a training."""
    windows = [f"data.batch_size={args.batch}", f"data.sequence_length={args.sequence}"]
    length = [
        f"trainer.max_steps={args.churn_steps}",
        f"trainer.val_check_interval={EVERY}",
        "+trainer.limit_val_batches=1",
    ]
    cfg = config_of(args, strategy, "schedule=constant", f"trainer={args.accelerator}", *windows, *length)
    data, noted = build_data(cfg), Noted()
    torch.manual_seed(0)
    module = build_module(cfg, data, cfg.trainer.accelerator)
    build_trainer(cfg, folder, data, [noted]).fit(module, datamodule=data)
    later = noted.rows[len(noted.rows) // 2 :]
    return [statistics.median(row[name] for row in later) for name in CHURN]


def module_of(args: argparse.Namespace, strategy: str) -> LanguageModule:
    """A fresh module balanced by ``strategy``."""
    cfg = config_of(args, strategy)
    torch.manual_seed(0)
    balancer = build_balancer(cfg.balancing)
    balancer.prepare(lambda: np.ones(args.vocab, dtype=np.int64))
    return LanguageModule(
        Transformer(model_config(cfg, args.vocab)),
        balancer,
        optimizer=_adamw,
        schedule=lambda step, progress: 1.0,
        byte_lengths=torch.ones(args.vocab, dtype=torch.int64),
    )


def _adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    group: dict[str, Any] = {"params": list(model.parameters()), "initial_lr": 1e-4}
    return torch.optim.AdamW([group], fused=True)


def fit(module: LanguageModule, data: Data, telemetry: Telemetry | None, folder: Path, accelerator: str) -> list[float]:
    """Seconds of each of STEPS steps, the first of which also warms up."""
    clock = Clock()
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=1,
        precision="bf16-mixed" if accelerator == "gpu" else "32-true",
        max_steps=STEPS,
        callbacks=[clock, *([telemetry] if telemetry else [])],
        logger=MetricsCSV(str(folder)) if telemetry else False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data)
    return [after - before for before, after in zip(clock.marks, clock.marks[1:], strict=False)]


def shares(found: list[float]) -> str:
    """Cells of a table."""
    return " | ".join(f"{one:.2%}" for one in found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--experts", default="e16")
    parser.add_argument("--strategies", nargs="+", default=sorted(ALL - {"none"}))
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--churn-steps", type=int, default=100)
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = Data(args.vocab, args.batch, args.sequence)
    runs = {"off": module_of(args, "none"), **{name: module_of(args, name) for name in args.strategies}}
    account: dict[str, float] = defaultdict(float)
    for name in args.strategies:
        for part in ("loss", "observe", "bias_update"):
            spent_in(runs[name].balancer, part, account, name)
    times: dict[str, list[float]] = {name: [] for name in runs}
    ratios: dict[str, list[float]] = {name: [] for name in args.strategies}
    with tempfile.TemporaryDirectory() as place:
        for round_ in range(args.rounds + 1):
            if round_ == 1:
                account.clear()  # the first round warms up
            medians = {}
            for name, module in runs.items():
                telemetry = None
                if name != "off":
                    folder = Path(place) / name
                    folder.mkdir(exist_ok=True)
                    telemetry = Telemetry(str(folder), every_n_steps=10)
                    spent_in(telemetry, "on_train_batch_end", account, name)
                spent = fit(module, data, telemetry, Path(place) / name, args.accelerator)[1:]
                medians[name] = statistics.median(spent)
                if round_:
                    times[name] += spent
            if round_:
                for name in args.strategies:
                    ratios[name].append(medians[name] / medians["off"])
        del runs
        turned = {name: churn(args, name, Path(place)) for name in ["none", *args.strategies]}
    print(
        f"model={args.model} experts={args.experts}, {args.batch} x {args.sequence} tokens, torch {torch.__version__}"
    )
    print(f"off: {statistics.median(times['off']) * 1e3:.1f} ms/step, median of {len(times['off'])}; one CPU thread\n")
    print(
        "| strategy | ms per step | over none (range) | inside strategy and telemetry | churn of a step | by weights |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    print(f"| `none` | {statistics.median(times['off']) * 1e3:.1f} | 1 | - | {shares(turned['none'])} |")
    for name in args.strategies:
        step, pairs = statistics.median(times[name]), ratios[name]
        share = account[name] / (args.rounds * STEPS) / step
        print(
            f"| `{name}` | {step * 1e3:.1f} | {statistics.median(pairs):.3f} ({min(pairs):.3f} to {max(pairs):.3f}) "
            f"| {share:.2%} | {shares(turned[name])} |"
        )


if __name__ == "__main__":
    main()
