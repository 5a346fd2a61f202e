"""Tokenizer files that cannot be read as they are meant: refused, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from s15erav3.data.bpe import PATTERN
from s15erav3.errors import UserError
from s15erav3.interop.hf_tokenizer import read_tokenizer
from tests.interop.parts import END, check_sentence, foreign, split_by

Edit = Callable[[dict[str, Any]], None]


def edit(**parts: Any) -> Edit:
    return lambda data: data.update(parts)


def edit_model(**parts: Any) -> Edit:
    return lambda data: data["model"].update(parts)


def edit_merges(change: Callable[[list[Any]], Any]) -> Edit:
    return lambda data: change(data["model"]["merges"])


def written_by(part: Any) -> Any:
    """A part of a tokenizer as JSON."""
    return json.loads(part.__getstate__())


def swap(merges: list[Any]) -> None:
    merges[5], merges[6] = merges[6], merges[5]


def drop_token(character: str) -> Edit:
    return lambda data: data["model"]["vocab"].pop(character)


def add_tokens(*contents: str) -> Edit:
    return lambda data: data["model"]["vocab"].update({content: 400 + i for i, content in enumerate(contents)})


DIGITS = pre_tokenizers.Digits(individual_digits=True)
WITH_SPACE = pre_tokenizers.ByteLevel(add_prefix_space=True)
TWO_SPLITS = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
        pre_tokenizers.Split(Regex(" "), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
SPLIT_TWICE = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex(" "), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
DROPS_GAPS = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex("a"), "removed"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)


EMPTY = [r"\p{N}*", r"a|\z", "$", r"(?=\p{Lu})", r"b|(?:a{0,2}+)+", r"(?!\S)|\s+", "(?:a|b?)"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (edit(normalizer=written_by(normalizers.NFC())), "normalizer of type NFC"),
        (edit(pre_tokenizer=None), "pre-tokenizer null"),
        (edit(pre_tokenizer=written_by(DIGITS)), "pre-tokenizer .*Digits"),
        (edit(pre_tokenizer=written_by(WITH_SPACE)), "pre-tokenizer .*ByteLevel"),
        (edit(pre_tokenizer=written_by(TWO_SPLITS)), "pre-tokenizer .*Split.*Split"),
        (edit(pre_tokenizer=written_by(SPLIT_TWICE)), "pre-tokenizer .*Split"),
        (edit(pre_tokenizer=written_by(DROPS_GAPS)), "pre-tokenizer .*Removed"),
        (edit(pre_tokenizer=written_by(split_by(r"\w+"))), r"pattern with '\\\\w\+'"),
        (edit(pre_tokenizer=written_by(split_by(r"\p{Alnum}+"))), r"pattern with '\\\\p{Alnum}\+'"),
        (edit(pre_tokenizer=written_by(split_by("(?:x{1,9999}){1,9999}"))), "pattern that tiktoken does not accept"),
        *((edit(pre_tokenizer=written_by(split_by(regex))), "pattern that matches empty text") for regex in EMPTY),
        (edit(decoder=None), "decoder of type none"),
        (edit_model(dropout=0.1), "BPE dropout"),
        (edit_model(end_of_word_suffix="</w>"), "parts of words|not a file of the tokenizers library"),
        (edit_merges(swap), "merges .* and .* in another order than their ids"),
        (edit_merges(lambda merges: merges.pop(5)), "but no merge of them"),
        (drop_token("!"), "not a file of the tokenizers library|no token with the id"),
        (drop_token("\u0143"), "no token with the id"),
        (add_tokens("qqqqq"), "has tokens that no merges produce"),
        (add_tokens("q q"), "a token with ' ', which is not a character"),
    ],
)
def test_refused(change: Edit, found: str, tmp_path: Path) -> None:
    """Prevents a tokenizer that is almost the one in the file: wrong ids show in nothing but a bad loss."""
    data = json.loads(foreign(cut=split_by(PATTERN)).to_str())
    data["added_tokens"] = [written_token(END, 400 + (len(data["model"]["vocab"]) - 400))]
    change(data)
    refuse(tmp_path, data, found)


def written_token(content: str, i: int, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": content, "special": special, **flags}


def refuse(folder: Path, data: object, found: str) -> None:
    file = folder / "tokenizer.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(UserError, match=found) as caught:
        read_tokenizer(folder)
    check_sentence(caught)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"text"', '{"model": {"type": "BPE"}}'])
def test_no_tokenizer_file(text: str, tmp_path: Path) -> None:
    """Prevents a traceback of the tokenizers library for a damaged or missing download."""
    with pytest.raises(UserError, match=r"has no tokenizer\.json") as caught:
        read_tokenizer(tmp_path)
    check_sentence(caught)
    refuse(tmp_path, text, "is not a file of the tokenizers library")
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not a file of the tokenizers library"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "model",
    [
        models.Unigram([("a", 0.0), ("b", -1.0)], 0, False),
        models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"),
        models.WordLevel({"a": 0}, unk_token="a"),
    ],
)
def test_other_models(model: models.Model, tmp_path: Path) -> None:
    """Prevents merges from being looked for where there are none."""
    refuse(tmp_path, tokenizers.Tokenizer(model).to_str(), f"has a {type(model).__name__} model")


def test_special_tokens_before_the_others(tmp_path: Path) -> None:
    """Prevents ids that a checkpoint would shift by one: Tokenizer.state keeps tokens in order, not their ids."""
    theirs = foreign(special_tokens=[END])
    assert theirs.token_to_id(END) == 0
    refuse(tmp_path, theirs.to_str(), "has no token with the id 0")


def test_vocabulary_without_some_bytes(tmp_path: Path) -> None:
    """Prevents tiktoken's panic at the first text with another character than the training text had."""
    refuse(tmp_path, foreign(END, initial_alphabet=[]).to_str(), "lacks some of the 256 bytes")


def test_added_words(tmp_path: Path) -> None:
    """Prevents words that are found before the text is cut from being spelt by their parts."""
    theirs = foreign(END)
    theirs.add_tokens([AddedToken("Kohli", normalized=False)])
    refuse(tmp_path, theirs.to_str(), "matches the added token 'Kohli'")


@pytest.mark.parametrize("eos", [None, "<eos>", {"content": "<eos>"}, {}, ["<eos>"], 3])
def test_no_end_of_text(eos: object, tmp_path: Path) -> None:
    """Prevents samples that never end, and documents that run into each other."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    refuse(tmp_path, foreign("<pad>").to_str(), "names no end-of-text token: eos_token of tokenizer_config.json is")


@pytest.mark.parametrize(("text", "found"), [("{", "is not JSON"), ("[]", "holds no JSON object but a list")])
def test_damaged_config(text: str, found: str, tmp_path: Path) -> None:
    """Prevents a traceback for the second file, or its being passed over."""
    (tmp_path / "tokenizer_config.json").write_text(text)
    refuse(tmp_path, foreign(END).to_str(), found)
