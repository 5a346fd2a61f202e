"""Report section on training: all curves of ``metrics.csv`` that are not about balance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from s15erav3.figures.training import Series, curves
from s15erav3.pages.page import Chart, Section

Metrics = dict[str, NDArray[np.float64]]


class Shown(NamedTuple):
    """A chart and its metrics."""

    title: str
    unit: str
    metrics: dict[str, str]
    """Name and column of each curve."""
    caption: str


SHOWN = (
    Shown(
        "Loss",
        "nats per token",
        {"train": "train/loss", "validation": "val/loss"},
        "Cross-entropy of the next token; training is averaged over the steps since the point before.",
    ),
    Shown(
        "Bits per byte",
        "bits per byte",
        {"train": "train/bpb", "validation": "val/bpb"},
        "The loss over the bytes of the text, which compares tokenizers and sizes.",
    ),
    Shown(
        "Other losses",
        "loss",
        {"multi-token prediction": "train/mtp_loss", "balancing": "train/balance_loss"},
        "Terms of the training loss beside the next token's, before their weights.",
    ),
    Shown("Learning rate", "learning rate", {"learning rate": "train/learning_rate"}, "Of the first parameter group."),
    Shown("Gradient norm", "norm", {"gradient norm": "train/grad_norm"}, "L2 norm of all gradients, before clipping."),
    Shown("Throughput", "tokens/s", {"tokens/s": "perf/tokens_per_second"}, "Trained tokens per second of training."),
    Shown("Model FLOPs utilisation", "share of the peak", {"MFU": "perf/mfu"}, "Of the device's peak, in training."),
    Shown("Memory", "GB", {"memory": "perf/memory_gb"}, "The highest so far: of the GPU, or of the process on a CPU."),
)


FROM_ZERO = ("Throughput", "Model FLOPs utilisation", "Memory")


def learning_section(metrics: Metrics) -> Section:
    """Build charts of the available metrics."""
    charts = []
    for shown in SHOWN:
        series = [s for name, column in shown.metrics.items() if (s := series_of(metrics, column, name)) is not None]
        if series:
            fig = curves(shown.title, shown.unit, series, from_zero=shown.title in FROM_ZERO)
            charts.append(Chart(fig, shown.caption))
    text = "" if charts else "Nothing has been logged yet: there is no row in metrics.csv, or no such file."
    return Section("Learning", text, charts)


def series_of(metrics: Metrics, column: str, name: str) -> Series | None:
    """Return the rows that have a metric; ``None`` if there are none."""
    values, steps = metrics.get(column), metrics.get("step")
    if values is None or steps is None or not np.isfinite(values).any():
        return None
    there = np.isfinite(values)
    tokens = metrics.get("tokens")
    seen = None if tokens is None else tokens[there]
    return Series(name, steps[there], values[there], seen)
