"""Text that is unlike any prose: in time, and the same text again."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.errors import UserError

MANY = 200_000
PROSE = "".join(f"Paragraph {i} of words.\n\n" for i in range(60))
ODD = {
    "blanks": " " * MANY + "x",
    "one character": "a" * MANY,
    "one line": "some words in a line " * (MANY // 20),
    "empty lines": "x" + "\n" * MANY,
    "emoji": "😀👩\u200d🚀" * (MANY // 10),
    "combining": "e\u0301\u0302" * (MANY // 5),
    "only combining": "\u0301" * (MANY // 2),
    "right to left": "שלום עולם\u200f " * (MANY // 20),
    "end of text": "<|endoftext|>" * (MANY // 20),
    "CRLF": "a line\r\n\r\n" * (MANY // 100),
    "CR": "a line\r\r" * (MANY // 100),
    "line separators": "a\u2028b\u2029c\x85d\x0b\x0c\x1c" * (MANY // 20),
    "byte-order marks": "\ufeff" * (MANY // 4),
    "controls": "".join(map(chr, [*range(1, 10), *range(14, 28), 127])) * 100,
    "not characters": "\uffff\U0010ffff\ue000" * 1000,
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_text_comes_back(tmp_path: Path, vocabulary: Tokenizer, text: str) -> None:
    """Prevents minutes of work on an odd file, and tokens that spell another text; ends of lines become LF."""
    (tmp_path / "x.txt").write_bytes((PROSE + text).encode())
    began = time.process_time()
    data = CommentaryData(name="text", path=str(tmp_path), tokenizer=vocabulary, single_part=True).prepare()
    assert time.process_time() - began < 5
    ids = np.array(data.token_files.part("all"))
    assert vocabulary.decode(ids.tolist()) == (PROSE + text).replace("\r\n", "\n").replace("\r", "\n")
    assert (ids == data.tokenizer.end_of_text).sum() == 1 + data.token_files.parts["all"]["documents"]


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_text_is_learned_from(tmp_path: Path, text: str) -> None:
    """Prevents the same where a vocabulary is trained and the text divided: what is too odd is one sentence."""
    (tmp_path / "x.txt").write_bytes((PROSE * 9 + text).encode())
    data = CommentaryData(
        name="text", path=str(tmp_path), vocab_size=300, sequence_length=16, val_fraction=0.001, test_fraction=0.001
    )
    began = time.process_time()
    try:
        data.prepare()
    except UserError as error:
        said = str(error)
    else:
        said = "."
        assert all(counts["documents"] for counts in data.token_files.parts.values())
    assert said.isprintable() and said.endswith(".")
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"\n" * MANY, "is empty"), (b" " * MANY, "is empty"), (b"text\0" * MANY, "NUL bytes: .* offset 4, in line 1")],
    ids=["line ends", "blanks", "NULs"],
)
def test_what_is_no_text_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    """Prevents an empty corpus of a file that is not."""
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=told):
        CommentaryData(name="text", path=str(tmp_path / "x.txt"), vocab_size=300).prepare()
