"""Kill runs at the worst moments, resume them, and compare all that they leave with runs that nobody touched.

Each configuration is trained once without interruption. Then it is started again, killed by SIGKILL (anywhere, in
start-up, in a validation, before, within and after the writing of a checkpoint), resumed, killed again, and so on to
its end. Weights, optimizer, biases and generators must be the same to the last bit, ``metrics.csv`` (without
``perf/*``), ``balance.jsonl``, ``samples.jsonl`` and W&B's history the same rows, none twice, none missing. After
that single bits of a checkpoint are flipped: each must be noticed on reading, or change nothing of what is read.

    python scripts/torture.py [--kills 200] [--flips 500] [--folder torture] [--seed 0] [--data FILE]

Trials that are complete are kept in FOLDER/trials.jsonl; the same command continues after them.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from forks import fork

from s15erav3.errors import UserError
from s15erav3.runs.checkpoint import load_checkpoint
from s15erav3.training.module import LanguageModule

SMALL = [
    *("model.hidden_size=32", "model.num_layers=3", "model.num_heads=2", "model.kv_lora_rank=16"),
    *("model.qk_nope_head_dim=8", "model.qk_rope_head_dim=8", "model.v_head_dim=16", "model.intermediate_size=192"),
    *("data.vocab_size=512", "data.sequence_length=32", "data.batch_size=4", "data.eval_batch_size=64"),
    *("trainer.accelerator=cpu", "trainer.val_check_interval=6", "trainer.max_steps=24"),
    *("callbacks.telemetry.every_n_steps=2", "callbacks.checkpoint.every_n_steps=4"),
    *("callbacks.samples.max_new_tokens=3", "schedule.warmup_steps=3", "report=false"),
]
CONFIGS = {
    "plain": [],
    "workers": ["data.num_workers=2", "balancing.router_jitter=0.1", "balancing.expert_dropout=0.1"],
    "ahead, Muon": ["model.num_nextn_predict_layers=1", "optimizer=muon"],
    "accumulation, capacity": ["trainer.accumulate_grad_batches=2", "balancing=aux", "balancing.capacity_factor=1.25"],
    "state of a strategy": ["balancing=quantile", "schedule=cosine"],
    "two ranks": ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "balancing.router_jitter=0.1"],
    "W&B": ["logger=both", "callbacks.checkpoint.keep_every_n_steps=8"],
}
MOMENTS = ("anywhere", "start-up", "validation", "checkpoint begun", "checkpoint half written", "checkpoint renamed")
PATIENCE = 120
"""Seconds after which a run counts as hung."""


class Trial(NamedTuple):
    """What became of one run that was killed again and again."""

    config: str
    seed: int
    kills: dict[str, int]
    faults: list[str]


def die() -> None:
    """As by ``kill -9``: nothing of this process is asked."""
    os.kill(os.getpid(), signal.SIGKILL)


def set_trap(moment: str, chance: random.Random) -> None:
    """Have this process die at ``moment``, some time on."""
    count = itertools.count(1)
    fatal = chance.randint(1, 6)
    if moment == "validation":
        original = LanguageModule.validation_step

        def validates(self: LanguageModule, *args: Any) -> None:
            if next(count) == 4 * fatal:
                die()
            original(self, *args)

        LanguageModule.validation_step = validates  # type: ignore[method-assign]
    elif moment == "checkpoint begun":
        torch_save = torch.save

        def saves(*args: Any, **kwargs: Any) -> None:
            if next(count) == fatal:
                die()
            torch_save(*args, **kwargs)

        torch.save = saves
    elif moment == "checkpoint half written":
        torch_save, share = torch.save, chance.random()

        def saves_some(what: Any, file: Any, *args: Any, **kwargs: Any) -> None:
            torch_save(what, file, *args, **kwargs)
            if next(count) == fatal:
                file.flush()
                os.ftruncate(file.fileno(), int(file.tell() * share))
                die()

        torch.save = saves_some
    elif moment == "checkpoint renamed":
        replace = Path.replace

        def renames(self: Path, target: Any) -> Path:
            moved = replace(self, target)
            if Path(target).suffix == ".ckpt" and next(count) == fatal:
                die()
            return moved

        Path.replace = renames  # type: ignore[method-assign]


def attempt(command: list[str], log: Path, moment: str | None, chance: random.Random, usual: float) -> int | None:
    """Run a command in a fork of this process, and kill it at ``moment``.

    Returns:
        its exit status, negative for a signal; ``None`` if it hung.
    """
    wait = {"anywhere": chance.uniform(0, usual), "start-up": chance.uniform(0, 0.5)}.get(moment or "", PATIENCE)
    ended = fork(command, log, wait=wait, ask=signal.SIGKILL, prepare=lambda: set_trap(moment or "", chance))
    return None if wait == PATIENCE and ended.asked else ended.status


def rows(file: Path) -> list[tuple[tuple[str, str], ...]]:
    """Of ``metrics.csv`` what does not tell of time."""
    with file.open(newline="") as stream:
        return [
            tuple((k, v) for k, v in row.items() if not k.startswith("perf/") and v) for row in csv.DictReader(stream)
        ]


def told_wandb(run_dir: Path) -> list[tuple[tuple[str, float], ...]]:
    """W&B's history of all parts of a run, in the order in which it was told, without what tells of time."""
    found = []
    for file in sorted(run_dir.glob("wandb/*run-*/run-*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        for line in subprocess.run(command, capture_output=True, check=True).stdout.splitlines():
            if b'"type":"history"' in line:
                row = json.loads(line)["history"]["item"]
                kept = ("train/", "val/", "balance/", "load_", "bias_", "trainer/")
                found.append(tuple(sorted((k, v) for k, v in row.items() if k.startswith(kept))))
    return found


def differing(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Paths of two checkpoints at which they are not the same to the last bit."""
    if isinstance(one, torch.Tensor):
        if not isinstance(other, torch.Tensor) or one.dtype != other.dtype or not torch.equal(one, other):
            yield where
    elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differing(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differing(left, right, f"{where}/{i}")
    elif one != other or type(one) is not type(other):
        yield where


def faults(run_dir: Path, peaceful: Path) -> list[str]:
    """In what a run differs from the one that was not killed."""
    found = []
    payloads = [load_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (run_dir, peaceful)]
    for payload in payloads:
        for part in ("run", "loops", "callbacks"):  # names of folders and times in them
            payload.pop(part)
    found += [f"last.ckpt differs at {where}" for where in differing(*payloads)]
    if rows(run_dir / "metrics.csv") != rows(peaceful / "metrics.csv"):
        found.append("metrics.csv differs")
    for name in ("balance.jsonl", "samples.jsonl"):
        if (run_dir / name).read_bytes() != (peaceful / name).read_bytes():
            found.append(f"{name} differs")
    if json.loads((run_dir / "result.json").read_text())["status"] != "completed":
        found.append("result.json does not say completed")
    if (run_dir / "wandb").exists() and told_wandb(run_dir) != told_wandb(peaceful):
        found.append("W&B's history differs")
    if left := [file.name for file in run_dir.rglob(".*.partial")]:
        found.append(f"left behind: {left}")
    return found


def torture(config: str, seed: int, folder: Path, settings: list[str], usual: float, most: int) -> Trial:
    """Kill one run up to ``most`` times on its way to the end."""
    chance = random.Random(f"{config} {seed}")
    run_dir, log = folder / f"{seed}", folder / f"{seed}.log"
    shutil.rmtree(run_dir, ignore_errors=True)
    kills: Counter[str] = Counter()
    found: list[str] = []
    while not found:
        moment = chance.choice(MOMENTS) if kills.total() < most else None
        if any((run_dir / "checkpoints").glob("[!.]*.ckpt")):
            command = ["train", f"resume={run_dir}"]
        else:  # as it says: it had no checkpoint yet
            shutil.rmtree(run_dir, ignore_errors=True)
            command = ["train", *settings, f"hydra.run.dir={run_dir}"]
        status = attempt(command, log, moment, chance, usual)
        if status == 0:
            break
        if status is None:
            found.append("it hung")
        elif status != -signal.SIGKILL:
            found.append(f"exit status {status}, see {log}")
        else:
            kills[moment or "?"] += 1
    return Trial(config, seed, dict(kills), found or faults(run_dir, folder / "peaceful"))


def flip_bits(file: Path, flips: int, chance: random.Random) -> tuple[int, list[str]]:
    """Change one bit at a time of a checkpoint.

    Returns:
        how often that was noticed, and the flips that changed what was read.
    """
    whole, damaged = file.read_bytes(), file.with_name("flipped.ckpt")
    sound, noticed, wrong = load_checkpoint(file), 0, []
    for bit in (chance.randrange(8 * len(whole)) for _ in range(flips)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(data)
        try:
            if list(differing(load_checkpoint(damaged), sound)):
                wrong.append(f"bit {bit} changed what was read")
        except UserError:
            noticed += 1
        except Exception as error:  # which is what is looked for
            wrong.append(f"bit {bit}: {type(error).__name__}: {error}")
    damaged.unlink()
    return noticed, wrong


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("torture"))
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--data", type=Path, help="a commentary file; the bundled text if left out")
    return parser.parse_args()


def main() -> int:
    """Kill, resume, compare, and print what was found; 1 if anything was."""
    args = parse()
    os.environ["WANDB_MODE"] = "offline"
    os.environ.pop("WANDB_SERVICE", None)  # a W&B service of whoever started this: its runs outlive a kill
    torch.set_num_threads(1)
    data = [f"data.path={args.data.resolve()}", "data=ipl"] if args.data else []
    args.folder.mkdir(parents=True, exist_ok=True)
    record = args.folder / "trials.jsonl"
    trials = [Trial(**json.loads(line)) for line in record.read_text().splitlines()] if record.exists() else []
    usual: dict[str, float] = {}
    for seed in itertools.count(args.seed):
        for config in args.configs:
            if sum(sum(trial.kills.values()) for trial in trials) >= args.kills:
                break
            if any((trial.config, trial.seed) == (config, seed) for trial in trials):
                continue
            folder = (args.folder / config.replace(" ", "_").replace(",", "").replace("&", "")).resolve()
            settings = [*SMALL, *data, *CONFIGS[config]]
            if config not in usual:
                usual[config] = in_peace(folder, settings)
            trial = torture(config, seed, folder, settings, usual[config], most=7)
            with record.open("a") as file:
                file.write(json.dumps(trial._asdict()) + "\n")
            trials.append(trial)
            print(f"{config} {seed}: {sum(trial.kills.values())} kills, {trial.faults or 'the same'}", flush=True)
        else:
            continue
        break
    (checked, *_) = sorted(args.folder.glob("*/peaceful/checkpoints/last.ckpt"))
    noticed, wrong = flip_bits(checked, args.flips, random.Random(args.seed))
    return tell(trials, args.flips, noticed, wrong)


def in_peace(folder: Path, settings: list[str]) -> float:
    """Train the run that the others are compared with; returns its seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    place = folder / "peaceful"
    status = attempt(["train", *settings, f"hydra.run.dir={place}"], folder / "peaceful.log", None, random.Random(), 0)
    if status != 0:
        raise SystemExit(f"the uninterrupted run ended with {status}; see {folder / 'peaceful.log'}")
    return time.monotonic() - began


def tell(trials: list[Trial], flips: int, noticed: int, wrong: list[str]) -> int:
    """Print the figures as a table."""
    print(f"\n| | {' | '.join(MOMENTS)} | runs | differing |\n|{' --- |' * (len(MOMENTS) + 3)}")
    for config in dict.fromkeys(trial.config for trial in trials):
        own = [trial for trial in trials if trial.config == config]
        kills = [sum(trial.kills.get(moment, 0) for trial in own) for moment in MOMENTS]
        differ = sum(bool(trial.faults) for trial in own)
        print(f"| {config} | {' | '.join(map(str, kills))} | {len(own)} | {differ} |")
    total = sum(sum(trial.kills.values()) for trial in trials)
    bad = [f"{trial.config} {trial.seed}: {fault}" for trial in trials for fault in trial.faults] + wrong
    print(f"\n{total} kills, {len(trials)} runs; {flips} flipped bits: {noticed} noticed, {len(wrong)} harmful")
    print("\n".join(bad) if bad else "everything the same")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
