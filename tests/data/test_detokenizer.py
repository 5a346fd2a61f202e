"""Text that comes token by token against the text of all tokens at once."""

from __future__ import annotations

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from s15erav3.data.bpe import PATTERN
from s15erav3.data.detokenizer import TextStream
from s15erav3.data.tokenizer import Tokenizer

SPECIMEN = "naïve \u2013 日本語 €5, FOUR! 😀é\n\n ab abc cab<|endoftext|>"
EOT, UNUSED = 2000, (1990, 1999)


def vocabulary() -> Tokenizer:
    """All bytes, and up to five in a row as they come in the specimen: most of them split characters."""
    raw = SPECIMEN.encode()
    runs = {raw[at : at + n] for n in range(2, 6) for at in range(len(raw) - n + 1)}
    ranks = {token: i for i, token in enumerate([bytes([b]) for b in range(256)] + sorted(runs))}
    assert len(ranks) < min(UNUSED)
    special = {"<|endoftext|>": EOT}
    return Tokenizer(tiktoken.Encoding("specimen", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special))


TOKENIZER = vocabulary()
RANKS = TOKENIZER.encoding._mergeable_ranks
# U+FFFD would be taken for a character that broke.
TEXTS = st.text(
    st.one_of(st.sampled_from(SPECIMEN), st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")),
    max_size=30,
)


@st.composite
def tokens_of(draw: st.DrawFn, text: str) -> list[int]:
    """Any way to write ``text``, hardly ever the tokenizer's own."""
    raw, at, ids = text.encode(), 0, list[int]()
    while at < len(raw):
        possible = [n for n in range(5, 0, -1) if at + n <= len(raw) and raw[at : at + n] in RANKS]
        length = draw(st.sampled_from(possible))
        ids.append(RANKS[raw[at : at + length]])
        at += length
    return ids


TEXTS_AND_TOKENS = TEXTS.flatmap(lambda text: st.tuples(st.just(text), tokens_of(text)))


def streamed(ids: list[int], stop: list[str] | None = None) -> list[str]:
    """The pieces; tokens after the end are given all the same, and give nothing."""
    stream, pieces = TextStream(TOKENIZER, stop or []), list[str]()
    for token in ids:
        ended = stream.ended
        pieces.append(stream.add(token))
        assert not (ended and pieces[-1])
    pieces.append(stream.close())
    assert stream.ended and stream.close() == ""
    assert stream.text == "".join(pieces)
    return pieces


def cut(text: str, stop: list[str]) -> str:
    """Letter by letter: until the text ends in a stop string, the longest of those if there are several."""
    for end in range(1, len(text) + 1):
        here = [string for string in stop if string and text[:end].endswith(string)]
        if here:
            return text[: end - max(map(len, here))]
    return text


@settings(max_examples=150, derandomize=True)
@given(TEXTS_AND_TOKENS)
def test_the_pieces_are_the_text(made: tuple[str, list[int]]) -> None:
    """Catches characters that break between tokens, and pieces lost at the end."""
    text, ids = made
    pieces = streamed(ids)
    assert "".join(pieces) == TOKENIZER.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert all(piece.encode().decode() == piece for piece in pieces)


@settings(max_examples=100, derandomize=True)
@given(TEXTS_AND_TOKENS)
def test_a_character_comes_with_its_last_byte(made: tuple[str, list[int]]) -> None:
    """Catches text held back for no reason: without stop strings, all whole characters are out."""
    _, ids = made
    stream = TextStream(TOKENIZER)
    for count, token in enumerate(ids, start=1):
        stream.add(token)
        assert stream.text == TOKENIZER.decode(ids[:count])


@settings(max_examples=150, derandomize=True)
@given(st.lists(st.integers(0, max(RANKS.values())) | st.integers(0x80, 0xFF) | st.sampled_from([EOT, *UNUSED])))
def test_any_tokens_are_text(ids: list[int]) -> None:
    """A model may write bytes that are no UTF-8: catches other text than decoding all, and exceptions."""
    assert "".join(streamed(ids)) == TOKENIZER.decode(ids)


LETTERS = st.text("abc 日é", max_size=14)
STOPS = st.lists(st.text("abc 日é", max_size=4), max_size=4)


@settings(max_examples=300, derandomize=True)
@given(LETTERS.flatmap(lambda text: st.tuples(st.just(text), tokens_of(text), tokens_of(text))), STOPS)
def test_the_first_stop_string_ends_the_text(made: tuple[str, list[int], list[int]], stop: list[str]) -> None:
    """Catches a stop string that is missed between tokens, a part of one that is told, and an end that depends on
    how tokens cut the text."""
    text, ids, others = made
    pieces = streamed(ids, stop)
    assert "".join(pieces) == "".join(streamed(others, stop)) == cut(text, stop)


@settings(max_examples=150, derandomize=True)
@given(LETTERS.flatmap(lambda text: st.tuples(st.just(text), tokens_of(text))), STOPS)
def test_what_is_told_stands_whatever_follows(made: tuple[str, list[int]], stop: list[str]) -> None:
    """Catches text told that turns out to begin a stop string, and text held back that cannot begin one."""
    text, ids = made
    stream, certain = TextStream(TOKENIZER, stop), ""
    for count, token in enumerate(ids, start=1):
        certain += stream.add(token)
        assert text.startswith(certain)
        if stream.ended:
            break
        read = TOKENIZER.decode(ids[:count])
        held = read[len(certain) :]
        assert not held or any(string.startswith(held) for string in stop)
        assert not any(string and read.endswith(string[:n]) and n > len(held)
                       for string in stop for n in range(1, len(string)))  # fmt: skip


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("abcabd", ["abd"], "abc"),  # after a false start, within which the true one may begin
        ("aaab", ["aab"], "a"),
        ("ab", ["abc"], "ab"),  # never completed
        ("a日", ["日本"], "a日"),
        ("abc", [""], "abc"),  # an empty one would end everything
        ("abc", ["c", "bc"], "a"),  # complete at once: the longer
        ("abcdef", ["abcdef", "cd"], "ab"),  # complete first
        ("x\n\ny", ["\n\n"], "x"),
        ("abc", ["a"], ""),
        ("x<|endoftext|>y", ["<|endoftext|>"], "x"),  # spelt out, it is a text as any other
    ],
)
def test_stop_strings_by_hand(text: str, stop: list[str], expected: str) -> None:
    """Byte by byte, and in one piece as a tokenizer may have it."""
    whole = Tokenizer(
        tiktoken.Encoding(
            "whole",
            pat_str=PATTERN,
            mergeable_ranks={bytes([b]): b for b in range(256)} | {text.encode(): 256},
            special_tokens={"<|endoftext|>": 300},
        )
    )
    for ids in (list(text.encode()), [256]):
        stream = TextStream(whole, stop)
        assert "".join([*map(stream.add, ids), stream.close()]) == stream.text == expected


