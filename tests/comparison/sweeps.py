"""Folders of runs as training leaves them, without training."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from pathlib import Path
from typing import Any

import yaml

CONFIG: dict[str, Any] = {
    "seed": 1,
    "resume": None,
    "experts": {"n_routed_experts": 8, "num_experts_per_tok": 2},
    "model": {"hidden_size": 64, "num_layers": 4},
    "balancing": {"_target_": "s15erav3.balancing.LossFree", "z_loss": 0.0, "rate": 0.001},
    "optimizer": {"_target_": "s15erav3.training.optim.adamw", "lr": 0.003},
    "data": {"name": "sample", "path": None, "split_seed": 0, "batch_size": 4},
    "trainer": {"max_steps": 100},
    "callbacks": {"telemetry": {"every_n_steps": 2}},
    "logger": {"csv": {"save_dir": "${run_dir}"}},
    "run_dir": "${hydra:runtime.output_dir}",
    "sweep": {"name": None},
}
CHOICES = {"experts": "e8", "model": "nano", "balancing": "loss_free", "optimizer": "adamw", "experiment": None}


def _dump(value: Any, **how: Any) -> str:
    return str(yaml.dump(value, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), **how))


def write_run(
    folder: Path,
    *overrides: str,
    config: dict[str, Any] | None = None,
    status: str = "completed",
    **metrics: Any,
) -> Path:
    """A run's folder.

    Args:
        overrides: as on the command line; dotted keys and ``seed`` also go into the config.
        config: flat, dotted keys, on top of the usual one.
        status: ``running``, ``killed`` and ``starting`` leave no result.json.
        metrics: of result.json or progress.json; ``val_bpb`` and ``maxvio`` stand for ``val/bpb`` and
            ``balance/maxvio_global``.
    """
    whole = json.loads(json.dumps(CONFIG))
    said = [o.partition("=")[::2] for o in overrides]
    flat = {k: yaml.safe_load(v) for k, v in said if k == "seed" or ("." in k and k[:5] != "hydra")} | (config or {})
    for key, value in flat.items():
        node = whole
        *path, last = key.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    choices = CHOICES | {k: v for k, v in said if k in CHOICES}
    hydra = folder / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "config.yaml").write_text(_dump(whole, sort_keys=False))
    (hydra / "overrides.yaml").write_text(_dump(list(overrides)))
    runtime = {"hydra": {"mode": "RUN", "runtime": {"version": "1.3.8", "choices": choices, "output_dir": "x"}}}
    (hydra / "hydra.yaml").write_text(_dump(runtime, sort_keys=False))
    names = {"val_bpb": "val/bpb", "maxvio": "balance/maxvio_global"}
    told = {names.get(name, name): value for name, value in metrics.items()}
    if status in ("running", "killed"):
        progress = {"step": 40, "max_steps": 100, "host": socket.gethostname(), "time": time.time()}
        progress |= {"pid": os.getpid() if status == "running" else 2**22 + 1}
        (folder / "progress.json").write_text(json.dumps(progress | told))
    elif status != "starting":
        reason = "" if status == "completed" else "ValueError: bad\n value"
        result = {"status": status, "reason": reason, "steps": 100, "max_steps": 100, "git_commit": "a", "causal": True}
        (folder / "result.json").write_text(json.dumps(result | told))
    return folder


def write_metrics(folder: Path, rows: int = 10, columns: int = 4, *, bpb: float = 2.0, speed: float = 4e4) -> None:
    """``metrics.csv``: a row every second step, validation in rows of its own as the logger writes them.

    Args:
        speed: tokens per second; a token takes a million FLOPs.
    """
    extra = [f"load_L{i // 8:02d}/E{i % 8:02d}" for i in range(columns)]
    own = ["step", "tokens", "flops", "perf/tokens_per_second", "train/loss", "balance/maxvio_batch"]
    lines = [",".join([*own, *extra, "val/bpb", "balance/maxvio_global"])]
    draw = random.Random(0)
    load = ",".join(f"{draw.random() * 2:.14f}" for _ in extra)
    for i in range(1, rows + 1):
        lines.append(f"{2 * i},{2048 * i},{2048e6 * i},{speed},{3 / i},{0.5 / i}{',' if extra else ''}{load},,")
        if i % 5 == 0:
            lines.append(f"{2 * i},,,,,{',' * len(extra)},{bpb + 1 / i},{0.4 / i}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def write_sweep(folder: Path, n: int, *, rows: int = 50, columns: int = 76) -> None:
    """A sweep of n runs over experts, strategies, rates and seeds, of which every 50th is broken or ended early."""
    draw = random.Random(1)
    for job in range(n):
        experts, balancing = ("e8", "e16", "e32")[job % 3], ("none", "loss_free", "quantile", "aux")[job // 3 % 4]
        lr, seed = (0.001, 0.002, 0.004, 0.008)[job // 12 % 4], job // 48
        bpb = 1.4 + draw.random() * 0.1 + 0.02 * (balancing == "none")
        status = ("failed", "killed", "running", "starting")[job // 50 % 4] if job % 50 == 49 else "completed"
        said = [f"experts={experts}", f"balancing={balancing}", f"optimizer.lr={lr}", f"seed={seed}"]
        more = {f"more/metric_{i}": draw.random() for i in range(30)}
        own = {"balancing._target_": balancing, "experts.n_routed_experts": int(experts[1:])}
        run = write_run(
            folder / str(job), *said, config=own,
            status=status, val_bpb=bpb, maxvio=draw.random() ** 3 * 3 + 0.05, **more,
        )  # fmt: skip
        write_metrics(run, rows, columns, bpb=bpb)
        if job % 97 == 96:
            (run / "result.json").write_text('{"status": "comp')
