"""Time a training step of the Trainer, with callbacks and loggers, against the same step in a plain loop.

A callback of an ordinary ``train`` command does a step of the plain loop, on copies of model, optimizer and balancing
strategy and batches of its own, between every two steps of the Trainer. One CPU thread; the overhead is the median
over blocks of ten steps, each of which has a logged step.

    python scripts/bench_loop.py [--model nano] [--batch 8] [--blocks 12] [--cases 0 1 2] [--profile] [SETTING=VALUE]
"""

from __future__ import annotations

import argparse
import copy
import cProfile
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from s15erav3.balancing.base import Balancer, of_trained, stack_loads, update_biases
from s15erav3.callbacks.run_state import RunState
from s15erav3.model import routers
from s15erav3.session.build import build_balancer
from s15erav3.training.module import LanguageModule

BLOCK = 10
CASES = {
    "defaults: CSV, every tenth step": ["logger=csv"],
    "CSV, every step": ["logger=csv", "callbacks.telemetry.every_n_steps=1"],
    "CSV and W&B offline, every step": ["logger=both", "callbacks.telemetry.every_n_steps=1"],
}


class Turns(L.Callback):
    """Do a step of the plain loop before each step of the Trainer, and time both.

    Args:
        file: where the seconds of all steps are saved, ``{"trainer": (steps, 2), "plain": (steps, 2)}``: wall and CPU.
        profile: file for a profile of the Trainer's steps; ``None`` for none.
    """

    def __init__(self, file: str, profile: str | None = None) -> None:
        self.file, self.times = Path(file), {"trainer": [], "plain": []}  # type: dict[str, list[Tensor]]
        self.profile, self.profiler = profile, cProfile.Profile() if profile else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModule)
        (described,) = (c.run for c in trainer.callbacks if isinstance(c, RunState))  # type: ignore[attr-defined]
        balancer = build_balancer(described["config"]["balancing"])
        batches = iter(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        self.plain = plain_loop(pl_module, balancer, batches)
        self.began = now(pl_module.device)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any) -> None:
        between = now(pl_module.device)
        if self.profiler:
            self.profiler.disable()
        next(self.plain)
        after = now(pl_module.device)
        self.times["trainer"].append(between - self.began)
        self.times["plain"].append(after - between)
        if self.profiler:
            self.profiler.enable()
        self.began = now(pl_module.device)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.save({name: torch.stack(spent) for name, spent in self.times.items()}, self.file)
        if self.profiler:
            self.profiler.disable()
            self.profiler.dump_stats(str(self.profile))


def now(device: torch.device) -> Tensor:
    """Wall time and CPU time of this process with all its threads, in seconds, once the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


def plain_loop(module: LanguageModule, balancer: Balancer, batches: Iterator[Tensor]) -> Iterator[None]:
    """The training loop that one would write by hand, on a copy of the net; one step at each ``next``."""
    net = copy.deepcopy(module.net)
    balancer.attach(routers(net))
    optimizer = module.make_optimizer(net)
    for step, batch in enumerate(batches):
        batch = batch.to(module.device)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * module.schedule(step, 0.5)
        with torch.autocast(module.device.type, torch.bfloat16, enabled=module.device.type == "cuda"):
            out = net(batch[:, :-1])
            targets = batch[:, 1:].flatten()
            hidden = out.hidden.flatten(0, 1)
            loss = module.cross_entropy(hidden, net.lm_head.weight, targets) / targets.numel()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), module.gradient_clip, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if out.routings:
            update = balancer.bias_update(stack_loads(out.routings), 0.5)
            update_biases(routers(net), of_trained(routers(net), update))
        yield


def measured(settings: list[str], profile: str | None) -> dict[str, Tensor]:
    """Run a training and return the seconds of its blocks but the first, (blocks, 2)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "times.pt"
        turns = ["+callbacks.turns._target_=bench_loop.Turns", f"+callbacks.turns.file={file}"]
        turns += [f"+callbacks.turns.profile={profile}"] if profile else []
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": path}
        command = [sys.executable, "-m", "s15erav3", "train", *settings, *turns]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        times = torch.load(file)
    # The first step's time includes the preparation, and the Trainer's times are one step behind.
    return {name: spent[BLOCK + 1 :].view(-1, BLOCK, 2).sum(1) for name, spent in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--cases", nargs="*", type=int, default=range(len(CASES)), help="which of the three")
    parser.add_argument("--profile", action="store_true", help="print what the Trainer's steps spend their time on")
    parser.add_argument("settings", nargs="*", help="further settings of train")
    args = parser.parse_args()
    common = [
        f"model={args.model}", f"data.batch_size={args.batch}", f"trainer.max_steps={BLOCK * (args.blocks + 1) + 1}",
        "report=false", "trainer.val_check_interval=1000000", "callbacks.checkpoint.every_n_steps=1000000",
        *args.settings,
    ]  # fmt: skip
    print(f"model={args.model}, {args.batch} x 256 tokens, one thread, {args.blocks} blocks of {BLOCK} steps")
    for name in [list(CASES)[i] for i in args.cases]:
        profile = tempfile.mktemp() if args.profile else None
        times = measured([*common, *CASES[name]], profile)
        ratio = (times["trainer"] / times["plain"]).median(0).values - 1
        step = {name: spent.median(0).values / BLOCK * 1e3 for name, spent in times.items()}
        for kind, i in (("wall", 0), ("CPU", 1)):
            mine, plain = step["trainer"][i], step["plain"][i]
            print(f"{name:32} {kind:4} Trainer {mine:7.2f} ms, plain {plain:7.2f} ms: {ratio[i]:+.1%}")
        if profile:
            pstats.Stats(profile).sort_stats("cumtime").print_stats("lightning|s15erav3|wandb", 70)


if __name__ == "__main__":
    main()
