"""``s15erav3 evaluate``: measure loss, bits per byte, expert balance and specialisation of a checkpoint on a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from s15erav3.analysis.collect import VOCABULARY, Routed
from s15erav3.analysis.documents import by_document
from s15erav3.analysis.effects_table import SUFFIX, write_ablation
from s15erav3.analysis.measure import Measured, measure
from s15erav3.analysis.sliding import sliding_cost
from s15erav3.analysis.specialisation import specialists
from s15erav3.analysis.summary import summary
from s15erav3.analysis.tables import long_table, write_table
from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import by_place
from s15erav3.data.commentary import is_commentary
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.labels import DOMAINS, label_tokens
from s15erav3.data.messages import listed
from s15erav3.errors import UserError, check_number
from s15erav3.files import at_home, replace_text
from s15erav3.loading import Saved, Trained, extended, load, restore
from s15erav3.session.ablation import ablation, log_ablation, refuse_ablation, show_ablation
from s15erav3.session.build import restore_balancer
from s15erav3.session.reference import refuse_unlike
from s15erav3.terminal import results, say


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 evaluate --help``."""
    hydra_setup.run("evaluate", evaluate, by_place("evaluate", arguments, "checkpoint"))
    return 0


def evaluate(cfg: DictConfig) -> float:
    """Measure, print a table, and write JSON and, for a model with experts, Parquet next to it.

    Returns:
        Bits per byte.

    Raises:
        UserError: checkpoint, text or a setting is unusable.
    """
    trained = restore(cfg)
    refuse_ablation(cfg, trained)
    data = held_out(cfg, trained)
    if cfg.stride and cfg.stride > data.length:
        raise UserError(
            f"stride={cfg.stride} leaves tokens out; it must be at most data.sequence_length={data.length}."
        )
    if passed_over := data.corpus().passed_over():
        say(f"skipped: {listed(passed_over)}")
    output = at_home(cfg.output) if cfg.output else default_output(cfg, trained)
    if output.suffix in (".parquet", ".jsonl"):
        raise UserError(f"output={output} must not end with {output.suffix}, the name of another result; use .json.")
    record: dict[str, Any] = {"checkpoint": str(trained.saved.file), "step": trained.saved.step}
    saved = None
    if cfg.reference:
        saved = load(str(cfg.reference))
        refuse_unlike(trained, saved, data.length, cfg.context_extension)
        record |= {"reference": str(saved.file), "reference_step": saved.step}
    measured = read(cfg, trained, data, saved)
    record |= {"data": str(data.corpus().path), "split": cfg.split, "sequence_length": data.length}
    record |= summary(measured)
    if cfg.stride:
        record |= sliding(cfg, trained, data)
    removed = ablation(cfg, trained, data) if cfg.ablate else None
    record |= removed.record() if removed else {}
    try:
        replace_text(output, json.dumps(record, indent=2) + "\n")
        lines = by_document(measured.nll, data.token_files.part(cfg.split), data.tokenizer)
        replace_text(output.with_suffix(".jsonl"), lines)
        if measured.routed is not None:
            table = long_table(measured.routed, int(measured.cost["tokens"]))
            write_table(table, output.with_suffix(".parquet"))
        if removed is not None:
            write_ablation(removed, output.with_suffix(SUFFIX))
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}; name another file.") from error
    show(record, measured.routed, output)
    if removed is not None:
        show_ablation(removed.effects)
        say(f"wrote {output.with_suffix(SUFFIX)}")
        if cfg.wandb:
            log_ablation(removed, trained.saved)
    return float(record["text/bpb"])


def read(cfg: DictConfig, trained: Trained, data: CommentaryData, reference: Saved | None) -> Measured:
    """Measure every token of the part ``cfg.split``."""
    balancer, other = None, None
    try:
        balancer = restore_balancer(trained.saved.config, trained.net, trained.saved.file)
    except InstantiationException as error:  # the rest can be measured without an external strategy
        say(f"balance/next_churn is left out: the balancing strategy cannot be loaded: {str(error).splitlines()[0]}")
    if reference is not None:
        other = extended(reference.net, cfg.context_extension, reference.sequence_length).to(trained.device).eval()
    tokens = data.token_files.part(cfg.split)
    return measure(
        trained.net,
        data.evaluation_dataloader(cfg.split),
        label_tokens(data.corpus(), data.plan, cfg.split, data.tokenizer, tokens),
        torch.from_numpy(data.tokenizer.byte_lengths),
        vocabulary=torch.from_numpy(np.unique(tokens).astype(np.int64)),
        autocast=trained.autocast,
        reference=other,
        balancer=balancer and balancer.to(trained.device),
    )