def test_a_stream_ends_by_itself_only_at_a_stop_string() -> None:
    """Who generates asks ``ended`` after each token."""
    stream = TextStream(TOKENIZER, ["bc"])
    seen = [(stream.add(byte), stream.ended) for byte in b"abbcd"]
    assert seen == [("a", False), ("", False), ("b", False), ("", True), ("", True)]
    assert (stream.close(), stream.text) == ("", "ab")
    stream = TextStream(TOKENIZER, ["bc"])
    seen = [(stream.add(byte), stream.ended) for byte in b"ab"]
    assert seen == [("a", False), ("", False)]
    assert (stream.close(), stream.ended, stream.text) == ("b", True, "ab")
    assert (stream.add(ord("x")), stream.text) == ("", "ab")


@pytest.mark.parametrize("inside", [EOT, *UNUSED])
def test_special_tokens_and_unused_ids_give_nothing(inside: int) -> None:
    """Catches their names in the text, and a character that breaks around them: decoding skips them too."""
    stream = TextStream(TOKENIZER, ["日b"])
    first, second = "日".encode()[:1], "日".encode()[1:]
    ids = [*first, inside, *second, inside, ord("a")]
    assert [stream.add(token) for token in ids] == ["", "", "", "", "", "日a"]
    assert stream.text == TOKENIZER.decode(ids)


def test_an_unfinished_character_is_dropped() -> None:
    """A limit of tokens may fall within a character."""
    for stop in ([], ["日"]):
        assert streamed([ord("a"), *"日".encode()[:2]], stop) == ["a", "", "", ""]


def test_the_specimen_is_awkward() -> None:
    """Else nothing here would break a character."""
    own = TOKENIZER.encode(SPECIMEN)
    pieces = [TOKENIZER.bytes_of(token) for token in RANKS.values()]
    broken = [piece for piece in pieces if piece.decode(errors="ignore").encode() != piece]
    assert len(broken) > 128 + 50 and len(own) < len(SPECIMEN.encode())
    assert any(0x80 <= TOKENIZER.bytes_of(token)[0] < 0xC0 for token in own)
