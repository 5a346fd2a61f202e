"""The groups ``callbacks`` and ``logger``: monitoring and records of a training."""

from __future__ import annotations

import operator
from typing import Annotated, Literal

from annotated_types import Ge, Le, Predicate
from typing_extensions import Doc, TypedDict

from s15erav3.cli.schema.kinds import (
    AtLeastOne,
    Count,
    Must,
    Path,
    Positive,
    Real,
    Share,
    Text,
    Whole,
    closed,
    open_ended,
)

LEAST = 1e-6
"""Smallest divisor of logits for which they stay finite in fp32."""

RunDir = Annotated[Path, Doc("the run's folder")]
RunName = Annotated[Text | None, Doc("the run's name; null: its distinguishing settings, as 'e16 loss_free s1'")]
Temperature = Annotated[
    Real,
    Ge(0),
    Predicate(lambda value: value == 0 or value >= LEAST),
    Must(f"0, or a number of at least {LEAST}"),
    Doc("divides the logits; 0: the likeliest token"),
]
TopK = Annotated[Count, Doc("only this many of the likeliest tokens; 0: all")]
TopP = Annotated[Positive, Le(1), Doc("only the fewest tokens with this share of the probability; 1: all")]
MinP = Annotated[Share, Doc("only tokens at least this share as likely as the likeliest; 0: all")]
RepetitionPenalty = Annotated[
    Real, Ge(LEAST), Le(1 / LEAST), Doc("above 1 makes repeated tokens less likely; 1: no penalty")
]


@closed
class Media(TypedDict, total=False):
    """Heatmaps of load and bias at each validation, for loggers that support them."""


@closed
class Watch(TypedDict, total=False):
    """The progress line."""


@closed
class Telemetry(TypedDict, total=False):
    """Rows of metrics."""

    run_dir: RunDir
    every_n_steps: Annotated[AtLeastOne, Doc("optimizer steps between two rows of metrics")]
    per_expert: Annotated[
        bool | Literal["auto"],
        Must("true, false or auto"),
        Doc("log every expert's load, bias and update; auto: a summary for layers with more than 21 experts"),
    ]
    extremes: Annotated[Count, Doc("with per_expert=auto: number of most and of least loaded experts")]


@closed
class Samples(TypedDict, total=False):
    """Texts that the model writes at each validation."""

    run_dir: RunDir
    prompts: Annotated[
        str | list[str] | None,
        Must("null, a text, or a list of texts"),
        Doc("prompts; null: those of data.prompts"),
    ]
    max_new_tokens: Annotated[Whole, Ge(0), Le(10**6), Doc("maximum tokens of a sample; 0: no samples")]
    temperature: Temperature
    top_k: TopK
    top_p: TopP
    min_p: MinP
    repetition_penalty: RepetitionPenalty
    seed: Annotated[Count, Doc("seed of the samples, the same at every validation")]


@closed
class Checkpoint(TypedDict, total=False):
    """When checkpoints are written."""

    every_n_steps: Annotated[AtLeastOne, Doc("optimizer steps between two saves of last.ckpt")]
    keep_every_n_steps: Annotated[
        AtLeastOne | None, Doc("optimizer steps between checkpoints that are kept, as step_000500.ckpt; null: none")
    ]
    sharded: Annotated[bool, Doc("with fsdp and expert_parallel, every rank writes its part of a checkpoint")]


CALLBACKS: dict[str, tuple[str, type]] = {
    "media": ("s15erav3.callbacks.expert_media.ExpertMedia", Media),
    "telemetry": ("s15erav3.callbacks.telemetry.Telemetry", Telemetry),
    "samples": ("s15erav3.callbacks.samples.Samples", Samples),
    "progress": ("s15erav3.callbacks.progress.Watch", Watch),
    "checkpoint": ("", Checkpoint),
}
"""Name in the group, ``_target_`` (none if the program creates it itself), settings."""


@closed
class MetricsCsv(TypedDict, total=False):
    """``metrics.csv`` in the run's folder."""

    save_dir: RunDir


@open_ended
class Wandb(TypedDict, total=False):
    """Weights & Biases; ``+logger.wandb.NAME`` adds arguments of ``wandb.init``."""

    save_dir: RunDir
    project: Annotated[Text, Doc("W&B's project")]
    group: Annotated[Text | None, Doc("W&B group, which a sweep's runs share; null: none")]
    name: RunName
    tags: Annotated[list[Text], Doc("tags in addition to those of the choices, as experts=e16")]
    x_axis: Annotated[Literal["trainer/global_step", "tokens"], Doc("metric on the x axis of all others")]
    log_model: Annotated[
        Annotated[bool, Predicate(operator.not_)] | Literal["best", "last"],
        Must("false, best or last"),
        Doc("which checkpoint is uploaded as an artifact at the end"),
    ]
    init_timeout: Annotated[Positive, Doc("seconds to wait for the server; then the run continues offline")]
    finish_timeout: Annotated[Positive, Doc("seconds to wait at the end; what is left stays on disk for wandb sync")]


@closed
class TensorBoard(TypedDict, total=False):
    """Event files in the run's folder."""

    save_dir: RunDir
    flush_secs: Annotated[AtLeastOne, Doc("seconds until values are written to disk")]


@closed
class MLflow(TypedDict, total=False):
    """MLflow tracking."""

    save_dir: RunDir
    experiment: Annotated[Text, Doc("MLflow's experiment")]
    group: Annotated[Text | None, Doc("tag that a sweep's runs share; null: none")]
    name: RunName


@closed
class Trackio(TypedDict, total=False):
    """Trackio, in ``TRACKIO_DIR``."""

    save_dir: RunDir
    project: Annotated[Text, Doc("Trackio's project")]
    group: Annotated[Text | None, Doc("Trackio group, which a sweep's runs share; null: none")]
    name: RunName


LOGGERS: dict[str, tuple[str, type]] = {
    "csv": ("s15erav3.loggers.csv.MetricsCSV", MetricsCsv),
    "wandb": ("s15erav3.loggers.wandb.wandb_logger", Wandb),
    "tensorboard": ("s15erav3.loggers.tensorboard.RunTensorBoard", TensorBoard),
    "mlflow": ("s15erav3.loggers.mlflow.RunMLflow", MLflow),
    "trackio": ("s15erav3.loggers.trackio.RunTrackio", Trackio),
}
"""Name in the group, ``_target_``, settings."""