def sliding(cfg: DictConfig, trained: Trained, data: CommentaryData) -> dict[str, Any]:
    """Loss and bits per byte over windows that start every ``cfg.stride`` tokens."""
    batches = data.evaluation_dataloader(cfg.split, stride=cfg.stride)
    lengths = torch.from_numpy(data.tokenizer.byte_lengths)
    cost = sliding_cost(trained.net, batches, cfg.stride, lengths, autocast=trained.autocast)
    return {"stride": cfg.stride, "text/sliding_loss": cost["loss"], "text/sliding_bpb": cost["bpb"]}


def default_output(cfg: DictConfig, trained: Trained) -> Path:
    """A separate file for each checkpoint, split and text, in the run's folder or next to a standalone checkpoint."""
    file, folder = trained.saved.file, trained.saved.file.parent
    named = [file.name if file.is_dir() else file.stem, cfg.split]
    named += [Path(cfg.data.path).stem] if cfg.data.path else []
    return (folder.parent if folder.name == "checkpoints" else folder) / f"evaluate-{'-'.join(named)}.json"


def held_out(cfg: DictConfig, trained: Trained) -> CommentaryData:
    """The text to measure on: the run's own, or ``data.path`` as one part.

    Raises:
        UserError: there is no text, or the windows are too long for the model.
    """
    own = trained.text()
    if not own and not cfg.data.path:
        raise UserError(f"{trained.saved.file} has no text of its own; give data.path=FILE split=all.")
    settings: dict[str, Any] = dict(own) | {"batch_size": 1, "eval_batch_size": cfg.eval_batch_size}
    if cfg.data.path:
        name = cfg.data.name or ("ipl" if is_commentary(at_home(cfg.data.path)) else "text")
        settings |= {"name": name, "path": cfg.data.path, "single_part": True}
    length = trained.sequence_length if cfg.data.sequence_length is None else cfg.data.sequence_length
    check_number(
        "data.sequence_length", length, at_least=2, whole=True, at_most=trained.net.config.max_position_embeddings
    )
    settings["sequence_length"] = length
    return CommentaryData(tokenizer=trained.tokenizer, **settings).prepare()


SHOWN = (
    ("text/loss", "{:.4f} nats/token"),
    ("text/bpb", "{:.4f} bits/byte"),
    ("text/sliding_loss", "{:.4f} nats/token"),
    ("text/sliding_bpb", "{:.4f} bits/byte"),
    ("text/tokens", "{:,}"),
    ("text/bytes", "{:,}"),
    ("balance/maxvio_global", "{:.4f}"),
    ("balance/maxvio_floor_global", "{:.4f}"),
    ("balance/experts_per_token_global", "{:.4f}"),
    ("balance/minvio_global", "{:.4f}"),
    ("balance/gini_global", "{:.4f}"),
    *((f"balance/load_p{percent}_global", "{:.4f} fair shares") for percent in ("05", "50", "95")),
    ("balance/entropy_global", "{:.4f}"),
    ("balance/cv_global", "{:.4f}"),
    ("balance/dead_experts_global", "{}"),
    ("balance/bias_norm", "{:.4f}"),
    ("balance/bias_spread", "{:.4f}"),
    ("balance/confidence", "{:.4f}"),
    ("balance/margin", "{:.4f}"),
    ("balance/next_churn", "{:.2%} of tokens"),
    ("balance/coactivation", "{:.4f}"),
    ("balance/coactivation_even", "{:.4f}"),
    ("balance/output_similarity", "{:.4f}"),
    ("balance/saturation", "{:.2%} of experts"),
    *((f"specialisation/{domain}/bits", "{:.4f} bits") for domain in (*DOMAINS, *VOCABULARY)),
)


def show(record: dict[str, Any], routed: Routed | None, output: Path) -> None:
    """Print the table, the loads of each layer and the strongest specialists to standard output."""
    results.print(
        f"{record['checkpoint']}, step {record['step']}, {record['split']} of {record['data']}", soft_wrap=True
    )
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, form in SHOWN:
        if key in record:
            table.add_row(key, form.format(record[key]))
    results.print(table)
    if routed is not None:
        grid = Table.grid(padding=(0, 2))
        for layer, load in zip(routed.layers, routed.loads.double(), strict=True):
            shares = " ".join(f"{share:.2f}" for share in (load / load.mean()).tolist())
            grid.add_row(f"layer {layer:02d} loads (1.00 is fair)", Text(shares))
        results.print(grid)
        for specialist in specialists(routed):
            results.print(str(specialist), soft_wrap=True)
    wrote = [output, *(output.with_suffix(s) for s in (".jsonl", ".parquet")[: 1 if routed is None else 2])]
    say(f"wrote {' and '.join(map(str, wrote))}")
