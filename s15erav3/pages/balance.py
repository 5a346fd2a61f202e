"""Report section on a run's load balance.

Shapes: S logged steps, L MoE layers, E routed experts.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from s15erav3.balancing.diagnostics import PERCENTILES
from s15erav3.figures.balance import experts_over_time, floor_line, maxvio_by_layer
from s15erav3.figures.heatmap import bias_over_steps, fair_shares, load_over_steps
from s15erav3.figures.style import layer_names
from s15erav3.figures.training import Series, curves
from s15erav3.pages.learning import Metrics, series_of
from s15erav3.pages.page import Chart, Choice, Section
from s15erav3.runs.reader import Balance

FRAMES = 100
"""Maximum steps of a slider."""
NUMBERS = 80_000
"""Maximum loads (or biases) embedded in a page as frames, and as lines; large models show fewer steps."""

Steps = NDArray[np.intp]


def balance_section(metrics: Metrics, balance: Balance | None) -> Section:
    """Build the section: loads and biases of all experts over the steps."""
    if balance is None:
        return Section("Balance", "No load has been logged yet: balance.jsonl is empty or missing.", [])
    text = (
        "The load of an expert is the number of assignments that it gets, over its fair share: 1.0 is even. MaxVio is "
        "the busiest expert's load less 1. Loads of training are those of one optimizer step, of so few tokens that "
        "even random choices are uneven: that is the floor."
    )
    return Section("Balance", text, [*sliders(balance), *unevenness(metrics, balance), *lines(balance)])


def sliders(balance: Balance) -> list[Chart]:
    """Build heatmaps of layers x experts with up to ``FRAMES`` steps."""
    kept = evenly(len(balance.steps), min(FRAMES, room(balance)))
    steps = balance.steps[kept].tolist()
    charts = [
        Chart(
            load_over_steps(balance.load[kept], balance.layers, steps),
            "Blue experts have less than their share, orange ones more; twice the share and beyond look the same.",
            wide=True,
        )
    ]
    if np.any(balance.bias):
        charts.append(
            Chart(
                bias_over_steps(balance.bias[kept], balance.layers, steps),
                "What is added to an expert's score when experts are chosen, after the step's bias update.",
                wide=True,
            )
        )
    return charts


def unevenness(metrics: Metrics, balance: Balance) -> list[Chart]:
    """Build charts of MaxVio by layer and in validation, entropy and dead experts."""
    of_step, of_validation = (
        _median(metrics, name) for name in ("balance/maxvio_floor", "balance/maxvio_floor_global")
    )
    charts = [
        Chart(
            maxvio_by_layer(balance.load, balance.layers, balance.steps, of_step, balance.tokens),
            "Of single optimizer steps; values below the floor are chance.",
        )
    ]
    overall = _present(
        series_of(metrics, "balance/maxvio_batch", "of a training step"),
        series_of(metrics, "balance/maxvio_global", "over all of validation"),
    )
    if overall:
        at = np.concatenate([np.asarray(series.x) for series in overall])
        lows = [
            *(s._replace(name="floor of a step") for s in floor_line(of_step, at)),
            *(s._replace(name="floor of validation", dash="dot") for s in floor_line(of_validation, at)),
        ]
        charts.append(
            Chart(
                curves("MaxVio, mean over layers", "MaxVio", [*overall, *lows], log=True),
                "Validation counts many more tokens, and so has a lower floor.",
            )
        )
    shares = fair_shares(balance.load)
    percentiles = [
        Series(f"percentile {percent}", balance.steps, np.percentile(shares, percent, axis=(1, 2)), balance.tokens)
        for percent in PERCENTILES
    ]
    charts.append(
        Chart(
            curves("Percentiles of the loads", "load over the fair share", percentiles),
            "Of single optimizer steps, over the experts of all layers; 1 is the fair share.",
        )
    )
    for title, unit, caption, names in (
        (
            "Entropy of the loads",
            "entropy over its maximum",
            "1 is perfectly even; mean over layers.",
            {"balance/entropy": "of a training step", "balance/entropy_global": "over all of validation"},
        ),
        (
            "Dead experts",
            "experts",
            "Experts without a single token, of all layers together.",
            {"balance/dead_experts": "in a training step", "balance/dead_experts_global": "in all of validation"},
        ),
    ):
        if series := _present(*(series_of(metrics, column, name) for column, name in names.items())):
            charts.append(Chart(curves(title, unit, series, from_zero=title == "Dead experts"), caption))
    return charts


def _median(metrics: Metrics, name: str) -> float | None:
    found = metrics.get(name, np.empty(0))
    found = found[np.isfinite(found)]
    return float(np.median(found)) if len(found) else None


def _present(*series: Series | None) -> list[Series]:
    return [one for one in series if one is not None]


def lines(balance: Balance) -> list[Choice]:
    """Build line charts of the experts' loads and biases for each layer."""
    kept = evenly(len(balance.steps), room(balance))
    steps, names = balance.steps[kept], layer_names(balance.layers)
    loads = fair_shares(balance.load[kept])
    tables = [("Loads over time", "load over the fair share", loads, 1.0, "At each logged step.")]
    if np.any(balance.bias):
        tables.append(("Biases over time", "bias", balance.bias[kept], 0.0, "After each logged step."))
    found = []
    for title, unit, values, fair, caption in tables:
        options: dict[tuple[str, ...], go.Figure] = {
            (name,): experts_over_time(values[:, i], steps, title, unit, fair) for i, name in enumerate(names)
        }
        found.append(Choice(title, ("layer",), options, caption, wide=True))
    return found


def room(balance: Balance) -> int:
    """Return the number of steps per expert that fit in the page."""
    return int(np.clip(NUMBERS // balance.load[0].size, 25, 200))


def evenly(n: int, at_most: int) -> Steps:
    """Return up to ``at_most`` evenly spaced indices below n, including the first and the last."""
    return np.unique(np.linspace(0, n - 1, min(n, at_most)).round().astype(int))
