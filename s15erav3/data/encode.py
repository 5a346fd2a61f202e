"""Encoding of many documents by threads, in order and in bounded memory."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from s15erav3.cores import usable_cores
from s15erav3.data.splits import Part
from s15erav3.data.tokenizer import Tokenizer

CHUNK = 2**20
"""Characters that a thread encodes at a time, at least; documents are not divided."""


class Encoded(NamedTuple):
    """Consecutive documents of one part."""

    part: Part
    ids: npt.NDArray[np.uint32]
    """The ids of each document, followed by end-of-text."""
    bytes: int
    documents: int


def encode_documents(
    documents: Iterable[tuple[Part, str]], tokenizer: Tokenizer, threads: int | None = None
) -> Generator[Encoded, None, None]:
    """Encode documents; the chunks of each part come in the order of its documents.

    tiktoken encodes without holding Python's lock, so threads suffice. Each has at most three chunks in memory.

    Args:
        threads: ``None`` takes one for each core that this process may use.

    Raises:
        UserError: the tokenizer fails on a text.
    """
    threads = threads or usable_cores()
    chunks = _chunks(documents)
    # The thread that first uses a regular expression owns its scratch memory, and from then on each of its matches
    # slows down those of the other threads: two were as slow as one. So that thread is none of the pool.
    for part, texts in islice(chunks, 1 if threads > 1 else None):
        yield _encode(part, texts, tokenizer)
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Encoded]] = deque()
        try:
            for part, texts in chunks:
                pending.append(pool.submit(_encode, part, texts, tokenizer))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _chunks(documents: Iterable[tuple[Part, str]]) -> Iterator[tuple[Part, list[str]]]:
    texts: defaultdict[Part, list[str]] = defaultdict(list)
    sizes: defaultdict[Part, int] = defaultdict(int)
    for part, text in documents:
        texts[part].append(text)
        sizes[part] += len(text)
        if sizes[part] >= CHUNK:
            yield part, texts.pop(part)
            del sizes[part]
    yield from texts.items()


def _encode(part: Part, texts: list[str], tokenizer: Tokenizer) -> Encoded:
    ids = tokenizer.encode_documents(texts)
    return Encoded(part, ids, sum(len(text.encode()) for text in texts), len(texts))
