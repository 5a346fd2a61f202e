"""The groups ``data`` and ``tokenizer``."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from typing_extensions import Doc, TypedDict

from s15erav3.cli.schema.kinds import Count, Hint, Must, Path, Positive, Real, Text, Whole, Windows, closed

Vocabulary = Annotated[Whole, Ge(258), Le(2**20), Hint(": 256 bytes, end of text, a merge")]
Part = Annotated[Real, Gt(0), Lt(1)]
Epochs = Annotated[Positive | Literal[-1] | None, Must("a number above 0, or -1 or null for no limit")]


@closed
class Data(TypedDict, total=False):
    """A text, its split and its batches."""

    name: Annotated[Literal["sample", "ipl", "text"], Doc("bundled commentary, a commentary file, or any text")]
    path: Annotated[Path | None, Doc("file or folder; null: the bundled text, or for ipl the original corpus")]
    max_epochs: Annotated[Epochs, Doc("passes over the training part, unless max_steps or max_time ends first")]
    sequence_length: Annotated[Whole, Ge(2), Doc("tokens that a training window predicts")]
    vocab_size: Annotated[Vocabulary, Doc("vocabulary size of tokenizer=corpus_bpe; at most what the text supports")]
    batch_size: Annotated[Windows, Doc("windows of one micro-batch on one device")]
    eval_batch_size: Annotated[Windows, Doc("windows of one validation batch on one device")]
    document: Annotated[Literal["blank_line", "file"], Doc("only with data=text: where documents end")]
    val_fraction: Annotated[Part, Doc("share of the documents for validation")]
    test_fraction: Annotated[Part, Doc("share of the documents kept for evaluate split=test")]
    split_seed: Annotated[Count, Doc("seed of the split, independent of the training's seed")]
    prompts: Annotated[
        str | list[str] | None,
        Must("null, a text, or a list of texts"),
        Doc("prompts of the samples; null: the openings of the first held-out documents"),
    ]
    num_workers: Annotated[
        Whole, Ge(0), Le(2**10), Doc("worker processes that load batches; 0: the training process itself")
    ]


@closed
class TokenizerChoice(TypedDict, total=False):
    """How text is tokenized."""

    name: Annotated[Text, Doc("corpus_bpe, trained on the training part, or a tiktoken encoding")]
    vocab_size: Annotated[Vocabulary | None, Doc("vocabulary size of corpus_bpe; null: that of the encoding")]
