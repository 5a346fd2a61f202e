"""``s15erav3 evaluate``: a checkpoint's loss, bits per byte and expert balance on a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table

from s15erav3 import cli, runs
from s15erav3.balancing.base import stack_loads
from s15erav3.balancing.diagnostics import (
    coefficient_of_variation,
    dead_experts,
    load_entropy,
    max_violation,
    random_floor,
)
from s15erav3.data.corpus import is_commentary
from s15erav3.data.datamodule import CommentaryData
from s15erav3.errors import UserError, check_number, nearest
from s15erav3.restore import Trained, restore, with_checkpoint
from s15erav3.screen import console
from s15erav3.training.losses import chunked_cross_entropy
from s15erav3.training.metrics import BitsPerByte, ExpertLoads

OWN_PARTS = ("train", "val", "test")


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 evaluate --help``."""
    cli.run("evaluate", evaluate, with_checkpoint("evaluate", arguments))
    return 0


def evaluate(cfg: DictConfig) -> float:
    """Measure, print a table, write JSON.

    Returns:
        bits per byte.

    Raises:
        UserError: checkpoint, text or a setting is unusable.
    """
    trained = restore(cfg)
    data = held_out(cfg, trained)
    result = measure(trained, data, cfg.split)
    output = Path(cfg.output).expanduser() if cfg.output else default_output(cfg, trained)
    saved = trained.saved
    text = {"checkpoint": str(saved.file), "step": saved.step, "data": str(data.corpus().path), "split": cfg.split}
    record = text | {"sequence_length": data.length} | result
    try:
        runs.replace_text(output, json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}; name another file.") from error
    show(record, output)
    return float(result["bpb"])


def default_output(cfg: DictConfig, trained: Trained) -> Path:
    """A file of its own for each checkpoint, split and text, in the run's folder or beside a lone checkpoint."""
    folder = trained.saved.file.parent
    file = trained.saved.file
    named = [
        file.name if file.is_dir() else file.stem,
        cfg.split,
        *([Path(cfg.data.path).stem] if cfg.data.path else []),
    ]
    return (folder.parent if folder.name == "checkpoints" else folder) / f"evaluate-{'-'.join(named)}.json"


def held_out(cfg: DictConfig, trained: Trained) -> CommentaryData:
    """The text to measure on: the run's own, or ``data.path`` as one part.

    Raises:
        UserError: the split does not go with the text.
    """
    own = {k: v for k, v in trained.saved.config.get("data", {}).items() if k != "max_epochs"}
    if not own and not cfg.data.path:
        raise UserError(f"{trained.saved.file} brings no text along; give data.path=FILE split=all.")
    settings: dict[str, Any] = dict(own) | {"batch_size": 1, "eval_batch_size": cfg.eval_batch_size}
    parts = ("all",) if cfg.data.path else OWN_PARTS
    if cfg.split not in parts:
        hint = "a file given by data.path is measured whole: split=all" if cfg.data.path else nearest(cfg.split, parts)
        if cfg.split == "all":
            hint = "split=all goes with data.path=FILE; the run's own text has train, val and test."
        raise UserError(f"split={cfg.split} is not there; {hint}")
    if cfg.data.path:
        name = cfg.data.name or ("ipl" if is_commentary(Path(cfg.data.path).expanduser()) else "text")
        settings |= {"name": name, "path": cfg.data.path, "single_part": True}
    length = cfg.data.sequence_length or trained.sequence_length
    check_number(
        "data.sequence_length", length, at_least=2, whole=True, at_most=trained.net.config.max_position_embeddings
    )
    check_number("eval_batch_size", cfg.eval_batch_size, at_least=1, whole=True)
    settings["sequence_length"] = length
    return CommentaryData(tokenizer=trained.tokenizer, **settings).prepare()


@torch.no_grad()
def measure(trained: Trained, data: CommentaryData, part: Any) -> dict[str, Any]:
    """Loss, bpb and balance over every token of ``part``, and the loads themselves."""
    net, config = trained.net, trained.net.config
    cost = BitsPerByte().to(trained.device)
    layers = list(config.moe_layers[: config.num_moe_layers])
    counted = ExpertLoads(len(layers), config.n_routed_experts).to(trained.device)
    lengths = torch.from_numpy(data.tokenizer.byte_lengths).to(trained.device)
    for batch in data.evaluation_dataloader(part):
        windows = batch.to(trained.device)
        with trained.autocast():
            out = net(windows[:, :-1])
            targets = windows[:, 1:]
            nll = chunked_cross_entropy(out.hidden.flatten(0, 1), net.lm_head.weight, targets.flatten(), 512)
        cost.update(nll, lengths[targets])
        if out.routings:
            counted.update(stack_loads(out.routings))
    result: dict[str, Any] = {key: value.item() for key, value in cost.compute().items()}
    if layers:
        loads = counted.compute().cpu()
        result |= {
            "balance/maxvio_global": max_violation(loads).mean().item(),
            "balance/maxvio_floor": random_floor(
                int(result["tokens"]), config.n_routed_experts, config.num_experts_per_tok
            ),
            "balance/entropy_global": load_entropy(loads).mean().item(),
            "balance/cv_global": coefficient_of_variation(loads).mean().item(),
            "balance/dead_experts_global": int(dead_experts(loads).sum()),
            "layers": layers,
            "load": loads.tolist(),
        }
    return result


def show(record: dict[str, Any], output: Path) -> None:
    """Print the table."""
    table = Table(title=f"{record['checkpoint']}, step {record['step']}, {record['split']} of {record['data']}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, form in (
        ("loss", "{:.4f} nats/token"),
        ("bpb", "{:.4f} bits/byte"),
        ("tokens", "{:,}"),
        ("bytes", "{:,}"),
        ("balance/maxvio_global", "{:.4f}"),
        ("balance/maxvio_floor", "{:.4f}"),
        ("balance/entropy_global", "{:.4f}"),
        ("balance/cv_global", "{:.4f}"),
        ("balance/dead_experts_global", "{}"),
    ):
        if key in record:
            table.add_row(key, form.format(record[key]))
    console.print(table)
    for layer, load in zip(record.get("layers", []), record.get("load", []), strict=True):
        fair = sum(load) / len(load)
        shares = " ".join(f"{tokens / fair:.2f}" for tokens in load)
        console.print(f"layer {layer:02d} loads (1.00 is fair): {shares}", soft_wrap=True)
    console.print(f"wrote {output}", soft_wrap=True)
