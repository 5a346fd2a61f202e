"""Samples generated at each validation, with a slider over the steps, initially at the last one."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from s15erav3.pages.balance import evenly
from s15erav3.pages.commentary import Widget
from s15erav3.pages.page import Html, Section

HERE = Path(__file__).parent
MOST_STEPS = 100
"""Maximum validations in a page."""
CONTROLS = """<div class="controls">
  <label class="slider">
    <span>step</span><input type="range" min="0" max="{last}" value="{last}"><output></output>
  </label>
  <label><input type="checkbox"> All steps</label>
</div>"""


def samples(rows: Sequence[dict[str, Any]]) -> Widget | None:
    """Build the widget that shows the samples of one step or of all steps.

    Args:
        rows: rows of ``samples.jsonl`` with step, prompt and text; invalid rows are skipped.

    Returns:
        ``None`` if there are no samples.
    """
    known = [row for row in rows if all(isinstance(row.get(key), str) for key in ("prompt", "text"))]
    known.sort(key=lambda row: int(row["step"]))
    steps = [(int(step), list(its)) for step, its in groupby(known, key=lambda row: row["step"])]
    if not steps:
        return None
    shown = [steps[i] for i in evenly(len(steps), MOST_STEPS)]
    text = "At each validation the same prompts (in grey) were continued with the same random seed."
    if len(shown) < len(steps):
        text += f" Shown: {len(shown)} of {len(steps):,} validations."
    last = len(shown) - 1
    parts = "".join(_at(step, its, hidden=i < last) for i, (step, its) in enumerate(shown))
    markup = f'<div class="samples">{CONTROLS.format(last=last) if last else ""}{parts}</div>'
    section = Section("What the model wrote", text, [Html(markup)], folded=True)
    return Widget(section, (HERE / "samples.css").read_text(), (HERE / "samples.js").read_text())


def _at(step: int, rows: Sequence[dict[str, Any]], *, hidden: bool) -> str:
    texts = "".join(f"<blockquote>{_told(row['prompt'], row['text'])}</blockquote>" for row in rows)
    return f'<div class="at" data-step="{step}"{" hidden" if hidden else ""}><h3>Step {step:,}</h3>{texts}</div>'


def _told(prompt: str, text: str) -> str:
    before = escape(_plain(prompt)) or "(without a prompt)\n"
    return f'<span class="prompt">{before}</span>{escape(_plain(text))}'


def _plain(text: str) -> str:
    """Replace lone surrogates, which a foreign file may contain and which cannot be encoded."""
    return text.encode("utf-8", "replace").decode()
