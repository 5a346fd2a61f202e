"""The study of docs/balancing.md: every strategy at its best setting, several seeds, against a dense control.

First each strategy's rate or coefficient is tuned: one run for each of its values. Its best is the value of the
lowest MaxVio among those whose val/bpb is within 1 % of the lowest (seeds alone differ by as much). Then every
strategy runs with that value once for each seed. All runs of a stage have the same steps, tokens and, for the same
seed, the same initial weights.

    python scripts/study_balancing.py --data ipl_commentary.txt [--out multirun/study] [--workers 2]
    python scripts/study_balancing_report.py multirun/study

It can be stopped and restarted at any time: finished runs are kept, interrupted ones resume, failed ones start over.
On a GPU, longer: --model small --steps 4000 --workers 1 --set data.batch_size=16 --set data.sequence_length=256.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from s15erav3.cli.overrides import value_of


class Strategy(NamedTuple):
    """A way of balancing, and the values of its one setting that are tried."""

    choice: list[str]
    knob: str = ""
    values: tuple[float, ...] = ()
    experts: dict[str, list[str]] | None = None
    """Further settings by expert group, so that routed and active parameters are those of the others."""


RATES = (0.003, 0.01, 0.03, 0.1)
ALPHAS = (0.001, 0.01, 0.03, 0.1, 0.3)
STRATEGIES = {
    "none": Strategy(["balancing=none"]),
    "loss_free": Strategy(["balancing=loss_free"], "balancing.rate", RATES),
    "proportional": Strategy(["balancing=proportional"], "balancing.rate", (0.003, 0.01, 0.03, 0.1)),
    "smebu": Strategy(["balancing=smebu"], "balancing.rate", (*RATES, 0.3)),
    "original": Strategy(["balancing=original"], "balancing.rate", (0.1, 1.0, 10.0, 100.0)),
    "quantile": Strategy(["balancing=quantile"], "balancing.ema", (0.0, 0.5, 0.9, 0.98)),
    "dsv3": Strategy(["balancing=dsv3"], "balancing.rate", (0.001, *RATES)),
    "aux_micro": Strategy(["balancing=aux", "balancing.scope=micro"], "balancing.alpha", ALPHAS),
    "aux_sequence": Strategy(["balancing=aux", "balancing.scope=sequence"], "balancing.alpha", ALPHAS),
    "aux_global": Strategy(["balancing=aux", "balancing.scope=global"], "balancing.alpha", ALPHAS),
    "simbal": Strategy(["balancing=simbal"], "balancing.alpha", (0.0001, 0.001, 0.01, 0.1)),
    "bip": Strategy(["balancing=bip"], "balancing.rounds", (1, 2, 4, 8, 16)),
    "switch": Strategy(
        ["balancing=switch"],
        "balancing.alpha",
        ALPHAS,
        {"e16": ["experts.n_routed_experts=8"], "e64": ["experts.n_routed_experts=16"]},
    ),
    "expert_choice": Strategy(["balancing=expert_choice"]),
}
DENSE = "dense"
TOLERANCE = 1.01  # of val/bpb, when the best value is chosen by balance: seeds alone differ by as much


class Job(NamedTuple):
    """One run."""

    folder: Path
    settings: list[str]


def common(args: argparse.Namespace, steps: int, every: int) -> list[str]:
    """What all runs share. Two micro-batches a step: with one, the scopes micro and global would be the same."""
    return [
        "data=ipl",
        f"data.path={args.data}",
        f"model={args.model}",
        "data.vocab_size=2048",
        "data.sequence_length=128",
        "data.batch_size=4",
        "trainer.accumulate_grad_batches=2",
        f"trainer.max_steps={steps}",
        "trainer.max_epochs=-1",
        f"trainer.val_check_interval={every}",
        "callbacks=none",
        "callbacks.telemetry.per_expert=false",
        f"callbacks.checkpoint.every_n_steps={every}",
        *args.set,
    ]


def tuning(args: argparse.Namespace) -> Iterator[Job]:
    """One run for each value of each strategy."""
    for setting in args.experts:
        for name in args.strategies:
            strategy = STRATEGIES[name]
            for value in strategy.values:
                settings = [f"experts={setting}", *chosen(name, setting, value), f"seed={args.tune_seed}"]
                folder = args.out / "tune" / setting / name / f"{value:g}"
                yield Job(folder, [*common(args, args.tune_steps, args.tune_steps), *settings])


def finals(args: argparse.Namespace) -> Iterator[Job]:
    """Every strategy at its best value, and the dense control, once for each seed."""
    share = [*common(args, args.steps, max(1, args.steps // 4))]
    for seed in range(1, args.seeds + 1):
        yield Job(
            args.out / "final" / DENSE / DENSE / f"{seed}", [*share, "experts=dense", "balancing=none", f"seed={seed}"]
        )
        for setting in args.experts:
            for name in args.strategies:
                settings = [f"experts={setting}", *chosen(name, setting, best_value(args.out, setting, name))]
                yield Job(args.out / "final" / setting / name / f"{seed}", [*share, *settings, f"seed={seed}"])


def chosen(name: str, setting: str, value: float | None) -> list[str]:
    """Settings of a strategy with this value of its knob."""
    strategy = STRATEGIES[name]
    knob = [] if value is None else [f"{strategy.knob}={value:g}"]
    return [*strategy.choice, *knob, *(strategy.experts or {}).get(setting, [])]


def best_value(out: Path, setting: str, name: str) -> float | None:
    """The value that tuning prefers; ``None`` where there is nothing to tune.

    Raises:
        SystemExit: a run of the tuning did not complete.
    """
    tried = {value: result(out / "tune" / setting / name / f"{value:g}") for value in STRATEGIES[name].values}
    if not tried:
        return None
    if not all(tried.values()):
        raise SystemExit(f"error: the tuning of {name} for {setting} is not complete; start the study again.")
    least = min(r["val/bpb"] for r in tried.values())
    close = {v: r for v, r in tried.items() if r["val/bpb"] <= least * TOLERANCE}
    return min(close, key=lambda v: close[v]["balance/maxvio_global"])


def result(folder: Path) -> dict[str, Any]:
    """``result.json`` of a completed run, else nothing."""
    found = ended(folder)
    return found if found.get("status") == "completed" else {}


def ended(folder: Path) -> dict[str, Any]:
    """``result.json`` however the run ended; empty if it did not."""
    file = folder / "result.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def run(job: Job) -> str:
    """Train in this process; what a run prints goes to a file beside its folder. Returns its status."""
    import torch

    from s15erav3.__main__ import main

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    arguments = [*job.settings, f"hydra.run.dir='{job.folder}'"]
    if job.folder.exists():
        if (
            any((job.folder / "checkpoints").glob("*.ckpt"))
            and fits(job)
            and ended(job.folder).get("status") != "failed"
        ):
            arguments = [f"resume={job.folder}"]
        else:
            shutil.rmtree(job.folder)
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with log_of(job.folder).open("w") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            main(["train", *arguments])
        except Exception as error:  # of this run alone
            print(f"{type(error).__name__}: {error}", file=log)
    return "completed" if is_done(job) else f"FAILED, see {log_of(job.folder)}"


def log_of(folder: Path) -> Path:
    """What a run printed."""
    return folder.parent / f"{folder.name}.log"


def fits(job: Job) -> bool:
    """Whether the folder's run has these very settings."""
    overrides = job.folder / ".hydra" / "overrides.yaml"
    if not overrides.is_file():
        return False
    given = OmegaConf.to_container(OmegaConf.load(overrides))
    return [f"{override.partition('=')[0]}={value_of(override)}" for override in given] == job.settings


