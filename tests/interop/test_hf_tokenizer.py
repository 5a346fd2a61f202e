"""The written tokenizer gives transformers the ids that tiktoken gives us, and what is read gives us theirs."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s15erav3.data.corpus import Corpus
from s15erav3.data.long_words import LONGEST_WORD, cut_long_words
from s15erav3.data.tokenizer import PUBLIC, Tokenizer
from s15erav3.interop.hf_tokenizer import read_tokenizer
from tests.interop.parts import END, TYPICAL, Hub, documents

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
