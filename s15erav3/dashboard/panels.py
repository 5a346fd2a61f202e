"""Panels of the dashboard: Weights & Biases panels of this package's metrics, and how to read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import wandb_workspaces.reports.v2 as wr

Panels = list[Any]
BPB, MAXVIO = "val/bpb", "balance/maxvio_global"
SETTINGS = ("choices.experts", "choices.balancing", "choices.optimizer", "optimizer.lr", "seed")
"""Keys of a run's W&B config that a sweep varies."""
MOST_RUNS = 20
"""Maximum number of runs, or groups of runs, in a panel. W&B's default is 10, fewer than there are strategies."""
SERIES = "(E|top|bottom|q)[0-9]+"
"""Series of a layer: every expert, or the most and the least loaded ones and quantiles."""

LEARNING = (
    "val/bpb is bits per UTF-8 byte of held-out text: it compares runs of any tokenizer and size. Losses are nats "
    "per token, and compare only runs that share a tokenizer."
)
BALANCE = (
    "MaxVio is (largest load - mean load) / mean load, mean over layers: 0 is even, 1 means that an expert gets "
    "twice its share. Few tokens never fall evenly: the floor is what perfectly even but random routing would show "
    "at the step's token count, so a step is as balanced as it can be once its MaxVio reaches the floor. MaxVio of "
    "the validation part counts far more tokens, and is the figure to compare runs by. Entropy is 1 where loads are "
    "even. MaxVio by layer shows one run, the first that is visible."
)
SWEEP = (
    "Every line of the first panel, and every point of the second, is a run as it stands at its end; good runs lie "
    "to the lower left. Curves by a setting are medians over the runs that share it, with their range from least to "
    "most: a difference within the range may be the seed's."
)
EVERYONE = (
    "As of each validation: a row is a layer, a column an expert. A load of 1 is the expert's fair share. A positive "
    "bias makes an expert easier to choose; it never changes its weight. The histogram counts experts by their load, "
    "for one run, the first that is visible. The table of samples of all steps comes at a run's end."
)
LAYER = (
    "A line for each expert, of one run: the first that is visible. Expert 3 of one run is not expert 3 of another, so"
    " a mean over runs would say nothing. A load of 1 is the fair share, 0 a dead expert. Bias updates that stay large"
    " re-route tokens for the sake of balance alone; a bias that keeps growing supports an expert that the router does "
    "not choose. A layer of more than 21 experts shows its most and least loaded ones (top1, bottom1; who they are may"
    " change from step to step) and quantiles across all of its experts (q050 is the median)."
)
SPEED = "Means since the row before. On a CPU the peak is that of a measured matrix product."


class Part(NamedTuple):
    """A section of the workspace; in the report a heading, a paragraph and a grid."""

    title: str
    text: str
    panels: Panels
    is_open: bool = True


def parts(layers: Sequence[int], x_axis: str) -> list[Part]:
    """Return all parts for models whose MoE layers have these numbers."""
    return [
        Part("Learning", LEARNING, learning(x_axis)),
        Part("Balance", BALANCE, balance(x_axis)),
        Part("Sweep", SWEEP, sweep(x_axis)),
        Part("All experts", EVERYONE, everyone(x_axis)),
        *(Part(f"Layer {layer}", LAYER, one_layer(layer, x_axis), is_open=False) for layer in layers),
        Part("Speed", SPEED, speed(x_axis), is_open=False),
    ]


def learning(x: str) -> Panels:
    """Return panels of losses, bits per byte and the learning rate."""
    return [
        line(x, "Training loss", "train/loss"),
        line(x, "Validation loss", "val/loss"),
        line(x, "Learning rate", "train/learning_rate"),
        line(x, "Training bits per byte", "train/bpb"),
        line(x, "Validation bits per byte", BPB),
    ]


def balance(x: str) -> Panels:
    """Return panels of how evenly experts are used."""
    return [
        line(x, "MaxVio of a step, and its floor", "balance/maxvio_batch", "balance/maxvio_floor"),
        line(x, "MaxVio of the validation part, and its floor", MAXVIO, "balance/maxvio_floor_global"),
        lines(x, "MaxVio by layer, and the floor", "(layer_[0-9]+/maxvio|balance/maxvio_floor)"),
        line(x, "Entropy of loads", "balance/entropy"),
        line(x, "Dead experts", "balance/dead_experts"),
        line(x, "Tokens re-routed by one step", "balance/step_churn", "balance/weight_churn", "balance/churn"),
    ]


def sweep(x: str) -> Panels:
    """Return panels of settings and their results."""
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), log=key.endswith(".lr") or None) for key in SETTINGS]
    columns += [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(metric)) for metric in (BPB, MAXVIO)]
    grouped = [(choice, metric) for metric in (BPB, MAXVIO) for choice in ("balancing", "experts")]
    return [
        wr.ParallelCoordinatesPlot(title="Settings, learning and balance", columns=columns),
        wr.ScatterPlot(title="Learning against balance", x=wr.SummaryMetric(MAXVIO), y=wr.SummaryMetric(BPB)),
        wr.ParameterImportancePlot(with_respect_to=BPB),
        *(
            line(
                x,
                f"{metric} by {choice}",
                metric,
                groupby=wr.Config(f"choices.{choice}"),
                groupby_aggfunc="median",
                groupby_rangefunc="minmax",
                max_runs_to_show=MOST_RUNS,
            )
            for choice, metric in grouped
        ),
    ]


def everyone(x: str) -> Panels:
    """Return media of all layers and experts, and samples: during the run, and after it for all steps."""
    return [
        wr.MediaBrowser(title="Load: layers x experts", media_keys=["media/load_heatmap"]),
        wr.MediaBrowser(title="Bias: layers x experts", media_keys=["media/bias_heatmap"]),
        wr.MediaBrowser(title="What the model writes", media_keys=["media/samples"]),
        line(x, "Loads of all experts", "media/load_histogram", max_runs_to_show=1),
        wr.WeavePanelSummaryTable(table_name="samples"),
    ]


def one_layer(layer: int, x: str) -> Panels:
    """Return panels of all experts of a layer, or of extremes and quantiles for wide layers."""
    return [
        lines(x, f"Load of each expert, layer {layer}", f"load_L{layer:02d}/{SERIES}"),
        lines(x, f"Bias of each expert, layer {layer}", f"bias_L{layer:02d}/{SERIES}"),
        lines(x, f"Bias update of each expert, layer {layer}", f"bias_update_L{layer:02d}/{SERIES}"),
    ]


def speed(x: str) -> Panels:
    """Return panels of the cost of a step."""
    return [
        line(x, "Tokens per second", "perf/tokens_per_second"),
        line(x, "Share of the hardware's peak", "perf/mfu"),
        line(x, "Memory, GB", "perf/memory_gb"),
    ]


def line(x: str, title: str, *metrics: str, **settings: Any) -> wr.LinePlot:
    """Return a plot with a line for each metric of each run."""
    return wr.LinePlot(title=title, x=x, y=list(metrics), **settings)


def lines(x: str, title: str, names: str) -> wr.LinePlot:
    """Return a plot with a line for each metric whose whole name matches, for a single run: see LAYER."""
    return wr.LinePlot(title=title, x=x, metric_regex=f"^{names}$", max_runs_to_show=1)
