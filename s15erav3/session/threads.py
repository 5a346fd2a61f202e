"""The number of torch's threads on a CPU: set from outside, a setting, that of a resumed run, or the fastest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from s15erav3.cores import usable_cores
from s15erav3.data.cache import cache_dir, write_atomically
from s15erav3.model import ModelConfig, Transformer
from s15erav3.terminal import say
from s15erav3.training.hardware import cpu_name, seconds_by_threads
from s15erav3.training.losses import chunked_cross_entropy

PINS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which a user, a sweep's launcher or a cluster sets the number; torch reads them when it is imported."""
GAIN = 0.95
"""More threads are taken only if a step then takes less than this share of its time with fewer."""
TOKENS = 2048
"""Tokens of a measured step, or one window if it is longer."""


class Threads(NamedTuple):
    """Threads of one process."""

    number: int
    reason: str
    """Where the number comes from, for the banner; empty where the device is a GPU."""


class Shape(NamedTuple):
    """What determines which number of threads is the fastest, besides the machine."""

    model: ModelConfig
    windows: int
    length: int
    precision: str
    loss_chunk: int


def settle(wanted: int | str, shape: Shape, *, device: str, ranks: int, earlier: int | None) -> Threads:
    """Set the number of torch's threads in this process.

    Args:
        wanted: ``trainer.threads``.
        ranks: processes on this machine, which share its cores.
        earlier: the number of the run that is resumed, which reproduces its rounding; ``None`` if there is none.
    """
    pinned = next((name for name in PINS if os.environ.get(name)), None)
    if pinned:
        other = f"; trainer.threads={wanted} has no effect" if wanted not in ("auto", torch.get_num_threads()) else ""
        return Threads(torch.get_num_threads(), f"set by {pinned}{other}")
    cores = usable_cores()
    if wanted != "auto":
        chosen = Threads(int(wanted), "set by trainer.threads")
    elif earlier is not None and earlier <= cores:
        chosen = Threads(earlier, "as before the resume")
    elif ranks > 1:
        chosen = Threads(max(1, cores // ranks), f"{cores} cores for {ranks} processes")
    elif device != "cpu":
        return Threads(torch.get_num_threads(), "")
    elif cores == 1:
        chosen = Threads(1, "one core")
    else:
        took = remembered(shape, cores)
        chosen = Threads(fastest(took), "fastest of " + ", ".join(f"{n} ({s * 1e3:.0f} ms)" for n, s in took.items()))
    torch.set_num_threads(chosen.number)
    if ranks > 1:  # Lightning sets another number when it starts the ranks, unless this variable is there
        os.environ[PINS[0]] = str(chosen.number)
    return chosen


def fastest(took: Mapping[int, float]) -> int:
    """The number of threads to use, of seconds by number: more only if they gain enough."""
    best, *others = sorted(took)
    for number in others:
        if took[number] < GAIN * took[best]:
            best = number
    return best


def candidates(cores: int) -> list[int]:
    """1, 2, 4 and so on, and all cores."""
    return sorted({2**i for i in range(cores.bit_length())} | {cores})


def remembered(shape: Shape, cores: int) -> dict[int, float]:
    """Seconds of a small step by number of threads: measured once for this machine and shape, then read."""
    key: dict[str, Any] = {"cpu": cpu_name(), "cores": cores, "torch": torch.__version__, **shape._asdict()}
    key["model"] = _part(shape.model).to_dict()
    text = json.dumps(key, sort_keys=True)
    file = cache_dir() / "threads" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = {int(number): float(seconds) for number, seconds in json.loads(file.read_text())["seconds"].items()}
        if sorted(kept) == candidates(cores):
            return kept
    say("measuring once which number of threads is the fastest for this model on this machine")
    took = measure(shape, cores)
    with write_atomically(file) as target:
        Path(target).write_text(json.dumps({"seconds": took, "of": key}, indent=2))
    return took


def measure(shape: Shape, cores: int) -> dict[int, float]:
    """Seconds of forward and backward pass of two layers and the head, by number of threads.

    The weights and tokens are random; torch's generator is as before afterwards.
    """
    windows = max(1, min(shape.windows, TOKENS // shape.length))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=shape.precision == "bf16-mixed")
    with torch.random.fork_rng(devices=[]):
        net = Transformer(_part(shape.model))
        ids = torch.randint(shape.model.vocab_size, (windows, shape.length + 1))
        parameters = list(net.parameters())

        def step() -> None:
            with autocast:
                hidden = net(ids[:, :-1]).hidden.flatten(0, 1)
                loss = chunked_cross_entropy(hidden, net.lm_head.weight, ids[:, 1:].flatten(), shape.loss_chunk)
            torch.autograd.grad(loss, parameters, allow_unused=True)

        return seconds_by_threads(step, candidates(cores))


def _part(model: ModelConfig) -> ModelConfig:
    """The same widths, with at most two layers, MoE layers if it has any."""
    layers = min(2, model.num_layers)
    return dataclasses.replace(model, num_layers=layers, first_k_dense_replace=0, num_nextn_predict_layers=0)
