"""Tokens in their domains: exact on written text, whole on the bundled and the real corpus."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiktoken

from s15erav3.data.corpus import Corpus
from s15erav3.data.labels import DOMAINS, Domain, label_tokens, token_name
from s15erav3.data.splits import Part
from s15erav3.data.tokenizer import Tokenizer, load_public
from s15erav3.data.tokens import SplitPlan, TokenFiles, corpus_tokenizer, tokenize
from s15erav3.errors import UserError

TEXT = """\
RCB 1st Inns
5.5 overs
Boché to Stoinis, leg byes, FOUR, to the fence € 4 to RCB

RCB 1st Inns
6.0 overs

RCB 1st Inns
6.1 overs
Rashid Khan to Stoinis, out Caught by Tomar!! Goes

MI 1st Inns
19.6 overs
Boché to Ngô, SIX, over MI 1st Inns"""


def labelled(file: Path, tokenizer: Tokenizer, form: str = "ipl") -> tuple[dict[str, Domain], list[int]]:
    corpus = Corpus(file, form)  # type: ignore[arg-type]
    tokens = tokenize(corpus, tokenizer, None).part("all")
    return label_tokens(corpus, None, "all", tokenizer, tokens), tokens.tolist()


def said(labels: dict[str, Domain], tokens: list[int], tokenizer: Tokenizer, domain: str, value: str) -> bytes:
    """The bytes of all tokens with that value."""
    chosen = labels[domain].codes == labels[domain].names.index(value)
    return b"".join(tokenizer.bytes_of(t) for t, yes in zip(tokens, chosen, strict=True) if yes)


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("kind", ["bytes", "gpt2"])
def test_the_bytes_of_labelled_tokens_are_what_the_label_says(tmp_path: Path, newline: str, kind: str) -> None:
    """Catches offsets in characters, offsets that end-of-text shifts by one, and events shifted by CRLF."""
    file = tmp_path / "written.txt"
    file.write_bytes(TEXT.replace("\n", newline).encode())
    tokenizer = only_bytes() if kind == "bytes" else load_public("gpt2")
    labels, tokens = labelled(file, tokenizer)

    def of(domain: str, value: str) -> str:
        return said(labels, tokens, tokenizer, domain, value).decode()

    assert of("part", "bowler") == "BochéRashid KhanBoché"
    assert of("part", "batter") == " Stoinis Stoinis Ngô"
    assert of("part", "outcome") == " leg byes, FOUR out Caught by Tomar!! SIX"
    assert of("part", "header") == "RCB 1st Inns" * 3 + "MI 1st Inns"
    assert of("part", "over") == "5.5 overs6.0 overs6.1 overs19.6 overs"
    assert of("part", "commentary") == " to the fence € 4 to RCB Goes over MI 1st Inns"
    first, second, third, fourth = (part + "\n\n" for part in TEXT.split("\n\n"))
    assert of("event", "FOUR") == first
    assert of("event", "unknown") == of("bowler", "unknown") == second
    assert of("phase", "powerplay") == first + second
    assert of("phase", "middle") == of("bowler", "Rashid Khan") == third
    assert of("batter", "Stoinis") == first + third
    assert of("team", "MI") == of("phase", "death") == fourth[:-2]
    for domain in DOMAINS:
        silent = labels[domain].codes == labels[domain].names.index("none")
        assert [t for t, no_text in zip(tokens, silent, strict=True) if no_text] == [tokenizer.end_of_text] * 3


def only_bytes(*wider: str) -> Tokenizer:
    """Each byte a token, so that every character of several bytes is cut; and the wider ones, the last if it can be."""
    ranks = {token: rank for rank, token in enumerate([bytes([b]) for b in range(256)] + [w.encode() for w in wider])}
    pattern = "|".join([*wider[-1:], r"[\s\S]"])
    special = {"<|endoftext|>": len(ranks)}
    return Tokenizer(tiktoken.Encoding("bytes", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special))


def test_a_token_that_spans_two_parts_belongs_where_it_begins(tmp_path: Path) -> None:
    """Catches the token's last byte, or its middle, deciding: here one token holds the end of an event and the
    header of the next."""
    tokenizer = only_bytes("\nM", "I ", "\nMI ", "x\n", "x\n\nMI ")
    file = tmp_path / "written.txt"
    file.write_text("MI 1st Inns\n6.0 overs\nA to B, FOUR, x\n\nMI 1st Inns\n6.1 overs\nC to B, SIX, y\n")
    labels, tokens = labelled(file, tokenizer)
    wide = tokens.index(260)
    assert [labels[d].names[labels[d].codes[wide]] for d in ("part", "event", "phase", "bowler")] == [
        "commentary", "FOUR", "powerplay", "A",
    ]  # fmt: skip
    after = wide + 1
    assert [labels[d].names[labels[d].codes[after]] for d in ("part", "event")] == ["header", "SIX"]


def test_plain_text_has_its_vocabulary_alone(tmp_path: Path) -> None:
    """Catches prose parsed as cricket, and ids taken for codes."""
    file = tmp_path / "prose.txt"
    file.write_text("No cricket.\n\nNone at all.")
    tokenizer = only_bytes()
    labels, tokens = labelled(file, tokenizer, "text")
    assert set(labels) == {"token"}
    codes, names = labels["token"]
    assert [names[c] for c in codes] == [token_name(tokenizer, t) for t in tokens]
    assert len(names) == len(set(tokens))


def test_other_tokens_are_refused(tmp_path: Path, sample: Corpus, vocabulary: Tokenizer, plan: SplitPlan) -> None:
    """Labels of another part would be wrong from the first event on, without a sign."""
    tokens = tokenize(sample, vocabulary, plan).part("val")
    with pytest.raises(UserError, match="part 'test'"):
        label_tokens(sample, plan, "test", vocabulary, tokens)


def test_names_of_tokens_are_printable_and_different(vocabulary: Tokenizer) -> None:
    """Catches line ends that break a table, and two tokens under one name."""
    tokenizer = only_bytes()
    names = [token_name(tokenizer, t) for t in range(257)]
    assert names[10] == "\\n" and names[92] == "\\\\" and names[0xC2] == "\\xc2" and names[256] == "<|endoftext|>"
    assert names[65] == "A" and names[32] == " "
    for some in (tokenizer, vocabulary, load_public("gpt2")):
        names = [token_name(some, t) for t in range(some.n_vocab)]
        assert len(set(names)) == some.n_vocab
        assert all(name.isprintable() for name in names)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_the_bundled_parts_are_labelled_whole(
    sample: Corpus, vocabulary: Tokenizer, plan: SplitPlan, sample_tokens: TokenFiles, part: Part
) -> None:
    """Catches documents of another part, or in another order: then names would not be under their labels."""
    check_part(sample, vocabulary, plan, sample_tokens, part)


def check_part(corpus: Corpus, tokenizer: Tokenizer, plan: SplitPlan, files: TokenFiles, part: Part) -> None:
    tokens = files.part(part)
    labels = label_tokens(corpus, plan, part, tokenizer, tokens)
    assert all(len(domain.codes) == len(tokens) for domain in labels.values())
    assert not any("unknown" in labels[domain].names for domain in DOMAINS)
    ids = tokens.tolist()
    for domain in ("bowler", "batter"):
        inside = labels["part"].codes == labels["part"].names.index(domain)
        # Runs of tokens inside a name, each with the value that its tokens have.
        borders = np.flatnonzero(np.diff(inside.astype(np.int8), prepend=0, append=0))
        for start, end in list(pairwise(borders.tolist()))[::2]:
            name = b"".join(map(tokenizer.bytes_of, ids[start:end])).decode().strip()
            assert {labels[domain].names[c] for c in labels[domain].codes[start:end].tolist()} == {name}


@pytest.mark.slow
def test_the_real_corpus_is_labelled_whole(real_corpus: Path, plan: SplitPlan) -> None:
    """Catches forms of the real commentary that were not thought of: every ball has a bowler, a batter, an outcome."""
    corpus = Corpus(real_corpus)
    tokenizer = corpus_tokenizer(corpus, plan, 2048)
    files = tokenize(corpus, tokenizer, plan)
    for part in ("train", "val"):
        check_part(corpus, tokenizer, plan, files, part)
    labels = label_tokens(corpus, plan, "train", tokenizer, files.part("train"))
    assert set(labels["event"].names) == {"FOUR", "SIX", "wicket", "other", "none"}
    assert len(labels["team"].names) == 11
