"""Text that a run prints at its start and its end."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich import box
from rich.table import Column, Table

from s15erav3.balancing import AddOns
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.messages import listed, shown
from s15erav3.model import ModelConfig, count_parameters
from s15erav3.runs.identity import Change
from s15erav3.session.compiling import compiled_code
from s15erav3.session.router_settings import decided
from s15erav3.session.threads import Threads
from s15erav3.terminal import console, program, say, short
from s15erav3.training.cuda_graph import WARM_UP
from s15erav3.training.hardware import cpu_name
from s15erav3.training.module import LanguageModule


def device_name(device: torch.device) -> str:
    """Human-readable device name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_name()} ({threads} thread{'s' if threads > 1 else ''})"


def _grid(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify, table.title_style = title, "left", "bold"
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def shape(config: ModelConfig) -> str:
    """Layers and experts in words."""
    if not config.num_moe_layers:
        return f"dense, {config.num_layers} layers"
    return (
        f"{config.n_routed_experts} experts, {config.num_experts_per_tok} per token and "
        f"{config.n_shared_experts} shared, in {config.num_moe_layers} of {config.num_layers} layers"
    )


def balancing(cfg: DictConfig, module: LanguageModule) -> str:
    """The strategy, its add-ons, and a warning if the strategy breaks causality."""
    name = str(cfg.balancing._target_).rpartition(".")[2]
    losses = [f"and {name}" for name in cfg.balancing.get("loss") or {}]
    rest = losses + [f"{key}={value:g}" for key in signature(AddOns).parameters if (value := cfg.balancing.get(key))]
    if not module.net.config.causal:
        rest.append("NOT CAUSAL: losses are too low, generation is refused")
    elif not module.balancer.causal:
        rest.append("not causal in training")
    if sets := decided(cfg, module.balancer):
        rest.append(sets)
    return ", ".join([name, *rest])


@rank_zero_only
def banner(
    cfg: DictConfig, data: CommentaryData, module: LanguageModule, trainer: L.Trainer, threads: Threads, run_dir: Path,
    resumed: bool,
) -> None:  # fmt: skip
    """Print model, data, device, length and folder of the starting run."""
    config, counts = module.net.config, count_parameters(module.net.config)
    parts, corpus = data.token_files.parts, data.corpus()
    name, passed_over = shown(Path(corpus.path.name)), corpus.passed_over()
    per_step = data.windows_per_step * trainer.world_size
    most = cfg.trainer.max_time
    limit = f", at most {most}{' s' if isinstance(most, int | float) else ''}" if most else ""
    device, graph = trainer.strategy.root_device, module.graph is not None
    rows = [
        ("model", f"{counts.total:,} parameters, {counts.active:,} active per token; {shape(config)}"),
        ("balancing", balancing(cfg, module)),
        (
            "data",
            f"{name}: {parts['train']['tokens']:,} tokens ({data.tokenizer.name}) to train on, "
            f"{parts['val']['tokens']:,} to validate",
        ),
        *([("skipped", listed(passed_over))] if passed_over else []),
        ("device", f"{trainer.world_size} x {device_name(device)}, {trainer.precision}"),
        *([("threads", f"{threads.number}, {threads.reason}")] if threads.reason else []),
        (
            "length",
            f"{trainer.max_steps:,} steps of {per_step} x {data.length} tokens = "
            f"{trainer.max_steps * per_step / data.samples_per_epoch:.1f} epochs{limit}",
        ),
        *(
            [("compile", f"each kind of block and the loss at first use; code is kept in {compiled_code()}")]
            if cfg.compile
            else []
        ),
        *([("CUDA graph", f"of a step's passes, recorded in step {WARM_UP + 1} of this process")] if graph else []),
        ("folder", str(run_dir)),
        *trackers(trainer),
    ]
    console.print(_grid("s15erav3 " + ("resumes" if resumed else "trains"), rows))
    say_commands(trainer)


def trackers(trainer: L.Trainer) -> list[tuple[str, str]]:
    """Name and run location of each logger that stores its run elsewhere."""
    return [("W&B", place) for logger in trainer.loggers if (place := getattr(logger, "place", ""))]


def say_commands(trainer: L.Trainer) -> None:
    """Print the commands that show the run in each tracker."""
    for logger in trainer.loggers:
        for command in getattr(logger, "commands", []):
            say(f"  {command}")


def show_changes(kinds: Mapping[str, Sequence[Change]]) -> None:
    """Print the settings that a resumed run changes, grouped by consequence."""
    table = Table(Column("setting", no_wrap=True), "checkpoint", "now", "which", box=box.SIMPLE_HEAD)
    for kind, found in kinds.items():
        for change in found:
            table.add_row(*(str(part) for part in (change.key, change.before, change.now, kind)))
    if table.row_count:
        console.print(table)


def longer(cfg: DictConfig, result: Mapping[str, Any]) -> str:
    """The setting that lets a run go on: the limit that ended it, doubled or removed."""
    if result["steps"] < result["max_steps"]:
        return "trainer.max_time=null"
    if result["max_steps"] == cfg.trainer.max_steps:
        return f"trainer.max_steps={2 * cfg.trainer.max_steps}"
    return f"trainer.max_epochs={max(1, round(2 * result['epochs']))}"


@rank_zero_only
def summary(
    cfg: DictConfig, trainer: L.Trainer, result: dict[str, Any], samples: list[dict[str, Any]], run_dir: Path
) -> None:
    """Print how the run ended, where its files are, and the next commands."""
    compiling = f", {s:.0f} s of it compiling" if (s := result.get("perf/compile_seconds")) else ""
    rows = [
        (
            "time",
            f"{time.strftime('%H:%M:%S', time.gmtime(result['wall_seconds']))}{compiling}, {result['steps']:,} steps, "
            f"{result.get('perf/tokens_per_second_overall', 0):,.0f} tokens/s",
        )
    ]
    if "val/bpb" in result:
        best = f" (best {result['best/val/bpb']:.4f})" if "best/val/bpb" in result else ""
        rows.append(
            ("val/bpb", f"{result['val/bpb']:.4f} bits per byte{best}, val/loss {result['val/loss']:.4f}"),
        )
    if "balance/maxvio_global" in result:
        rows.append(
            (
                "balance",
                f"MaxVio global {result['balance/maxvio_global']:.3f}, "
                f"{result['balance/dead_experts_global']:.0f} dead experts",
            )
        )
    place = shlex.quote(str(short(run_dir)))
    rows += [("wrote", sample["prompt"] + sample["text"]) for sample in samples]
    looked_at = "report.html, " if (run_dir / "report.html").exists() else ""
    rows.append(("files", f"{place}: {looked_at}result.json, metrics.csv, balance.jsonl, samples.jsonl, checkpoints/"))
    rows += trackers(trainer)
    console.print(_grid(f"s15erav3 {result['status']}", rows))
    for command in (
        f"sample {place}",
        f"evaluate {place} split=test",
        f"train resume={place} {longer(cfg, result)}",
    ):
        say(f"  {program()} {command}")
    say_commands(trainer)
