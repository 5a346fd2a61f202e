"""LightningDataModule that turns text into batches, with corpus, tokenizer, token files and windows."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from s15erav3.data.corpus import Corpus, DocumentBoundary, Format
from s15erav3.data.ipl import ipl_file
from s15erav3.data.messages import shown
from s15erav3.data.openings import openings
from s15erav3.data.order import Order, order_of_checkpoint
from s15erav3.data.splits import Part
from s15erav3.data.tokenizer import Tokenizer, load_public
from s15erav3.data.tokens import SplitPlan, TokenFiles, corpus_tokenizer, tokenize
from s15erav3.data.windows import EvaluationBatches, EvaluationWindows, TrainingPositions, TrainingWindows
from s15erav3.errors import UserError
from s15erav3.files import at_home

Source = Literal["sample", "ipl", "text"]


class CommentaryData(L.LightningDataModule):
    """Training windows in a stateless shuffled order, and whole splits for validation and test.

    One loaded batch is one optimizer step of one device: ``windows_per_step`` windows, ordered by
    micro-batch. ``split_seed`` determines the split of the text and ``seed`` the shuffling,
    so a sweep over ``seed`` compares runs on the same validation text.

    Args:
        name: ``sample`` (bundled), ``ipl`` (commentary file) or ``text`` (any UTF-8 text).
        path: file or folder; ``None`` uses the bundled text or downloads the original corpus.
        tokenizer: ``corpus_bpe``, the name of a public encoding, or a :class:`Tokenizer`.
        vocab_size: vocabulary size of a ``corpus_bpe``.
        sequence_length: T, inputs per window.
        batch_size: windows per micro-batch, on one device.
        micro_batches: number of micro-batches per optimizer step.
        eval_batch_size: windows per validation batch.
        prompts: texts that samples continue; ``None`` uses the openings of held-out documents.
    """

    def __init__(
        self,
        *,
        name: Source = "sample",
        path: str | None = None,
        tokenizer: str | Tokenizer = "corpus_bpe",
        vocab_size: int | None = None,
        sequence_length: int = 256,
        batch_size: int = 16,
        micro_batches: int = 1,
        eval_batch_size: int = 16,
        document: DocumentBoundary = "blank_line",
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        split_seed: int = 0,
        seed: int = 1,
        num_workers: int = 0,
        single_part: bool = False,
        prompts: str | list[str] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.path, self.document = name, path, document
        self.wanted_tokenizer, self.vocab_size = tokenizer, vocab_size
        self.length, self.batch_size, self.eval_batch_size = sequence_length, batch_size, eval_batch_size
        self.micro_batches = micro_batches
        self.plan = None if single_part else SplitPlan(split_seed, val_fraction, test_fraction)
        self.seed, self.num_workers = seed, num_workers
        self.own_prompts = [prompts] if isinstance(prompts, str) else prompts
        self.start = 0
        self.order: Order | None = None
        self.val_limit: int | float = 1.0
        self.tokenizer: Tokenizer
        self.token_files: TokenFiles

    def corpus(self) -> Corpus:
        """The text, downloaded if necessary.

        Raises:
            UserError: it is not available.
        """
        form: Format = "text" if self.name == "text" else "ipl"
        if self.path:
            return Corpus(at_home(self.path), form, self.document)
        if self.name == "text":
            raise UserError("data=text needs data.path=FILE_OR_FOLDER: UTF-8 text, .jsonl, .parquet or .arrow.")
        bundled = Path(str(files("s15erav3.data") / "sample" / "commentary.txt"))
        return Corpus(bundled if self.name == "sample" else ipl_file(), form)

    def prepare(self) -> CommentaryData:
        """Tokenize the text or load the tokens from the cache; afterwards the vocabulary is known.

        Several processes may call this at once.

        Raises:
            UserError: the corpus is unusable or too short for ``sequence_length``.
        """
        corpus = self.corpus()
        if isinstance(self.wanted_tokenizer, Tokenizer):
            self.tokenizer = self.wanted_tokenizer
        elif self.wanted_tokenizer == "corpus_bpe":
            if self.vocab_size is None or self.plan is None:
                raise UserError("tokenizer=corpus_bpe needs tokenizer.vocab_size, the number of its entries.")
            self.tokenizer = corpus_tokenizer(corpus, self.plan, self.vocab_size)
        else:
            self.tokenizer = load_public(self.wanted_tokenizer)
        self.token_files = tokenize(corpus, self.tokenizer, self.plan)
        for part, counts in self.token_files.parts.items():
            least = 2 * self.length if part == "train" else 2
            if counts["tokens"] < least:
                raise UserError(
                    f"{shown(corpus.path)} is too short: its part '{part}' has {counts['tokens']} tokens and needs at "
                    f"least {least} at data.sequence_length={self.length}; lower that or give more text."
                )
        return self

    def prompts(self) -> list[str]:
        """Texts that samples continue: those of the config, or else the openings of the first held-out documents."""
        if self.own_prompts is not None:
            return self.own_prompts
        return openings(self.token_files.part("val"), self.tokenizer)

    @property
    def windows_per_step(self) -> int:
        """Windows per optimizer step, on one device."""
        return self.batch_size * self.micro_batches

    @property
    def samples_per_epoch(self) -> int:
        """Windows in one pass over the training part."""
        return self._training_windows().windows_per_epoch

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Endless batches (windows_per_step, T + 1) from the current training position."""
        positions = TrainingPositions(self.windows_per_step, self.start, *self._place())
        return self._loader(self._training_windows(), positions)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Every token of the validation part once, or fewer after :meth:`limit_validation`."""
        return self.evaluation_dataloader("val", self.val_limit)

    def limit_validation(self, limit: int | float) -> None:
        """Validate on the first ``limit`` batches, or that share of them, independent of the number of ranks."""
        self.val_limit = limit

    def evaluation_dataloader(
        self, part: Part, limit: int | float = 1.0, stride: int | None = None
    ) -> DataLoader[Tensor]:
        """Every token of ``part`` once, in batches of at most (eval_batch_size, T + 1); more often with ``stride`` < T.

        Every rank has the same number of batches; the last one may be empty.
        """
        windows = EvaluationWindows(self.token_files.part(part), self.length, stride)
        return self._loader(windows, EvaluationBatches(windows, self.eval_batch_size, *self._place(), limit))

    def state_dict(self) -> dict[str, Any]:
        """Position in the training data, for checkpoints."""
        assert self.trainer is not None and self.trainer.lightning_module is not None
        seen, tokens = self.trainer.lightning_module.samples_seen, self.token_files.folder.name
        return {"samples_seen": seen, "tokens": tokens, "order": self._training_windows().order}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint's position.

        Raises:
            UserError: it was trained on other tokens, or in an order that this version does not know.
        """
        if state_dict["tokens"] != self.token_files.folder.name:
            raise UserError(
                "the checkpoint was trained on other text, another split or another tokenizer than data.path="
                f"{self.path} now gives; restore what it was trained on to resume it."
            )
        self.order = order_of_checkpoint(state_dict)
        self.start = state_dict["samples_seen"]

    def _training_windows(self) -> TrainingWindows:
        return TrainingWindows(self.token_files.part("train"), self.length, self.seed, self.order)

    def _loader(self, windows: Any, batches: Any) -> DataLoader[Tensor]:
        return DataLoader(
            windows,
            batch_sampler=batches,
            collate_fn=self._together,
            num_workers=self.num_workers,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.num_workers > 0,
            # The loader draws (unused) worker seeds. They must not come from the generator that training uses.
            generator=torch.Generator(),
        )

    def _together(self, windows: list[Tensor]) -> Tensor:
        return torch.stack(windows) if windows else torch.empty(0, self.length + 1, dtype=torch.int64)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
