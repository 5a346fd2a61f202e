"""Report section on training: all curves of ``metrics.csv`` that are not about balance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from s15erav3.figures.ruler import STEPS, TOKENS
from s15erav3.figures.spent import spent
from s15erav3.figures.training import Series, curves
from s15erav3.pages.page import Chart, Choice, Section

Metrics = dict[str, NDArray[np.float64]]


class Shown(NamedTuple):
    """A chart and its metrics."""

    title: str
    unit: str
    metrics: dict[str, str]
    """Name and column of each curve."""
    caption: str
    from_zero: bool = False
    any_ruler: bool = False
    """Whether the reader chooses what the x axis measures."""


SHOWN = (
    Shown(
        "Loss",
        "nats per token",
        {"train": "train/loss", "validation": "val/loss"},
        "Cross-entropy of the next token; training is averaged over the steps since the point before.",
        any_ruler=True,
    ),
    Shown(
        "Bits per byte",
        "bits per byte",
        {"train": "train/bpb", "validation": "val/bpb"},
        "The loss over the bytes of the text, which compares tokenizers and sizes.",
        any_ruler=True,
    ),
    Shown(
        "Other losses",
        "loss",
        {"multi-token prediction": "train/mtp_loss", "balancing": "train/balance_loss"},
        "Terms of the training loss beside the next token's, before their weights.",
    ),
    Shown("Learning rate", "learning rate", {"learning rate": "train/learning_rate"}, "Of the first parameter group."),
    Shown("Gradient norm", "norm", {"gradient norm": "train/grad_norm"}, "L2 norm of all gradients, before clipping."),
    Shown(
        "Throughput", "tokens/s", {"tokens/s": "perf/tokens_per_second"}, "Trained tokens per second of training.", True
    ),
    Shown(
        "Model FLOPs utilisation", "share of the peak", {"MFU": "perf/mfu"}, "Of the device's peak, in training.", True
    ),
    Shown(
        "Memory",
        "GB",
        {"memory": "perf/memory_gb"},
        "The highest so far: of the GPU, or of the process on a CPU.",
        True,
    ),
)


def learning_section(metrics: Metrics) -> Section:
    """Build charts of the available metrics."""
    charts: list[Chart | Choice] = []
    for shown in SHOWN:
        rulers = [name for name in spent(metrics) if shown.any_ruler or name == STEPS]
        figures: dict[tuple[str, ...], go.Figure] = {}
        for over in rulers:
            columns = shown.metrics.items()
            series = [s for name, column in columns if (s := series_of(metrics, column, name, over)) is not None]
            if series:
                figures[over,] = curves(shown.title, shown.unit, series, over=over, from_zero=shown.from_zero)
        if len(figures) > 1:
            charts.append(Choice(shown.title, ("Over",), figures, shown.caption))
        else:
            charts += [Chart(figure, shown.caption) for figure in figures.values()]
    text = "" if charts else "Nothing has been logged yet: there is no row in metrics.csv, or no such file."
    return Section("Learning", text, charts)


def series_of(metrics: Metrics, column: str, name: str, over: str = STEPS) -> Series | None:
    """Return the rows that have a metric, over a ruler; ``None`` if there are none."""
    values, along = metrics.get(column), spent(metrics)
    if values is None or over not in along or not np.isfinite(values).any():
        return None
    there = np.isfinite(values)
    tokens = along.get(TOKENS)
    return Series(name, along[over][there], values[there], None if tokens is None else tokens[there])
