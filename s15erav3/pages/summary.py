"""Summary sections: a run's outcome and main metrics at the top; settings and next commands at the bottom."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from html import escape
from typing import Any

import yaml

from s15erav3.metrics import hover
from s15erav3.pages.page import Html, Section, details, table
from s15erav3.runs.baselines import baselines
from s15erav3.runs.reader import Run

WARNINGS = {
    "running": "The run is still training; this page shows its state at the time of writing.",
    "pruned": "A search pruned the run, as it was too far behind other trials.",
    "interrupted": "The run was interrupted.",
    "failed": "The run failed.",
    "broken": "A file of the run cannot be read.",
}


def summary_section(run: Run) -> Section:
    """Build the page's first section."""
    blocks = [Html(f'<dl class="facts">{"".join(_fact(*fact) for fact in facts(run))}</dl>')]
    if run.status in WARNINGS:
        said = WARNINGS[run.status] + (f" Reason: {run.reason}" if run.reason else "")
        todo = _list(to_go_on(run))
        blocks.insert(0, Html(f'<div class="warning"><p role="status">{escape(said)}</p>{todo}</div>'))
    return Section("Summary", "", blocks)


def settings_section(run: Run) -> Section:
    """Build the page's last section: next commands, versions, config, and overrides of the command line."""
    blocks = []
    left = []
    if todo := _list(to_use_it(run)):
        left.append(f"<h3>Next commands</h3>{todo}")
    if versions := run.result.get("versions"):
        rows = [(name, str(version)) for name, version in versions.items()]
        rows.append(("git commit", str(run.result.get("git_commit") or "none: an installed package")))
        left.append(details("Versions", table(("package", "version"), rows, "Versions of the run").markup).markup)
    if run.config:
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        pre = f'<pre class="scroll" tabindex="0" role="region" aria-label="Config">{escape(text)}</pre>'
        left.append(details("The whole config", pre).markup)
    if left:
        blocks.append(Html("".join(left), wide=False))
    if run.overrides:
        given = table(("setting", "value"), list(run.overrides.items()), "Settings on the command line")
        blocks.append(given._replace(wide=False))
    return Section("Settings and commands", "", blocks, folded=bool(blocks))


def shape(config: dict[str, Any]) -> str:
    """Describe layers, experts and strategy of a config in words."""
    model, experts, balancing = (group(config, name) for name in ("model", "experts", "balancing"))
    layers, count = model.get("num_layers"), experts.get("n_routed_experts")
    parts = [f"{layers} layers"] if layers else []
    if count:
        method, k = experts.get("topk_method"), experts.get("num_experts_per_tok")
        each = "which choose tokens" if method == "expert_choice" else f"{k} per token"
        each = f"about {each}" if method in ("threshold", "zero_experts") else each
        parts += [f"{count} experts, {each}", str(balancing.get("_target_", "")).rpartition(".")[2]]
    elif layers:
        parts.append("dense")
    return ", ".join(part for part in parts if part)


def group(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a group of a config; empty if it is missing or not a group."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def facts(run: Run) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and remark of each main metric of the run."""
    number = {key: value for key, value in run.result.items() if isinstance(value, int | float)}

    def remark(key: str, form: str) -> str:
        return form.format(number[key]) if key in number else ""

    steps, planned = number.get("steps", number.get("step")), number.get("max_steps")
    yield "status", run.status, "" if steps is None else f"step {steps:,}" + (f" of {planned:,}" if planned else "")
    for key, form, small in (
        ("val/bpb", "{:.4f}", "bits per byte" + remark("best/val/bpb", ", best {:.4f}")),
        ("val/loss", "{:.4f}", "nats per token" + remark("train/loss", ", train {:.4f}")),
        ("balance/maxvio_global", "{:.3f}", remark("balance/maxvio_floor_global", "random floor {:.3f}")),
        ("balance/dead_experts_global", "{:.0f}", "of all layers, on validation"),
        ("perf/tokens_per_second_overall", "{:,.0f}", remark("perf/mfu_overall", "{:.0%} of the device's peak")),
    ):
        if key in number:
            yield NAMES.get(key, key), form.format(number[key]), small
    if beside := baselines(run.folder):
        yield "baselines", beside, "bits per byte"
    if "params/total" in number:
        active = number.get("params/active")
        yield "parameters", short(number["params/total"]), f"{short(active)} active per token" if active else ""
    if "tokens" in number:
        yield "tokens seen", short(number["tokens"]), remark("epochs", "{:.1f} epochs")
    seconds = number.get("wall_seconds", number.get("seconds"))
    if seconds is not None:
        yield "wall time", duration(seconds), ""
    if "device" in run.result:
        yield "device", str(run.result["device"]), str(run.result.get("precision", ""))


NAMES = {
    "balance/maxvio_global": "MaxVio global",
    "balance/dead_experts_global": "dead experts",
    "perf/tokens_per_second_overall": "tokens/s",
}


def _fact(name: str, value: str, remark: str) -> str:
    small = f"<small>{escape(remark)}</small>" if remark else ""
    about = hover(next((key for key, shown in NAMES.items() if shown == name), name))
    title = f' title="{escape(about)}"' if about else ""
    return f"<div><dt{title}>{escape(name)}</dt><dd>{escape(value)}{small}</dd></div>"


def to_go_on(run: Run) -> Iterator[str]:
    """Yield commands for an incomplete run, as list items."""
    place = shlex.quote(str(run.folder.absolute()))
    if run.status in ("pruned", "interrupted", "failed") and _saved(run):
        yield _command(f"train resume={place}", "resume from its last checkpoint")
    yield _command(f"report {place}", "update this page")


def to_use_it(run: Run) -> Iterator[str]:
    """Yield commands for a run with a checkpoint, as list items."""
    place = shlex.quote(str(run.folder.absolute()))
    if not _saved(run):
        return
    yield _command(f"evaluate {place} split=test", "measure the best checkpoint on the test part")
    if run.result.get("causal", True):
        yield _command(f"sample {place}", "generate text; prompt=TEXT sets the beginning")


def _saved(run: Run) -> bool:
    return any((run.folder / "checkpoints").glob("*.ckpt"))


def _list(commands: Iterator[str]) -> str:
    items = "".join(commands)
    return f'<ul class="commands">{items}</ul>' if items else ""


def _command(rest: str, purpose: str) -> str:
    return f"<li><span>{escape(purpose)}</span><code>s15erav3 {escape(rest)}</code></li>"


def short(count: float) -> str:
    """Format 1234567 as 1.23 M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size * 0.9995:  # so that 999,700 is 1 M
            return f"{count / size:.3g} {letter}"
    return f"{count:.0f}"


def duration(seconds: float) -> str:
    """Format 3725 as 1 h 02 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def written_at() -> str:
    """Return the current time for the subtitle."""
    return time.strftime("%Y-%m-%d %H:%M:%S")
