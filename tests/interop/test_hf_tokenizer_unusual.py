"""Vocabularies and patterns made up to be unlike any that was ever trained, and files that others wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from s15erav3.data.bpe import PATTERN
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.errors import UserError
from s15erav3.interop.hf_tokenizer import read_tokenizer, write_tokenizer
from tests.interop.parts import (
    END,
    TYPICAL,
    Hub,
    byte_ranks,
    check_sentence,
    documents,
    foreign,
    spelled,
    split_by,
    their_ids,
)


def made_up(pattern: str, *tokens: str) -> Tokenizer:
    ranks = byte_ranks(*tokens)
    return Tokenizer(
        tiktoken.Encoding("made_up", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END: len(ranks)})
    )


@settings(max_examples=100)
@given(
    tokens=st.lists(st.text("ab", min_size=2, max_size=6), unique=True, max_size=12),
    words=st.lists(st.text("ab", max_size=8), max_size=8),
    long=st.text("ab", min_size=80, max_size=200),
)
@example(tokens=["aba"], words=["aba", "xaba"], long="")
@example(tokens=["abab", "ab"], words=["abab", "xabab"], long="ab" * 100)
@example(tokens=["aa", "aaa"], words=["aaa", "aaaa", "aaaaa"], long="a" * 101)
def test_any_vocabulary(scratch: Path, tokens: list[str], words: list[str], long: str) -> None:
    """Prevents pairs that tiktoken would not merge, or in another order, and words that no merging finds."""
    mine = made_up(PATTERN, *tokens)
    write_tokenizer(mine, scratch, max_length=8)
    text = " ".join([*words, *tokens, long])
    assert their_ids(scratch, text) == mine.encode(text)
    again = read_tokenizer(scratch)
    assert (again.name, again.fingerprint) == ("made_up", mine.fingerprint)


@pytest.mark.parametrize(
    "pattern",
    [
        r"[ab]{2}$|[\s\S]",  # Ruby's $ ends a line
        r"a{2}+|[ab]{1,3}+b?|\p{L}{2,}+|[\s\S]",  # Ruby's {1,3}+ is no possessive
        r"(?i:a)(?!b)|a?b{1,2}?|[^b$\n]{1,2}+|(?:ab)++|\$|[\s\S]",
        r"a*+b|(?>a+)\n|\s|[\s\S]",
        PATTERN,
    ],
)
@given(text=st.text("aAb $\n1", max_size=30))
@example(text="ab\nb")
@example(text="aaaaaabbb")
def test_any_pattern(scratch: Path, pattern: str, text: str) -> None:
    """Prevents a pattern from meaning another thing in the other engine's dialect."""
    mine = made_up(pattern, *PAIRS)
    write_tokenizer(mine, scratch, max_length=8)
    assert their_ids(scratch, text) == mine.encode(text)
    assert read_tokenizer(scratch).fingerprint == mine.fingerprint


PAIRS = [left + right for left in "aAb $\n1" for right in "aAb $\n1"]
"""Every pair is a token, so that each cut between two characters shows in the ids."""


@pytest.mark.parametrize("pattern", [r"(?<=a)b|[\s\S]", r"\ba|[\s\S]", r"(a){1,3}+|[\s\S]", r"[a&&[^b]]|[\s\S]"])
def test_pattern_that_is_not_understood(pattern: str, tmp_path: Path) -> None:
    """Prevents a pattern from being handed on that the two engines may read in two ways."""
    with pytest.raises(UserError, match=r"tokenizer made_up splits words by a pattern with") as caught:
        write_tokenizer(made_up(pattern), tmp_path / "out", max_length=8)
    check_sentence(caught)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("ranks", "special"),
    [
        ({bytes([b]): b + 1 for b in range(256)}, {END: 0}),
        ({bytes([b]): b + (b > 9) for b in range(256)}, {END: 300}),
        (byte_ranks(END), {END: 257}),
        (byte_ranks(), {END: 256, "<|same|>": 256}),
    ],
    ids=["special first", "gap", "special is also a word", "two names"],
)
def test_ids_that_cannot_be_written(ranks: dict[bytes, int], special: dict[str, int], tmp_path: Path) -> None:
    """Prevents ids that are silently numbered anew."""
    mine = Tokenizer(tiktoken.Encoding("odd", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special))
    with pytest.raises(UserError, match=r"tokenizer odd cannot be written as tokenizer\.json") as caught:
        write_tokenizer(mine, tmp_path / "out", max_length=8)
    check_sentence(caught)
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written(corpus_bpe: Tokenizer, tmp_path: Path) -> None:
    """Prevents a traceback where a file is in the way."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file") as caught:
        write_tokenizer(corpus_bpe, tmp_path / "file", max_length=8)
    check_sentence(caught)


@pytest.mark.parametrize("eos", ["</s>", {"content": "</s>", "lstrip": False}])
def test_foreign_tokenizer(eos: object, tmp_path: Path) -> None:
    """Prevents imported models from reading other tokens than they know, or from never ending."""
    theirs = foreign("<pad>", "</s>")
    theirs.enable_truncation(3)
    theirs.enable_padding(length=9)
    theirs.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    mine = read_tokenizer(tmp_path)
    theirs.no_truncation()
    theirs.no_padding()
    for text in [*documents()[:20], TYPICAL]:
        assert mine.encode(text) == theirs.encode(text).ids
        assert mine.decode(mine.encode(text)) == text
    assert mine.name == f"hf_{tmp_path.name}"
    assert mine.end_of_text == theirs.token_to_id("</s>") == 401
    assert mine.n_vocab == 402
    assert Tokenizer.from_state(mine.state()).fingerprint == mine.fingerprint
    write_tokenizer(mine, tmp_path / "again", max_length=8)
    assert read_tokenizer(tmp_path / "again").fingerprint == mine.fingerprint


def test_end_of_text_by_another_name(tmp_path: Path) -> None:
    """Prevents a chat model's end from being taken for that of its base, which has our name for it."""
    theirs = foreign(END, "<|im_end|>", "<|im_start|>")
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(tmp_path).end_of_text == 400
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    mine = read_tokenizer(tmp_path)
    assert mine.end_of_text == 401
    assert mine.encoding._special_tokens == {END: 401, "<|im_end|>": 400, "<|im_start|>": 402}


