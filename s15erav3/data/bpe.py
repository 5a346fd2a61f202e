"""A byte-level BPE trained on the corpus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tiktoken_ext.openai_public import ENDOFTEXT

from s15erav3.data.long_words import cut_long_words
from s15erav3.data.panics import build_encoding, no_panic
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.errors import UserError

if TYPE_CHECKING:
    import tokenizers

# GPT-4's word splitting (tiktoken's cl100k_base), except that each digit is a separate word: scores and
# overs are then always tokenized the same way.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


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
