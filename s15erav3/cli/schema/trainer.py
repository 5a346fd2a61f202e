"""The group ``trainer``: device, precision, length, accumulation, clipping."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Predicate
from typing_extensions import Doc, TypedDict

from s15erav3.cli.schema.data import Epochs
from s15erav3.cli.schema.kinds import (
    Accelerator,
    AtLeastOne,
    Count,
    Must,
    NotNegative,
    Positive,
    Precision,
    Share,
    Text,
    Whole,
    Windows,
    closed,
    open_ended,
)

CLOCK = r"\d+:\d+:\d+:\d+"
TIME = Must("a time above 0: seconds, as in 600, or days:hours:minutes:seconds, as in '00:00:10:00'; null is no limit")
DEVICES = Must("auto, a number of devices, -1 for all, or a list of their numbers, as [0,1]")
OWN = (
    *("callbacks", "logger", "plugins", "default_root_dir", "check_val_every_n_epoch", "num_sanity_val_steps"),
    *("use_distributed_sampler", "enable_model_summary", "enable_progress_bar", "enable_checkpointing", "barebones"),
    *("min_steps", "min_epochs"),
)
"""Arguments of Lightning's Trainer that this program sets itself, or that would disable its work."""


def seconds(limit: Any) -> float:
    """``trainer.max_time`` in seconds: a number of them, ``days:hours:minutes:seconds``, or ``{minutes: 10}``.

    Returns:
        Seconds; 0 if it is none of these.
    """
    if isinstance(limit, str) and re.fullmatch(CLOCK, limit):
        days, hours, minutes, rest = map(int, limit.split(":"))
        limit = {"days": days, "hours": hours, "minutes": minutes, "seconds": rest}
    if isinstance(limit, Mapping):
        try:
            limit = timedelta(**limit).total_seconds()
        except (TypeError, OverflowError):
            return 0.0
    return float(limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else 0.0


def is_time(limit: Any) -> bool:
    """Whether :func:`seconds` is positive and within the range of a clock."""
    return 1e-6 <= seconds(limit) <= timedelta.max.total_seconds()


IsTime, IsOne = Predicate(is_time), Predicate(lambda share: share == 1)


@open_ended
class Trainer(TypedDict, total=False):
    """Settings of this program and of Lightning's Trainer; ``+trainer.NAME`` adds further Trainer arguments."""

    accelerator: Annotated[Accelerator, Doc("device; auto: a GPU if there is one, else the CPU")]
    devices: Annotated[
        Annotated[Whole, Ge(1), Le(2**10)] | Literal[-1, "auto", "-1"] | Annotated[str, Predicate(str.isdigit)]
        | list[Count],
        DEVICES,
        Doc("number of devices of each node, with one process each"),
    ]  # fmt: skip
    num_nodes: Annotated[AtLeastOne, Doc("number of machines, where srun or torchrun starts the ranks")]
    strategy: Annotated[
        Text | Mapping[str, Any],
        Must("auto, fsdp, expert_parallel, the name of a Lightning strategy, or its settings with _target_"),
        Doc("strategy for several devices; auto: DDP; fsdp, expert_parallel: each keeps a part of the model"),
    ]
    replicas: Annotated[
        AtLeastOne, Doc("fsdp, expert_parallel: copies of the model, each divided over consecutive devices")
    ]
    precision: Annotated[Precision, Doc("auto: bf16-mixed on GPUs with native bf16, else 32-true")]
    threads: Annotated[
        AtLeastOne | Literal["auto"],
        Doc("threads of a process on a CPU, unless OMP_NUM_THREADS sets them; auto: the fastest number, measured once"),
    ]
    max_epochs: Annotated[Epochs, Doc("passes over the training part; whichever limit comes first ends the training")]
    max_steps: Annotated[
        AtLeastOne | Literal[-1] | None,
        Must("a whole number above 0, or -1 or null for no limit"),
        Doc("optimizer steps; whichever limit comes first ends the training"),
    ]
    max_time: Annotated[
        Annotated[Positive, IsTime] | Annotated[str, IsTime] | Annotated[Mapping[str, Any], IsTime] | None,
        TIME,
        Doc("time limit, at which the schedules also end: 600 (seconds) or 00:00:10:00 is ten minutes"),
    ]
    val_check_interval: Annotated[AtLeastOne, Doc("optimizer steps between validations")]
    accumulate_grad_batches: Annotated[Windows, Doc("micro-batches of data.batch_size windows per optimizer step")]
    gradient_clip_val: Annotated[NotNegative, Doc("maximum norm of the gradient; 0: no clipping")]
    skip_nonfinite: Annotated[
        Count, Doc("consecutive steps with non-finite loss or gradient to skip before training stops")
    ]
    rank_timeout: Annotated[Positive, Doc("seconds without progress of a rank after which all ranks end")]
    deterministic: Annotated[bool | Literal["warn"], Doc("ask torch for deterministic kernels; warn where it has none")]


@closed
class Reader(TypedDict, total=False):
    """The group ``trainer`` of the verbs that only run a trained model."""

    accelerator: Annotated[Accelerator, Doc("device; auto: a GPU if there is one, else the CPU")]
    precision: Annotated[Precision, Doc("auto: bf16-mixed on GPUs with native bf16, else 32-true")]


@open_ended
class Lightning(TypedDict, total=False):
    """Lightning arguments that no packaged config has, and that could prevent training or saving."""

    limit_train_batches: Annotated[
        AtLeastOne | Annotated[float, IsOne] | None,
        Must("a whole number, at least 1, or 1.0 for all"),
        Doc("batches of an epoch"),
    ]
    limit_val_batches: Annotated[
        Count | Share | None,
        Must("a whole number, at least 0, or a share from 0.0 to 1.0"),
        Doc("batches of a validation, or the share of them"),
    ]
    overfit_batches: Annotated[
        Count | Annotated[float, IsOne] | None,
        Must("a whole number, at least 0, or 1.0 for all"),
        Doc("batches to train and validate on"),
    ]
    fast_dev_run: Annotated[
        Annotated[bool, Predicate(operator.not_)] | Annotated[Whole, Ge(0), Le(0)],
        Must("false, as it saves and logs nothing; use trainer.max_steps=1 for a short run"),
        Doc("left out"),
    ]
