"""Settings of ``train`` outside all groups, and those of a sweep and its queue."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from typing_extensions import Doc, TypedDict

from s15erav3.cli.schema.kinds import AtLeastOne, Count, Must, Path, Positive, Real, Text, Whole, closed, open_ended


@open_ended
class Train(TypedDict, total=False):
    """Users may add their own keys, for interpolations: ``+width=64 model.hidden_size='${width}'``."""

    seed: Annotated[Whole, Ge(0), Le(2**32 - 1), Doc("seed of the weights and the order of the data")]
    resume: Annotated[Path | None, Doc("a run to resume: last, its folder, or a checkpoint file; null: none")]
    force: Annotated[bool, Doc("resume even with settings that the checkpoint's weights were not trained with")]
    init_from: Annotated[
        Path | None,
        Doc("start from the model, weights and tokenizer of a Hugging Face folder, run or checkpoint; null: none"),
    ]
    compile: Annotated[bool, Doc("torch.compile the model's blocks: slow first steps, faster ones later")]
    cuda_graphs: Annotated[
        bool, Doc("record a step's passes as a CUDA graph: one launch in place of thousands, on one GPU")
    ]
    report: Annotated[bool, Doc("write report.html at the end")]
    activation_checkpointing: Annotated[
        Literal["none", "experts", "full"], Doc("parts that run again in the backward pass, to save memory")
    ]
    loss_chunk: Annotated[AtLeastOne, Doc("tokens whose logits are in memory at one time")]
    rounding: Annotated[
        Count, Doc("above 0: the same training with other rounding, by chunks of the loss that many tokens shorter")
    ]
    run_dir: Annotated[Path, Doc("the run's folder; set it with hydra.run.dir")]


@closed
class Sweep(TypedDict, total=False):
    """Many runs, with ``-m``."""

    name: Annotated[Text | None, Doc("names the folder and the W&B group; null: date and time, and no group")]
    resume: Annotated[Path | None, Doc("folder of a sweep to resume: run its incomplete jobs; null: none")]
    wait: Annotated[bool, Doc("wait for the jobs; false leaves them in the queue of a cluster, for sweep.resume")]
    code: Annotated[Literal["keep", "retrain"], Doc("what to do with complete runs of older code")]
    noise_runs: Annotated[
        Count,
        Doc("further runs of each group of jobs with its first seed and other rounding; compare reports their scatter"),
    ]
    objective: Annotated[
        str | Annotated[list[str], MinLen(1)],
        Must("a metric such as val/bpb, or a list such as [val/bpb,balance/maxvio_global]"),
        Doc("metrics of result.json that a sweeper such as Optuna optimises"),
    ]


@closed
class GpuQueue(TypedDict, total=False):
    """``hydra/launcher=gpu_queue``."""

    gpus: Annotated[
        Literal["auto"] | Any,
        Must("auto, a number of GPUs, or a list of them, as [0,1]"),
        Doc("GPUs to use; auto: all that are visible; 0: none, the CPU"),
    ]
    jobs_per_gpu: Annotated[AtLeastOne, Doc("jobs that share a GPU")]
    cpu_slots: Annotated[
        AtLeastOne | Literal["auto"], Doc("jobs at once where there is no GPU; auto: cores / threads_per_job")
    ]
    threads_per_job: Annotated[
        AtLeastOne | Literal["auto"], Doc("threads per job; auto: cores / jobs at once on GPUs, 1 on CPUs")
    ]


@closed
class Ray(TypedDict, total=False):
    """``hydra/launcher=ray``."""

    address: Annotated[
        Text,
        Must("auto, local, or HOST:PORT of the cluster's head node"),
        Doc("HOST:PORT of the head node; auto: RAY_ADDRESS, or the cluster of this node; local: this machine alone"),
    ]
    num_cpus: Annotated[Positive, Doc("CPUs of a job, which are its threads too")]
    num_gpus: Annotated[
        Literal["auto"] | Annotated[Real, Ge(0)],
        Doc("GPUs of a job; 0.5: two jobs share one; auto: 1 if a node has one, else 0"),
    ]
    max_retries: Annotated[Count, Doc("how often a job whose node or process was lost is started again")]
    node_timeout_s: Annotated[
        Annotated[Real, Ge(0)], Doc("seconds to wait for a node that has enough for a job, while no node has")
    ]
    options: Annotated[
        dict[str, Any],
        Must("a group, to which +hydra.launcher.options.memory=8e9 adds"),
        Doc("other options of Ray's tasks, such as memory or resources"),
    ]
