"""Prompts that come from a text, against its first words."""

from __future__ import annotations

from pathlib import Path

import pytest

from s15erav3.cli.schema.check import check_part
from s15erav3.cli.schema.data import Data
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.openings import opening, openings
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.errors import UserError


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen",
         "One two three four five six seven eight"),
        ("\n\n  One two three four.\nFive", "One two"),
        ("Chapter 1\n", "Chapter"),
        ("Alone", "Alo"),
        ("a\nb c\td e f", "a\nb c"),
        (" \n\t ", ""),
        ("", ""),
        ("日本語の文章は空白で区切られない", "日本語の文章は空"),
    ],
)  # fmt: skip
def test_the_opening_is_at_most_eight_words_and_half_of_the_text(head: str, expected: str) -> None:
    """A prompt that is the whole document leaves nothing to write."""
    assert opening(head) == expected


def test_no_opening_is_longer_than_a_line() -> None:
    """A word of a million letters is in many a text."""
    assert len(opening("x" * 1000)) == len(opening("y" * 1000 + " z")) == 48


def bytes_alone() -> Tokenizer:
    """A vocabulary of bytes."""
    import tiktoken

    ranks = {bytes([b]): b for b in range(256)}
    return Tokenizer(
        tiktoken.Encoding("b", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 256})
    )


def ids_of(tokenizer: Tokenizer, *documents: str) -> list[int]:
    return [i for text in documents for i in [*tokenizer.encode(text), tokenizer.end_of_text]]


def test_openings_are_those_of_the_first_documents_that_differ() -> None:
    """A text whose documents all begin alike, or are empty, must not give one prompt twice, or nothing."""
    import numpy as np

    tokenizer = bytes_alone()
    tokens = np.array(ids_of(tokenizer, "Dear all, hello", "", " \n", "Dear all, hello", "Dear me, what now"))
    assert openings(tokens, tokenizer) == ["Dear", "Dear me,"]
    assert openings(tokens, tokenizer, count=1) == ["Dear"]
    assert openings(tokens[:0], tokenizer) == []


def test_a_document_that_is_cut_within_a_character_still_opens() -> None:
    """64 bytes of a script of three bytes a character end within one."""
    import numpy as np

    tokenizer = bytes_alone()
    (found,) = openings(np.array(ids_of(tokenizer, "語" * 500)), tokenizer)
    assert found == "語" * 11  # half of the 21 whole characters, rounded up


def test_what_the_config_gives_comes_first() -> None:
    """An empty list is no prompts at all, unlike none given."""
    assert CommentaryData(prompts=["a", ""]).prompts() == ["a", ""]
    assert CommentaryData(prompts=[]).prompts() == []
    assert CommentaryData(prompts="one text").prompts() == ["one text"]
    check_part("data", {"prompts": None}, Data)
    for bad in (3, [1], {"a": "b"}, [["x"]], True):
        with pytest.raises(UserError, match=r"data\.prompts.* must be (null, )?a text"):
            check_part("data", {"prompts": bad}, Data)


def test_the_openings_are_of_the_part_that_is_held_out(tmp_path: Path) -> None:
    """Prompts of the training part would be continued from memory."""
    file = tmp_path / "text.txt"
    file.write_text(
        "\n\n".join(f"Letter {i} tells of the harbour in winter, and of ship number {i}." for i in range(400))
    )
    data = CommentaryData(name="text", path=str(file), vocab_size=280, sequence_length=16).prepare()
    held_out = data.tokenizer.decode(data.token_files.part("val").tolist())
    first, second = data.prompts()
    assert first != second
    assert held_out.lstrip().startswith(first) and held_out.count(second + " ") == 1
    assert first + " " not in data.tokenizer.decode(data.token_files.part("train").tolist())