def is_done(job: Job) -> bool:
    """Whether the run completed, with these very settings."""
    return bool(result(job.folder)) and fits(job)


def work(jobs: list[Job], pool: ProcessPoolExecutor, title: str) -> int:
    """Do what is missing; returns how many runs failed."""
    missing = [job for job in jobs if not is_done(job)]
    print(f"{title}: {len(jobs)} runs, {len(missing)} to do", flush=True)
    began, failures = time.time(), 0
    futures = {pool.submit(run, job): job for job in missing}
    for done, future in enumerate(as_completed(futures), start=1):
        status, folder = future.result(), futures[future].folder
        failures += status != "completed"
        left = (time.time() - began) / done * (len(missing) - done)
        found = result(folder)
        figures = "  ".join(f"{key} {found[key]:.4f}" for key in ("val/bpb", "balance/maxvio_global") if key in found)
        print(
            f"{done}/{len(missing)}  {'/'.join(folder.parts[-4:])}  {status}  {figures}  {left / 60:.0f} min left",
            flush=True,
        )
    return failures


def main() -> None:
    """Tune, then run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the commentary file")
    parser.add_argument("--out", type=Path, default=Path("multirun/study"))
    parser.add_argument("--model", default="pico")
    parser.add_argument("--experts", nargs="+", default=["e16", "e64"])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--tune-steps", type=int, default=160)
    parser.add_argument("--tune-seed", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--set", action="append", default=[], help="a further setting of all runs")
    args = parser.parse_args()
    args.out, args.data = args.out.absolute(), args.data.absolute()
    if not args.data.is_file():
        parser.error(f"--data {args.data} does not exist")
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGTERM, pass_on)
    pool = ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for title, jobs in (("tuning", tuning), ("study", finals)):
            if failures := work(list(jobs(args)), pool, title):
                raise SystemExit(f"error: {failures} runs failed; fix what their logs report and start again.")
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command continues.") from None
    finally:
        pool.shutdown(cancel_futures=True)  # without this, runs that wait would still be done
    print(f"done; next: python scripts/study_balancing_report.py {args.out}")


def pass_on(number: int, frame: FrameType | None) -> None:
    """Ctrl-C reaches the runs by itself; SIGTERM only this process. Each run saves the step at hand."""
    for process in multiprocessing.active_children():
        process.terminate()
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
