"""Token files: a corpus divided, encoded and written once, memory-mapped ever after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from s15erav3.data.cache import cache_dir, only_writer, write_atomically
from s15erav3.data.corpus import Corpus, Document, Split, assign_splits
from s15erav3.data.tokenizer import Tokenizer, train_bpe

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Part = Split | Literal["all"]


@dataclass(frozen=True)
class SplitPlan:
    """How documents are divided; part of every cache key below it."""

    seed: int
    val_fraction: float
    test_fraction: float


@dataclass(frozen=True)
class TokenFiles:
    """Encoded parts of one corpus. A part begins with end-of-text, which also follows every document."""

    folder: Path

    def part(self, name: Part) -> Tokens:
        """The ids of one part, memory-mapped, (length,)."""
        meta = json.loads((self.folder / "meta.json").read_text())
        tokens: Tokens = np.memmap(self.folder / f"{name}.bin", dtype=meta["dtype"], mode="r")
        return tokens

    @property
    def parts(self) -> dict[str, dict[str, int]]:
        """Of each part: ``tokens``, ``bytes`` of text and ``documents``."""
        parts: dict[str, dict[str, int]] = json.loads((self.folder / "meta.json").read_text())["parts"]
        return parts


def corpus_tokenizer(corpus: Corpus, plan: SplitPlan, vocab_size: int) -> Tokenizer:
    """The byte-level BPE of the corpus' training part, trained once and cached."""
    key = _key("bpe-2", corpus.fingerprint(), plan, vocab_size)
    file = cache_dir() / "tokenizers" / f"{key}.json"
    if not file.exists():
        with only_writer(file):
            if not file.exists():
                tokenizer = train_bpe((d.text for d in documents_of(corpus, plan, "train")), vocab_size)
                with write_atomically(file) as temporary:
                    temporary.write_text(json.dumps(tokenizer.state()))
    return Tokenizer.from_state(json.loads(file.read_text()))


def tokenize(corpus: Corpus, tokenizer: Tokenizer, plan: SplitPlan | None) -> TokenFiles:
    """Encode the parts of a corpus, or find them in the cache.

    Two processes may ask for the same files at once: one writes, the other waits and reads. The files
    are made in a temporary folder and renamed, so they are complete or absent.

    Args:
        plan: how to divide; ``None`` makes the single part ``all``, every document in file order.
    """
    folder = cache_dir() / "tokens" / _key("tokens-2", corpus.fingerprint(), plan, tokenizer.fingerprint)
    if not folder.exists():  # looked at without the lock, too: a complete cache may be read-only
        with only_writer(folder):
            if not folder.exists():
                with write_atomically(folder) as temporary:
                    temporary.mkdir()
                    _encode(corpus, tokenizer, plan, temporary)
    return TokenFiles(folder)


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def documents_of(corpus: Corpus, plan: SplitPlan | None, part: Part) -> Iterator[Document]:
    """The documents of one part in file order: put together, they are the text of its tokens."""
    return (document for document, name in _divided(corpus, plan) if name == part)


def _divided(corpus: Corpus, plan: SplitPlan | None) -> Iterator[tuple[Document, Part]]:
    """Every document in file order and the part that it belongs to."""
    if plan is None:
        return ((document, "all") for document in corpus.documents())
    fractions = {"val_fraction": plan.val_fraction, "test_fraction": plan.test_fraction}
    splits = assign_splits(corpus.documents(), seed=plan.seed, **fractions)
    return zip(corpus.documents(), splits, strict=True)


def _encode(corpus: Corpus, tokenizer: Tokenizer, plan: SplitPlan | None, folder: Path) -> None:
    dtype = np.uint16 if tokenizer.n_vocab <= 2**16 else np.uint32
    names: tuple[Part, ...] = ("train", "val", "test") if plan else ("all",)
    counts = {name: {"tokens": 0, "bytes": 0, "documents": 0} for name in names}
    with ExitStack() as opened:
        files = {name: opened.enter_context((folder / f"{name}.bin").open("wb")) for name in names}

        def append(name: Part, ids: list[int]) -> None:
            files[name].write(np.asarray(ids, dtype=dtype).tobytes())  # whose errors, unlike tofile's, have a number
            counts[name]["tokens"] += len(ids)

        for name in names:
            append(name, [tokenizer.end_of_text])
        for document, name in _divided(corpus, plan):
            append(name, [*tokenizer.encode(document.text), tokenizer.end_of_text])
            counts[name]["bytes"] += len(document.text.encode())
            counts[name]["documents"] += 1
    meta = {"dtype": np.dtype(dtype).name, "tokenizer": tokenizer.name, "parts": counts}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
