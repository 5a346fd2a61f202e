"""Splits: whole documents, no commentary on two sides, the same everywhere for one seed."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s15erav3.data.corpus import Corpus, Document
from s15erav3.data.splits import Split, assign_splits
from s15erav3.errors import UserError


def split(
    documents: Sequence[Document], seed: int = 0, val_fraction: float = 0.05, test_fraction: float = 0.05
) -> list[Split]:
    return assign_splits(documents, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)


def bodies(text: str) -> set[str]:
    """Commentary of each event of some documents, found without the package, without case and spacing."""
    events = re.split(r"^\S.* (?:1st|2nd) Inns\s*\n\s*\d+\.\d overs?\s*$", text, flags=re.MULTILINE)[1:]
    return {" ".join(event.lower().split()) for event in events}


def text_of(documents: Sequence[Document], sides: Sequence[Split], side: Split) -> str:
    return "".join(d.text for d, s in zip(documents, sides, strict=True) if s == side)


def shares(documents: Sequence[Document], sides: Sequence[Split]) -> Counter[Split]:
    """Fraction of the bytes on each side."""
    total = sum(len(d.text.encode()) for d in documents)
    return Counter({side: len(text_of(documents, sides, side).encode()) / total for side in set(sides)})


def assert_nothing_repeats(documents: Sequence[Document], sides: Sequence[Split]) -> None:
    train, val, test = (bodies(text_of(documents, sides, side)) for side in ("train", "val", "test"))
    assert train and val and test
    assert not train & val
    assert not train & test
    assert not val & test


@pytest.fixture(scope="module")
def planted(sample: Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    """The sample with repeats: a third of its innings share an event with another one, spelt otherwise."""
    documents = list(sample.documents())
    assert len(set(itertools.chain.from_iterable(d.contents for d in documents))) > 2000
    texts = [d.text for d in documents]
    for number in range(0, len(texts) - 10, 3):
        header = texts[number].partition("\n")[0]
        said = texts[number + 10].split("\n")[2]
        respelt = said.upper() if number % 2 else said.replace(" ", "  \n", 1)
        texts[number] = f"{texts[number].rstrip()}\n\n{header}\n20.0 overs\n{respelt}\n\n"
    file = tmp_path_factory.mktemp("planted") / "commentary.txt"
    file.write_text("".join(texts))
    planted = list(Corpus(file).documents())
    told = Counter(itertools.chain.from_iterable(bodies(d.text) for d in planted))
    assert sum(count > 1 for count in told.values()) > 20, "the repeats are there"
    return planted


@pytest.mark.parametrize("seed", range(5))
def test_planted_repeats_stay_on_one_side(planted: list[Document], seed: int) -> None:
    """Prevents validation text that was trained on: innings told twice, spelt otherwise, are kept together."""
    assert_nothing_repeats(planted, split(planted, seed))


@pytest.mark.parametrize("seed", range(3))
def test_real_repeats_stay_on_one_side(real_corpus: Path, seed: int) -> None:
    """Prevents the leak of the original corpus, in which innings were scraped twice."""
    documents = list(Corpus(real_corpus).documents())
    told = Counter(itertools.chain.from_iterable(d.contents for d in documents))
    assert sum(count > 1 for count in told.values()) > 200, "the corpus repeats itself"
    sides = split(documents, seed)
    assert_nothing_repeats(documents, sides)
    found = shares(documents, sides)
    assert found["val"] == pytest.approx(0.05, abs=0.02)
    assert found["test"] == pytest.approx(0.05, abs=0.02)


@given(
    contents=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), min_size=20, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_shared_content_means_same_split(contents: list[list[int]], seed: int) -> None:
    """Prevents chains of repeats (one with two, two with three) from ending on two sides."""
    documents = [Document(f"{number:3}", tuple(map(str, said))) for number, said in enumerate(contents)]
    try:
        sides = split(documents, seed, 0.3, 0.3)
    except UserError:
        return
    side_of: dict[str, str] = {}
    for document, side in zip(documents, sides, strict=True):
        for content in document.contents:
            assert side_of.setdefault(content, side) == side


@pytest.mark.parametrize(("val", "test"), [(0.05, 0.05), (0.1, 0.2), (0.3, 0.05), (0.4, 0.4)])
def test_fractions_are_kept(sample: Corpus, val: float, test: float) -> None:
    """Prevents validation and test parts of another size than asked for, counted in bytes."""
    documents = list(sample.documents())
    largest = max(len(d.text) for d in documents) / sum(len(d.text) for d in documents)
    for seed in range(5):
        found = shares(documents, split(documents, seed, val, test))
        assert val <= found["val"] < val + largest
        assert found["val"] + found["test"] == pytest.approx(val + test, abs=largest)
        assert found["train"] > 0


def test_fractions_count_bytes_not_documents() -> None:
    """Prevents a tenth of the documents, though long ones, from being half of the text."""
    documents = [Document(f"{i}" + "é" * (3000 if i % 10 == 0 else 10), (str(i),)) for i in range(3000)]
    for seed in range(5):
        found = shares(documents, split(documents, seed, 0.1, 0.1))
        assert found["val"] == pytest.approx(0.1, abs=0.005)
        assert found["test"] == pytest.approx(0.1, abs=0.01)


def test_seed_decides(sample: Corpus) -> None:
    """Prevents splits that differ from call to call, or that no seed changes."""
    documents = list(sample.documents())
    assert split(documents, 3) == split(documents, 3)
    assert len({tuple(split(documents, seed)) for seed in range(10)}) == 10


def test_split_does_not_depend_on_hash_seed(python: Callable[..., str], sample: Corpus) -> None:
    """Prevents another validation set in every process, where a set or hash() decides an order."""
    script = f"""
