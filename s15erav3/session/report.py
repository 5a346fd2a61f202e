"""``report.html``: one self-contained page about a run, complete or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf

from s15erav3.analysis.collect import Routed
from s15erav3.analysis.measure import measure
from s15erav3.analysis.trace import sample_passages, trace
from s15erav3.callbacks.run_state import collect_rng, restore_rng
from s15erav3.cli.overrides import literal
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.labels import label_tokens
from s15erav3.data.windows import EvaluationBatches, EvaluationWindows
from s15erav3.errors import UserError
from s15erav3.loading import Trained, restore
from s15erav3.pages.ablation import ablation_sections
from s15erav3.pages.balance import balance_section
from s15erav3.pages.commentary import Widget, commentary
from s15erav3.pages.learning import learning_section
from s15erav3.pages.page import Section, write_page
from s15erav3.pages.routing import coactivation_section, specialisation_section
from s15erav3.pages.samples import samples
from s15erav3.pages.summary import group, settings_section, shape, summary_section, written_at
from s15erav3.runs.reader import Run, find_runs, read_balance, read_metrics, read_run
from s15erav3.runs.records import read_lines

MOST_STEPS = 200
"""Largest number of lines of ``balance.jsonl`` that are used."""
FULL = "The experts' specialisation cannot be shown: the device's memory is full; use trainer.accelerator=cpu."


class Reading(NamedTuple):
    """Measurements of the model on a part of its validation text."""

    routed: Routed
    widget: Widget | None
    """``None`` if there is no passage to show."""
    about: str
    """One sentence about the text that was read."""
    cost: dict[str, float | int]
    """``loss`` (nats per token), ``bpb``, ``tokens`` and ``bytes`` of that text."""


def write_report(
    run_dir: Path,
    output: Path | None = None,
    *,
    max_tokens: int = 32_768,
    accelerator: str = "auto",
    precision: str = "auto",
) -> Path:
    """Write one page about the run in a folder, complete or not, without changing the state of the random generators.

    Args:
        output: the file; ``None`` means ``report.html`` in the folder.
        max_tokens: validation tokens that the best checkpoint, or else the last one, reads; 0 for none.
        accelerator, precision: used for reading, as in the group ``trainer``.

    Returns:
        The file.

    Raises:
        UserError: there is no run in the folder, or the file cannot be written.
    """
    refuse_foreign(run_dir)
    run, metrics, balance = read_run(run_dir), read_metrics(run_dir), read_balance(run_dir, MOST_STEPS)
    sections, widgets = [learning_section(metrics)], written(run_dir)
    sections += [widget.section for widget in widgets]
    if has_experts(run) or balance is not None:
        sections.insert(0, balance_section(metrics, balance))
        generators = collect_rng()
        try:
            if not max_tokens:
                raise UserError("the model reads nothing with max_tokens=0.")
            seen = look(run_dir, max_tokens, accelerator, precision)
            sections += [specialisation_section(seen.routed, seen.about), coactivation_section(seen.routed, seen.about)]
            if seen.widget:
                widgets.append(seen.widget)
                sections.append(seen.widget.section._replace(folded=True))
        except UserError as error:
            sections.append(Section("Specialisation", f"The experts' specialisation cannot be shown: {error}", []))
        except torch.OutOfMemoryError:
            sections.append(Section("Specialisation", FULL, []))
        finally:
            restore_rng(generators)
        sections += ablation_sections(run_dir)
    file = output or run_dir / "report.html"
    place = run_dir.absolute()
    about = [shape(run.config), f"seed {run.config['seed']}" if "seed" in run.config else "", f"written {written_at()}"]
    try:
        write_page(
            file,
            f"Run {place.parent.name}/{place.name}",
            " \u00b7 ".join(part for part in about if part),
            [summary_section(run), *sections, settings_section(run)],
            styles=[widget.style for widget in widgets],
            scripts=[widget.script for widget in widgets],
        )
    except OSError as error:
        raise UserError(f"output={file} cannot be written: {error.strerror}; name another file.") from error
    return file


def written(run_dir: Path) -> list[Widget]:
    """One chapter with the samples written during training; empty if there are none."""
    try:
        found = samples(read_lines(run_dir / "samples.jsonl").rows)
    except OSError:
        return []
    return [found] if found else []


def refuse_foreign(run_dir: Path) -> None:
    """Refuse a folder that is not a run folder.

    Raises:
        UserError: it does not exist, or it is a sweep or something else.
    """
    if (run_dir / ".hydra" / "config.yaml").is_file():
        return
    if not run_dir.is_dir():
        raise UserError(f"run_dir={run_dir} is not a folder; give a run's folder, such as outputs/DATE/TIME.")
    if runs := find_runs(run_dir):
        raise UserError(
            f"run_dir={run_dir} holds {len(runs)} runs; give one of them, such as {runs[0]}, or use "
            f"s15erav3 compare {run_dir} for all."
        )
    raise UserError(f"run_dir={run_dir} is not a run's folder: it has no .hydra/config.yaml.")


def has_experts(run: Run) -> bool:
    """Whether the run's config has routed experts."""
    return bool(group(run.config, "experts").get("n_routed_experts"))


def look(run_dir: Path, max_tokens: int = 32_768, accelerator: str = "auto", precision: str = "auto") -> Reading:
    """Run the best or last checkpoint on a part of its validation text.

    Raises:
        UserError: there is no checkpoint or no text, or the model has no experts.
    """
    settings: dict[str, Any] = {"checkpoint": literal(str(run_dir)), "context_extension": 1}
    trained = restore(OmegaConf.create(settings | {"trainer": {"accelerator": accelerator, "precision": precision}}))
    if not trained.net.config.num_moe_layers:
        raise UserError(f"the model of {run_dir} has no experts; choose a run with experts, such as experts=e8.")
    return read(trained, CommentaryData(tokenizer=trained.tokenizer, **trained.text()).prepare(), max_tokens)


def read(trained: Trained, data: CommentaryData, max_tokens: int) -> Reading:
    """Make one pass over the first ``max_tokens`` tokens of the validation part."""
    config, tokens = trained.net.config, data.token_files.part("val")
    labels = label_tokens(data.corpus(), data.plan, "val", data.tokenizer, tokens)
    windows = EvaluationWindows(tokens[: max_tokens + 1], data.length)
    batches = (torch.stack([windows[i] for i in batch]) for batch in EvaluationBatches(windows, data.eval_batch_size))
    lengths = torch.from_numpy(data.tokenizer.byte_lengths)
    vocabulary = torch.from_numpy(np.unique(tokens).astype(np.int64))
    measured = measure(trained.net, batches, labels, lengths, vocabulary=vocabulary, autocast=trained.autocast)
    assert measured.routed is not None
    slots = config.num_moe_layers * config.num_experts_per_tok
    passages = sample_passages(tokens, labels, data.tokenizer.end_of_text, slots=slots)
    traced = trace(trained.net, tokens, passages, data.length, autocast=trained.autocast)
    count, of = int(measured.cost["tokens"]), len(tokens) - 1
    about = (
        f"As {trained.saved.file.name} (step {trained.saved.step:,}) routes "
        + (f"the first {count:,} of {of:,}" if count < of else f"all {count:,}")
        + " tokens of the validation text."
    )
    widget = commentary(traced, tokens, labels, data.tokenizer) if traced is not None else None
    return Reading(measured.routed, widget, about, measured.cost)
