"""Checks that start programs: benchmarks, two jobs on one GPU, a short training."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import s15erav3

SCRIPTS = Path(s15erav3.__file__).parents[1] / "scripts"
QUIET = ["trainer.max_epochs=-1", "report=false", "callbacks.samples=null", "callbacks.media=null", "data=sample"]


class NotRun(Exception):
    """A check that cannot be done here; the message says why."""


def packing(device: str, *settings: str) -> dict[str, Any]:
    """Two jobs of a sweep at the same time on one device, each with its own run."""
    where = ["gpus=1", "jobs_per_gpu=2"] if device == "cuda" else ["gpus=0", "cpu_slots=2"]
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["hydra/launcher=gpu_queue", *(f"hydra.launcher.{word}" for word in where)]
        chosen = [*(settings or ("model=pico", "trainer.max_steps=20")), f"trainer.accelerator={_named(device)}"]
        _verb("train", "-m", *launcher, f"hydra.sweep.dir={folder}/sweep", *QUIET, "seed=1,2", *chosen)
        results = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("sweep/*/result.json"))]
    statuses = [result["status"] for result in results]
    if statuses != ["completed", "completed"]:
        raise RuntimeError(f"two jobs on one device ended as {statuses}")
    return {"tokens_per_second": [result.get("perf/tokens_per_second") for result in results]}


def bench_step(device: str) -> dict[str, Any]:
    """``scripts/bench_step.py``: the time of a step against transformers'."""
    return {"output": _script("bench_step.py", "--device", device, "--model", "small", "--batch", "16")}


def bench_generate(device: str) -> dict[str, Any]:
    """``scripts/bench_generate.py``: tokens/s of generation against transformers'."""
    return {"output": _script("bench_generate.py", "--device", device, "--new-tokens", "128", "--rounds", "2")}


def training(device: str, steps: int = 200, *settings: str) -> dict[str, Any]:
    """Steps of ``experiment=original`` on the bundled text, through the whole program."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = ["experiment=original", *QUIET, f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"]
        place = [f"hydra.run.dir={folder}/run", f"trainer.accelerator={_named(device)}"]
        _verb("train", *chosen, *place, *settings)
        result = json.loads(Path(folder, "run", "result.json").read_text())
    names = ("perf/tokens_per_second", "perf/mfu", "perf/memory_gb", "train/loss", "val/bpb", "balance/maxvio_batch")
    return {"steps": steps, **{name: result[name] for name in names if name in result}}


def several_devices(device: str, *settings: str) -> dict[str, float]:
    """The loss after 20 steps in fp32 on one device, and by each strategy on two, of the same global batches.

    A checkpoint of FSDP is written in parts, and read by ``sample``.

    Raises:
        RuntimeError: they differ by more than 0.1 %, which is more than rounding.
    """
    if device == "cuda" and torch.cuda.device_count() < 2:
        raise NotRun("there is one GPU only")
    losses: dict[str, float] = {}
    for trainer in ("auto", "ddp", "fsdp", "expert_parallel"):
        devices = 1 if trainer == "auto" else 2
        chosen = [*(settings or ("model=pico", "experts=e16")), f"trainer={trainer}", f"data.batch_size={8 // devices}"]
        place = [f"trainer.devices={devices}", f"trainer.accelerator={_named(device)}", "trainer.precision=32-true"]
        with tempfile.TemporaryDirectory() as folder:
            place += ["callbacks.checkpoint.sharded=true"] if trainer == "fsdp" else []
            _verb("train", *QUIET, "trainer.max_steps=20", f"hydra.run.dir={folder}/run", *chosen, *place)
            if trainer == "fsdp":
                _verb("sample", f"{folder}/run", "prompt=Over", "max_new_tokens=1")
            losses[trainer] = json.loads(Path(folder, "run", "result.json").read_text())["train/loss"]
    if any(abs(loss / losses["auto"] - 1) > 0.001 for loss in losses.values()):
        raise RuntimeError(f"losses of one device and of two differ: {losses}")
    return losses


def _named(device: str) -> str:
    return "gpu" if device == "cuda" else "cpu"


def _script(name: str, *arguments: str) -> str:
    if not (SCRIPTS / name).is_file():
        raise NotRun(f"scripts/{name} is in the repository, not in the installed package")
    return _run(str(SCRIPTS / name), *arguments)


def _verb(*arguments: str) -> str:
    return _run("-m", "s15erav3", *arguments)


def _run(*arguments: str) -> str:
    """Standard output of a Python program.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=1800)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-600:]
        raise RuntimeError(f"{Path(arguments[0]).name} {' '.join(arguments[1:3])} ended with {done.returncode}: {said}")
    return done.stdout