from pathlib import Path
from s15erav3.data.corpus import Corpus
from s15erav3.data.splits import assign_splits
documents = Corpus(Path({str(sample.path)!r})).documents()
print(*assign_splits(documents, seed=0, val_fraction=0.05, test_fraction=0.05))
"""
    expected = split(list(sample.documents()))
    for seed in ("0", "12345"):
        assert python(script, PYTHONHASHSEED=seed).split() == expected


def test_no_part_is_wanted_of_fraction_zero() -> None:
    """Prevents a test part that was not asked for, and the error that it is empty."""
    documents = [Document(f"{i:3}", (str(i),)) for i in range(10)]
    assert Counter(split(documents, 0, 0.2, 0.0)) == {"train": 8, "val": 2}
    assert Counter(split(documents, 0, 0.0, 0.2)) == {"train": 8, "test": 2}


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_too_few_documents(count: int) -> None:
    """Prevents an empty part, which fails much later, when there is too little to divide."""
    documents = [Document("some text", (str(i),)) for i in range(count)]
    with pytest.raises(UserError, match=rf"has {count} independent documents, .*too few.*; give more text") as caught:
        split(documents)
    assert "data.val_fraction=0.05" in str(caught.value)


@pytest.mark.parametrize("count", [4, 5, 10])
def test_few_documents_are_one_in_each_part(count: int) -> None:
    """Prevents a refusal of text that can be divided, because a twentieth of it is less than a document."""
    documents = [Document("some text", (str(i),)) for i in range(count)]
    for seed in range(9):
        assert Counter(split(documents, seed)) == {"train": count - 2, "val": 1, "test": 1}


def in_bounds(sizes: Sequence[int], sides: Sequence[Split], fractions: dict[Split, float]) -> bool:
    """Whether the parts are as large as promised."""
    total = sum(sizes)
    held = {part: [size for size, side in zip(sizes, sides, strict=True) if side == part] for part in PARTS}
    return sum(held["train"]) * 2 >= (1 - sum(fractions.values())) * total and all(
        held[part]
        and sum(held[part]) * 2 >= fraction * total
        and (len(held[part]) == 1 or sum(held[part]) <= 2 * fraction * total)
        for part, fraction in fractions.items()
    )


PARTS: tuple[Split, ...] = ("train", "val", "test")
FRACTIONS = st.sampled_from([0.02, 0.05, 0.1, 0.2, 0.3, 0.45])


@given(
    sizes=st.lists(st.integers(1, 20) | st.integers(1, 2000), max_size=6),
    val=FRACTIONS,
    test=FRACTIONS,
    seed=st.integers(0, 999),
)
@example(sizes=[10, 10, 10, 10], val=0.3, test=0.1, seed=0)
@example(sizes=[500, 12, 11, 10, 12, 11], val=0.05, test=0.05, seed=0)
@example(sizes=[500, 40, 41, 39, 40, 41], val=0.05, test=0.05, seed=0)
def test_few_documents_of_any_size(sizes: list[int], val: float, test: float, seed: int) -> None:
    """Prevents parts that are empty or of absurd size, and a refusal where some division is as promised."""
    documents = [Document("x" * size, (str(i),)) for i, size in enumerate(sizes)]
    fractions: dict[Split, float] = {"val": val, "test": test}
    try:
        sides = split(documents, seed, val, test)
    except UserError:
        assert not any(in_bounds(sizes, sides, fractions) for sides in itertools.product(PARTS, repeat=len(sizes)))
        return
    assert len(sides) == len(sizes)
    assert in_bounds(sizes, sides, fractions)


@given(
    sizes=st.lists(st.integers(1, 300), min_size=40, max_size=80),
    huge=st.integers(0, 10_000),
    seed=st.integers(0, 999),
)
def test_a_huge_document_among_small_ones(sizes: list[int], huge: int, seed: int) -> None:
    """Prevents a huge document in validation, a part left empty by it, and a refusal that depends on luck."""
    documents = [Document("x" * size, (str(i),)) for i, size in enumerate([*sizes, *[huge] * bool(huge)])]
    if sum(sizes) < 0.07 * (huge + sum(sizes)):
        return
    sides = split(documents, seed)
    assert in_bounds([len(d.text) for d in documents], sides, {"val": 0.05, "test": 0.05})
    if huge > 3000:
        assert sides[-1] == "train"


@pytest.mark.parametrize(
    ("sizes", "settings", "remedy"),
    [
        ([100_000] + [10] * 50, {}, "or lower these fractions"),
        ([100_000] + [10] * 50, {"val_fraction": 0.002, "test_fraction": 0.002}, ""),
        ([10, 10, 10], {}, "or raise these fractions"),
        ([10, 10, 10], {"val_fraction": 0.3, "test_fraction": 0.3}, ""),
    ],
    ids=["huge", "huge mended", "few", "few mended"],
)
def test_the_remedy_helps(sizes: list[int], settings: dict[str, float], remedy: str) -> None:
    """Prevents a refusal that names no setting, or advice that does not help."""
    documents = [Document("x" * size, (str(i),)) for i, size in enumerate(sizes)]
    if not remedy:
        assert set(split(documents, **settings)) == set(PARTS)
        return
    with pytest.raises(UserError, match=remedy) as caught:
        split(documents)
    for word in ("data.val_fraction=0.05", "data.test_fraction=0.05", "data.document=blank_line", "give more text"):
        assert word in str(caught.value)


def test_one_repeat_everywhere_is_too_few_documents() -> None:
    """Prevents a leak, or a crash, when every document repeats one and the same text."""
    with pytest.raises(UserError, match="1 independent documents"):
        split([Document(f"{i:3}", ("the same", str(i))) for i in range(50)])


def test_one_large_document_does_not_depend_on_luck() -> None:
    """Prevents an error for some seeds only, from a corpus of 61 documents of which one is large."""
    documents = [Document("x" * 100, (str(i),)) for i in range(60)]
    documents.append(Document("y" * 12_000, ("y",)))
    for seed in range(60):
        assert set(split(documents, seed)) == {"train", "val", "test"}


def test_events_without_commentary_tie_nothing(tmp_path: Path) -> None:
    """Prevents innings from being taken for repeats of each other because each has an event with no text."""
    file = tmp_path / "corpus.txt"
    file.write_text(
        "".join(f"T{i} 1st Inns\n0.1 overs\n\nT{i} 1st Inns\n0.2 overs\nA{i} to B{i}, FOUR\n\n" for i in range(60))
    )
    assert set(split(list(Corpus(file).documents()))) == {"train", "val", "test"}
