"""Token files: a corpus is split, encoded and written once, then memory-mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s15erav3.data.bpe import train_bpe
from s15erav3.data.cache import cache_dir, discard, only_writer, write_atomically
from s15erav3.data.corpus import Corpus
from s15erav3.data.encode import encode_documents
from s15erav3.data.splits import SPLITS, Part, assign_splits
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.errors import UserError

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class SplitPlan:
    """Parameters of the split; part of every derived cache key."""

    seed: int
    val_fraction: float
    test_fraction: float


@dataclass(frozen=True)
class TokenFiles:
    """Encoded parts of one corpus. A part starts with end-of-text, which also follows every document."""

    folder: Path

    def part(self, name: Part) -> Tokens:
        """Return the ids of one part, memory-mapped, (length,)."""
        tokens: Tokens = np.memmap(self.folder / f"{name}.bin", dtype=self._meta()["dtype"], mode="r")
        return tokens

    @property
    def parts(self) -> dict[str, dict[str, int]]:
        """Counts per part: ``tokens``, ``bytes`` of text and ``documents``."""
        parts: dict[str, dict[str, int]] = self._meta()["parts"]
        return parts

    def are_whole(self, tokenizer: Tokenizer, names: tuple[Part, ...]) -> bool:
        """Whether the named parts are intact as written.

        Truncated, modified or foreign files, such as a pipe or ids beyond the vocabulary, are not.
        """
        try:
            if not (self.folder / "meta.json").is_file():
                return False
            meta = self._meta()
            good = meta["dtype"] == _dtype(tokenizer).name and tuple(meta["parts"]) == names
            return good and all(self._is_whole(meta, name, tokenizer.n_vocab) for name in names)
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return False

    def _is_whole(self, meta: dict[str, Any], name: Part, n_vocab: int) -> bool:
        file, tokens = self.folder / f"{name}.bin", meta["parts"][name]["tokens"]
        if not file.is_file() or file.stat().st_size != tokens * np.dtype(meta["dtype"]).itemsize:
            return False
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return bool(digest == meta["sha256"][name] and self.part(name).max() < n_vocab)

    def _meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text())
        return meta


def corpus_tokenizer(corpus: Corpus, plan: SplitPlan, vocab_size: int) -> Tokenizer:
    """Return the byte-level BPE of the corpus' training part. It is cached, and trained again if damaged."""
    key = _key("bpe-2", corpus.fingerprint(), plan, vocab_size)
    file = cache_dir() / "tokenizers" / f"{key}.json"
    found = _read_vocabulary(file)
    if found is None:
        with only_writer(file):
            found = _read_vocabulary(file)
            if found is None:
                found = train_bpe(texts_of(corpus, plan, "train"), vocab_size)
                discard(file)
                with write_atomically(file) as temporary:
                    temporary.write_text(json.dumps({"fingerprint": found.fingerprint, "state": found.state()}))
    return found


def _read_vocabulary(file: Path) -> Tokenizer | None:
    try:
        if not file.is_file():
            return None
        kept = json.loads(file.read_text())
        tokenizer = Tokenizer.from_state(kept["state"])
        return tokenizer if tokenizer.fingerprint == kept["fingerprint"] else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, UserError):
        return None


def tokenize(corpus: Corpus, tokenizer: Tokenizer, plan: SplitPlan | None) -> TokenFiles:
    """Encode the parts of a corpus, or return intact ones from the cache.

    Processes can request the same files concurrently: one writes, the others wait and read. The files
    are written to a temporary folder and renamed, so they are complete or absent.

    Args:
        plan: the split; ``None`` creates the single part ``all`` with all documents in file order.
    """
    folder = cache_dir() / "tokens" / _key("tokens-2", corpus.fingerprint(), plan, tokenizer.fingerprint)
    files, names = TokenFiles(folder), _names(plan)
    if not files.are_whole(tokenizer, names):  # also checked without the lock, as a complete cache can be read-only
        with only_writer(folder):
            if not files.are_whole(tokenizer, names):
                discard(folder)
                with write_atomically(folder) as temporary:
                    temporary.mkdir()
                    _encode(corpus, tokenizer, plan, temporary)
    return files


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def texts_of(corpus: Corpus, plan: SplitPlan | None, part: Part) -> Iterator[str]:
    """Yield the documents of one part in file order. Concatenated, they are the text of its tokens."""
    return (text for name, text in _divided(corpus, plan) if name == part)


def _divided(corpus: Corpus, plan: SplitPlan | None) -> Iterator[tuple[Part, str]]:
    """Yield every document in file order with its part."""
    if plan is None:
        return (("all", text) for text in corpus.texts())
    sides = _sides(corpus, corpus.fingerprint(), plan)
    return zip((SPLITS[side] for side in sides), corpus.texts(), strict=True)


@lru_cache(maxsize=1)
def _sides(corpus: Corpus, fingerprint: str, plan: SplitPlan) -> bytes:
    """The split of each document, as its index in ``SPLITS``; kept, as vocabulary and tokens both need it."""
    fractions = {"val_fraction": plan.val_fraction, "test_fraction": plan.test_fraction}
    return bytes(map(SPLITS.index, assign_splits(corpus.documents(), seed=plan.seed, **fractions)))


def _names(plan: SplitPlan | None) -> tuple[Part, ...]:
    return SPLITS if plan else ("all",)


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype(np.uint16 if tokenizer.n_vocab <= 2**16 else np.uint32)


def _encode(corpus: Corpus, tokenizer: Tokenizer, plan: SplitPlan | None, folder: Path) -> None:
    dtype, names = _dtype(tokenizer), _names(plan)
    counts = {name: {"tokens": 0, "bytes": 0, "documents": 0} for name in names}
    digests = {name: hashlib.sha256() for name in names}
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.bin").open("wb")) for name in names}

        def append(name: Part, ids: npt.NDArray[np.uint32]) -> None:
            data = ids.astype(dtype).tobytes()
            files[name].write(data)
            digests[name].update(data)
            counts[name]["tokens"] += len(ids)

        for name in names:
            append(name, np.array([tokenizer.end_of_text], dtype=np.uint32))
        chunks = stack.enter_context(closing(encode_documents(_divided(corpus, plan), tokenizer)))
        for chunk in chunks:
            append(chunk.part, chunk.ids)
            counts[chunk.part]["bytes"] += chunk.bytes
            counts[chunk.part]["documents"] += chunk.documents
    sha256 = {name: digest.hexdigest() for name, digest in digests.items()}
    meta = {"dtype": dtype.name, "tokenizer": tokenizer.name, "parts": counts, "sha256": sha256}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
