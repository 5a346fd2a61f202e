"""Settings of the verbs other than ``train``."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen
from typing_extensions import Doc, TypedDict

from s15erav3.cli.schema.kinds import (
    AtLeastOne,
    Count,
    Must,
    Path,
    Real,
    Text,
    Whole,
    Windows,
    open_ended,
)
from s15erav3.cli.schema.watching import MinP, RepetitionPenalty, Temperature, TopK, TopP

Checkpoint = Annotated[Path, Doc("checkpoint file, run folder (its best checkpoint), or Hugging Face folder")]
Check = Literal[
    "precision",
    "grouped_mm",
    "parity",
    "no_sync",
    "graph_capture",
    "packing",
    "several_devices",
    "bench_step",
    "bench_generate",
    "training",
]
Extension = Annotated[Real, Ge(1), Doc("factor by which sequences may be longer than in training (YaRN)")]


@open_ended
class Evaluate(TypedDict, total=False):
    """``s15erav3 evaluate``."""

    checkpoint: Checkpoint
    reference: Annotated[Path | None, Doc("a later checkpoint of the run, to compare the routing with; null: none")]
    split: Annotated[Literal["train", "val", "test", "all"], Doc("part of the run's text; all: the whole of data.path")]
    eval_batch_size: Annotated[Windows, Doc("windows of one batch")]
    context_extension: Extension
    stride: Annotated[
        AtLeastOne | None,
        Doc("also measure the loss by windows that start every so many tokens; null: do not"),
    ]
    ablate: Annotated[Literal["experts"] | None, Doc("experts: remove each one in turn; null: none")]
    ablate_mode: Annotated[
        Literal["reroute", "zero"], Doc("route an expert's tokens to their next best one, or zero its output")
    ]
    ablate_tokens: Annotated[AtLeastOne | None, Doc("first tokens of the text to remove experts on; null: all")]
    wandb: Annotated[bool, Doc("add what was ablated to the W&B run that the folder names")]
    output: Annotated[
        Path | None,
        Doc("JSON file, .jsonl and .parquet beside it; null: evaluate-CHECKPOINT-SPLIT.json in the run's folder"),
    ]


@open_ended
class EvaluateData(TypedDict, total=False):
    """The text to measure on."""

    name: Annotated[Literal["ipl", "text"] | None, Doc("format of data.path; null: detected from its beginning")]
    path: Annotated[Path | None, Doc("file or folder; null: the text that the run was trained on")]
    sequence_length: Annotated[
        Annotated[Whole, Ge(2)] | None, Doc("tokens of a window; null: as in training, times context_extension")
    ]


@open_ended
class Sample(TypedDict, total=False):
    """``s15erav3 sample``."""

    checkpoint: Checkpoint
    prompt: Annotated[
        Text | Annotated[list[Text], MinLen(1)],
        Must("a text, or a list of texts"),
        Doc("text to continue; empty: start a new document"),
    ]
    samples: Annotated[Windows, Doc("texts for each prompt")]
    max_new_tokens: Annotated[Whole, Ge(1), Le(10**6), Doc("maximum tokens of a text")]
    temperature: Temperature
    top_k: TopK
    top_p: TopP
    min_p: MinP
    repetition_penalty: RepetitionPenalty
    stop: Annotated[Text | list[Text] | None, Must("null, a text, or a list of texts"), Doc("strings that end a text")]
    seed: Annotated[Count, Doc("seed of the first text; each further text uses the next one")]
    speculative: Annotated[bool, Doc("draft with the multi-token-prediction blocks; needs temperature=0")]
    compile: Annotated[bool, Doc("torch.compile the decoding step")]
    int8: Annotated[bool, Doc("8 bits per weight after the prompt, on a CPU: faster, slightly other probabilities")]
    context_extension: Extension


@open_ended
class Report(TypedDict, total=False):
    """``s15erav3 report``."""

    run_dir: Annotated[Path, Doc("a run's folder")]
    output: Annotated[Path | None, Doc("HTML file; null: report.html in the run's folder")]
    max_tokens: Annotated[Count, Doc("validation tokens read to analyse the experts; 0: none")]


@open_ended
class Compare(TypedDict, total=False):
    """``s15erav3 compare``."""

    folders: Annotated[Text | list[Text], Must("a folder, or a list of folders"), Doc("sweeps or runs")]
    sort: Annotated[Text, Doc("any metric, lowest first; -val/bpb: highest first")]
    descending: Annotated[bool, Doc("whether to sort from highest to lowest")]
    metrics: Annotated[
        Text | list[Text] | None,
        Must("null, a metric, or a list of metrics"),
        Doc("columns, as [val/bpb,train/loss]; null: bits per byte, balance, speed, size"),
    ]
    unfinished: Annotated[bool, Doc("whether the latest metrics of running runs count too")]
    rows: Annotated[AtLeastOne, Doc("rows of the table in the terminal; the files contain all")]
    output: Annotated[
        Path | None, Doc("folder of compare.csv, compare.md and compare.html; null: the first of folders")
    ]


@open_ended
class Export(TypedDict, total=False):
    """``s15erav3 export``."""

    checkpoint: Checkpoint
    output: Annotated[Path, Doc("folder to write")]
    dtype: Annotated[Literal["float32", "bfloat16"], Doc("type of the weights; router biases stay float32")]
    max_shard_size: Annotated[Text, Doc("maximum size of a weight file, as 5GB or 500MB")]


@open_ended
class Doctor(TypedDict, total=False):
    """``s15erav3 doctor``."""

    checks: Annotated[
        list[Check] | None, Must("null, or a list of checks"), Doc("of the GPU, as [parity,no_sync]; null: all")
    ]
    require_gpu: Annotated[bool, Doc("end with status 2 where there is no GPU")]
    output: Annotated[Path | None, Doc("JSON file, a .md beside it to paste into an issue; null: none")]