@pytest.mark.parametrize("regex", [r"[0-9b]", r"b$", r"\p{N}{1,3}+| b", r" ?a{1,2}|A(?=b)|1\z", PATTERN])
@given(text=st.text("aAb \n12", max_size=30))
@example(text="b\nb1234ab")
@example(text="aaaa ")
def test_foreign_pattern(scratch: Path, regex: str, text: str) -> None:
    """Prevents text that no match covers from being dropped, and Ruby's dialect from being read as Rust's."""
    ranks = byte_ranks(*(left + right for left in "aAb \n12" for right in "aAb \n12"))
    characters = dict(zip(ranks, map(spelled, ranks), strict=True))
    merges = [(characters[t[:1]], characters[t[1:]]) for t in ranks if len(t) == 2]
    theirs = tokenizers.Tokenizer(models.BPE(vocab={characters[t]: i for t, i in ranks.items()}, merges=merges))
    theirs.pre_tokenizer, theirs.decoder = split_by(regex), decoders.ByteLevel()
    theirs.add_special_tokens([END])
    theirs.save(str(scratch / "tokenizer.json"))
    (scratch / "tokenizer_config.json").write_text(json.dumps({"pattern": PATTERN if regex != PATTERN else "b$"}))
    mine = read_tokenizer(scratch)
    assert mine.encode(text) == theirs.encode(text).ids


def test_more_merges_than_needed(tmp_path: Path) -> None:
    """Prevents files from being refused that name every pair a token could be made of, as converters write them."""
    theirs = foreign(END)
    data = json.loads(theirs.to_str())
    vocabulary = data["model"]["vocab"]
    data["model"]["merges"] = [
        [token[:i], token[i:]]
        for token in sorted(vocabulary, key=vocabulary.__getitem__)
        for i in range(1, len(token))
        if token[:i] in vocabulary and token[i:] in vocabulary
    ]
    assert len(data["model"]["merges"]) > len(theirs.get_vocab()) - 257
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    mine = read_tokenizer(tmp_path)
    for text in documents():
        assert mine.encode(text) == theirs.encode(text).ids == their_ids(tmp_path, text)


@pytest.mark.parametrize("hub", ["gpt2"], indirect=True)
def test_gpt2_as_its_authors_published_it(hub: Hub, tmp_path: Path) -> None:
    """Prevents the one tokenizer that everybody has from being refused, or read as another."""
    ranks = hub.mine.encoding._mergeable_ranks
    merges = [" ".join(pair) for pair in json.loads((hub.folder / "tokenizer.json").read_text())["model"]["merges"]]
    assert len(merges) == 50_000
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [
                    {
                        **{"id": 50256, "special": True, "content": END, "single_word": False},
                        **{"lstrip": False, "rstrip": False, "normalized": True},
                    }
                ],
                "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
                "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
                "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
                "model": {
                    **{"dropout": None, "unk_token": None, "fuse_unk": False},
                    **{"continuing_subword_prefix": "", "end_of_word_suffix": ""},
                    "vocab": {spelled(token): i for token, i in ranks.items()} | {END: 50256},
                    "merges": merges,
                },
            }
        )
    )
    assert read_tokenizer(tmp_path).fingerprint == hub.mine.fingerprint
