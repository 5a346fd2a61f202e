"""``evaluate ablate=experts``: remove each expert in turn, print what that costs, and log it to W&B if asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from omegaconf import DictConfig
from rich.progress import track
from rich.table import Table

from s15erav3.analysis.ablation import ablate, impossible
from s15erav3.analysis.division import divide
from s15erav3.analysis.effects import Effects, effects
from s15erav3.analysis.effects_table import Ablation
from s15erav3.analysis.effects_text import DOMAINS, LARGEST, domain_rows, largest_rows, verdict
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.labels import label_tokens
from s15erav3.data.windows import EvaluationBatches, EvaluationWindows
from s15erav3.errors import UserError
from s15erav3.loading import Saved, Trained
from s15erav3.loggers.wandb_later import Table as Rows
from s15erav3.loggers.wandb_later import log_later
from s15erav3.terminal import console, results, say


def refuse_ablation(cfg: DictConfig, trained: Trained) -> None:
    """Refuse what cannot be ablated, before anything is measured.

    Raises:
        UserError: the model has no experts, or its experts no substitutes; or there is nothing to log.
    """
    if cfg.wandb and not cfg.ablate:
        raise UserError("wandb=true logs what ablate=experts measures; add ablate=experts, or leave wandb out.")
    if cfg.ablate and (why := impossible(trained.net.config, cfg.ablate_mode)):
        raise UserError(f"ablate={cfg.ablate}, ablate_mode={cfg.ablate_mode} is not possible: {why}.")


def ablation(cfg: DictConfig, trained: Trained, data: CommentaryData) -> Ablation:
    """Remove each expert in turn on the first ``cfg.ablate_tokens`` tokens of the part ``cfg.split``."""
    whole = data.token_files.part(cfg.split)
    tokens = whole if cfg.ablate_tokens is None else whole[: cfg.ablate_tokens + 1]
    division = divide(tokens, label_tokens(data.corpus(), data.plan, cfg.split, data.tokenizer, whole), data.tokenizer)
    windows = EvaluationWindows(tokens, data.length)
    batches = list(EvaluationBatches(windows, data.eval_batch_size))
    config = trained.net.config
    say(f"removing {config.num_moe_layers * config.n_routed_experts} experts in turn on {len(tokens) - 1:,} tokens")
    costs = ablate(
        trained.net,
        (
            torch.stack([windows[i] for i in batch])
            for batch in track(batches, "ablation", console=console, transient=True, disable=not console.is_terminal)
        ),
        division.cells,
        len(division.size),
        mode=cfg.ablate_mode,
        autocast=trained.autocast,
    )
    about = {"checkpoint": str(trained.saved.file), "step": trained.saved.step, "split": cfg.split}
    about |= {"ablate_mode": cfg.ablate_mode, "ablation/tokens": len(tokens) - 1}
    return Ablation(effects(costs, division, config.moe_layers[: config.num_moe_layers]), about)


def log_ablation(found: Ablation, saved: Saved) -> None:
    """Add the table of all experts and its heatmap to the run's W&B run, if it has one."""
    from s15erav3.pages.ablation import whole_text  # slow (0.5 s), and needed here only

    effects = found.effects
    rows = [
        [layer, expert, change, half if math.isfinite(half) else None]
        for layer, changes, halves in zip(
            effects.layers, effects.change[0].tolist(), effects.half[0].tolist(), strict=True
        )
        for expert, (change, half) in enumerate(zip(changes, halves, strict=True))
    ]
    table = Rows(("layer", "expert", "ablation/change", "ablation/half"), rows)
    tables, figures = {"ablation/experts": table}, {"ablation/heatmap": whole_text(effects)}
    log_later(saved.file.parent.parent, saved.config, saved.step, tables, figures)


def show_ablation(found: Effects) -> None:
    """Print the experts that the text needs most, and whether values need their specialists."""
    _print("Bits per byte more without an expert: the largest of the whole text", LARGEST, largest_rows(found))
    if found.domains:
        title = "Bits per byte more of a domain's values, without their specialists and without another expert"
        _print(title, DOMAINS, domain_rows(found))
    results.print(verdict(found), soft_wrap=True)


def _print(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title)
    for name in header:
        table.add_column(name, justify="left" if name in ("domain", "value", "expert") else "right")
    for row in rows:
        table.add_row(*row)
    results.print(table)
