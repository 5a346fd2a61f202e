"""Tokenizers of all kinds for the tests of their exchange with Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase

import s15erav3
from s15erav3.data.corpus import Corpus
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.errors import UserError

SAMPLE = Path(s15erav3.__file__).parent / "data" / "sample" / "commentary.txt"
END = "<|endoftext|>"
TYPICAL = f"Kohli's 12345 runs, FOUR!  \n\nnaïve 😀{END}\r\n x"


class Hub(NamedTuple):
    """A tokenizer, the folder it was written to, and what transformers makes of that."""

    mine: Tokenizer
    folder: Path
    theirs: PreTrainedTokenizerBase


def documents() -> list[str]:
    return [document.text for document in Corpus(SAMPLE).documents()]


def byte_ranks(*tokens: str) -> dict[bytes, int]:
    return {token: i for i, token in enumerate([*(bytes([b]) for b in range(256)), *map(str.encode, tokens)])}


def their_ids(folder: Path, text: str) -> list[int]:
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    return theirs.encode(text, add_special_tokens=False).ids


def split_by(regex: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def foreign(*special: str, cut: pre_tokenizers.PreTokenizer | None = None, **trainer: Any) -> tokenizers.Tokenizer:
    """A tokenizer that somebody trained with the tokenizers library."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = cut or pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    how = trainers.BpeTrainer(vocab_size=400, show_progress=False, **{"initial_alphabet": alphabet} | trainer)
    trained.train_from_iterator(documents()[:5], how)
    trained.add_special_tokens(list(special))
    return trained


def spelled(token: bytes) -> str:
    """Bytes as byte-level files write them."""
    return "".join(CHARACTERS[byte] for byte in token)


PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
CHARACTERS = {byte: chr(byte) for byte in PRINTABLE}
CHARACTERS |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in PRINTABLE)}


def check_sentence(caught: pytest.ExceptionInfo[UserError]) -> None:
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert "; " in message, "what to do"
