"""Report section on the removal of experts, from the file that ``evaluate ablate=experts`` leaves in a run's folder."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from s15erav3.analysis.effects import Effects
from s15erav3.analysis.effects_table import SUFFIX, Ablation, read_ablation
from s15erav3.analysis.effects_text import (
    DOMAINS,
    LARGEST,
    SPECIALISTS,
    domain_rows,
    largest_rows,
    specialist_rows,
    verdict,
)
from s15erav3.analysis.tables import SPARSE
from s15erav3.figures.heatmap import change_heatmap
from s15erav3.pages.page import Chart, Choice, Html, Section, table

TITLE = "Cost without each expert"
MODES = {"reroute": "its tokens go to their next best expert", "zero": "its output is 0"}


def ablation_sections(run_dir: Path) -> list[Section]:
    """Build the section from the newest readable file; empty if there is none."""
    for file in sorted(run_dir.glob(f"*{SUFFIX}"), key=lambda file: -file.stat().st_mtime):
        try:
            return [ablation_section(read_ablation(file))]
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return []


def whole_text(effects: Effects) -> go.Figure:
    """Plot the whole text's change without each expert, layers x experts."""
    return change_heatmap(effects.change[0], effects.layers, TITLE)


def ablation_section(found: Ablation) -> Section:
    """Build the section: layers x experts by value, the largest effects, specialists against other experts.

    Names of players are left out of the figures: there are too many, and each occurs in few documents.
    """
    effects, about = found
    options: dict[tuple[str, ...], go.Figure] = {
        ("all" if domain == "all" else f"{domain}: {value}",): change_heatmap(change, effects.layers, TITLE)
        for (domain, value), change in zip(effects.groups, effects.change, strict=True)
        if domain not in SPARSE
    }
    caption = "Orange: these tokens cost more bits per byte when the expert is removed; blue: less."
    blocks: list[Chart | Choice | Html] = [
        Choice(TITLE, ("tokens",), options, caption, wide=True),
        table(LARGEST, largest_rows(effects), "Bits per byte more without an expert: the largest of the whole text"),
    ]
    if effects.domains:
        of = "Bits per byte more of a value without its specialist, and without another expert of that layer"
        blocks.append(table(DOMAINS, domain_rows(effects), f"{of}: means over the values of a domain"))
        blocks.append(table(SPECIALISTS, specialist_rows(effects), f"{of}: each value"))
    text = (
        f"One expert at a time is removed ({MODES[about['ablate_mode']]}) from {Path(about['checkpoint']).name} "
        f"(step {about['step']:,}) on {about['ablation/tokens']:,} tokens of the part {about['split']}. Intervals: "
        f"95 %, over {effects.documents[0]:,} documents. {verdict(effects)}"
    )
    return Section("Removing experts", text, blocks, folded=True)
