"""Documents: together they are the text, each is one innings or one paragraph, and bad files are named."""

from __future__ import annotations

import codecs
import itertools
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s15erav3.data.commentary import Event, innings, parse_events
from s15erav3.data.corpus import Corpus, DocumentBoundary, Format
from s15erav3.errors import UserError

LINE = st.one_of(
    st.sampled_from(["", " ", "\t", "\u3000", "\x0b", "a", "word word", " indented", "naïve 😀", "MI 1st Inns"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=12),
)
TEXT = st.builds(
    lambda lines, ends, last: "".join(map("".join, zip(lines, itertools.cycle(ends), strict=False))) + last,
    st.lists(LINE, max_size=12),
    st.lists(st.sampled_from(["\n", "\r\n"]), min_size=1, max_size=3),
    LINE,
)


def texts(path: Path, form: Format = "text", document: DocumentBoundary = "blank_line") -> list[str]:
    return [d.text for d in Corpus(path, form, document).documents()]


def event(header: str, over: str, body: str = "") -> str:
    return f"{header}\n{over} overs\n{body or f'A to B, FOUR, at {over} ({header})'}\n\n"


def write(folder: Path, content: str | bytes, name: str = "corpus.txt") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def overs_of(path: Path) -> list[list[str]]:
    """The overs of each document."""
    return [re.findall(r"^(\S+) overs", text, re.MULTILINE) for text in texts(path, "ipl")]


def test_sample_documents_are_the_text(sample: Corpus) -> None:
    """Prevents text lost, doubled or changed between the innings of the bundled corpus."""
    documents = list(sample.documents())
    assert "".join(d.text for d in documents).encode() == sample.path.read_bytes()
    assert len(documents) > 50


def test_real_documents_are_the_text(real_corpus: Path) -> None:
    """Prevents text lost, and innings cut or run together, in the corpus the project is made around."""
    documents = list(Corpus(real_corpus).documents())
    assert "".join(d.text for d in documents).encode() == real_corpus.read_bytes()
    assert len(documents) == 363
    assert sum(len(d.contents) for d in documents) == 10_434


def test_real_innings_have_one_side_each(real_corpus: Path) -> None:
    """Prevents two innings in one document: of one header, no over goes back in both of the orders."""
    for text in texts(real_corpus, "ipl"):
        assert len(set(re.findall(r"^(.+ Inns)$", text, re.MULTILINE))) == 1
        overs = re.findall(r"^(\S+) overs?$", text, re.MULTILINE)
        assert len(overs) > 1
        for one, two in itertools.pairwise(overs):
            assert two >= one or float(two) >= float(one), (one, two)


@given(text=TEXT, mark=st.booleans(), document=st.sampled_from(["blank_line", "file"]))
@example(text="\n \n\na\n\n\t\nb\r\n\r\nc", mark=True, document="blank_line")
@example(text="a\n\n\n", mark=False, document="blank_line")
def test_documents_are_any_text(text: str, mark: bool, document: DocumentBoundary) -> None:
    """Prevents lost blank lines, CRLF, byte-order marks and last lines without an end from changing the text."""
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder), (codecs.BOM_UTF8 if mark else b"") + text.encode())
        plain = text.replace("\r\n", "\n")
        if not mark and plain.startswith("\ufeff"):
            plain = plain[1:]
        if not plain.strip():
            with pytest.raises(UserError, match="empty"):
                texts(file, document=document)
            return
        found = texts(file, document=document)
    assert "".join(found) == plain
    assert all(t.strip() for t in found), "a document of white space alone"
    if document == "file":
        assert len(found) == 1
    else:
        assert len(found) == len(re.findall(r"(?:^|\n\n)[^\n]", _emptied(plain).lstrip("\n")))


def _emptied(text: str) -> str:
    """The text with nothing on its blank lines."""
    return "\n".join("" if not line.strip() else "x" for line in text.split("\n"))


def test_paragraphs_keep_the_blank_lines_that_follow() -> None:
    """Prevents paragraphs cut anywhere but before the first line after a blank one."""
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder), "\n\none\ntwo\n\n\nthree\n \t\nfour")
        assert texts(file) == ["\n\none\ntwo\n\n\n", "three\n \t\n", "four"]
        assert texts(file, document="file") == [file.read_text()]


def test_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    """Prevents an order that depends on the file system, other files read, and paragraphs across files."""
    (tmp_path / "b").mkdir()
    write(tmp_path / "b", "in b", "z.txt")
    write(tmp_path, "last", "c.txt")
    write(tmp_path, "first\n\nsecond", "a.txt")
    write(tmp_path, "not text", "a.md")
    (tmp_path / "folder.txt").mkdir()
    assert texts(tmp_path) == ["first\n\n", "second", "in b", "last"]
    assert texts(tmp_path, document="file") == ["first\n\nsecond", "in b", "last"]


def test_innings_end_with_their_file(tmp_path: Path) -> None:
    """Prevents one innings made of two files."""
    write(tmp_path, event("MI 1st Inns", "0.1"), "a.txt")
    write(tmp_path, event("MI 1st Inns", "0.2"), "b.txt")
    assert texts(tmp_path, "ipl") == [event("MI 1st Inns", "0.1"), event("MI 1st Inns", "0.2")]


@pytest.mark.parametrize(
    "overs",
    [
        ["0.5", "1.0", "2.0", "9.5", "10.0", "10.4", "19.5", "20.0"],
        ["0.5", "1.0", "10.0", "10.5", "19.5", "2.0", "20.0", "3.1", "9.5"],
        ["0.1", "0.1", "0.2"],
    ],
    ids=["play order", "string order", "same over twice"],
)
def test_one_innings_in_either_order(tmp_path: Path, overs: list[str]) -> None:
    """Prevents an innings torn apart because the scraper sorted its overs as strings."""
    assert overs_of(write(tmp_path, "".join(event("MI 1st Inns", o) for o in overs))) == [overs]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["0.5", "9.0", "10.0", "19.5"], ["0.4", "10.1"]),
        (["0.5", "10.0", "2.0", "9.5"], ["0.4", "1.0", "10.1", "2.0"]),
        (["3.1", "19.5"], ["1.0", "10.0", "2.0"]),
        (["10.0", "2.0"], ["0.1", "3.0"]),
    ],
    ids=["play order", "string order", "play then string", "string then play"],
)
def test_same_side_follows_itself(tmp_path: Path, first: list[str], second: list[str]) -> None:
    """Prevents two innings of one side, one after the other, from becoming one document."""
    text = "".join(event("MI 1st Inns", o) for o in [*first, *second])
    assert overs_of(write(tmp_path, text)) == [first, second]


def test_new_header_is_a_new_innings(tmp_path: Path) -> None:
    """Prevents innings of two sides, or both innings of a side, in one document."""
    headers = ["MI 1st Inns", "CSK 2nd Inns", "CSK 1st Inns", "RCB 3rd Inns", "Royal XI 4th Inns"]
    events = [event(h, "5.1") for h in headers]
    assert texts(write(tmp_path, "".join(events)), "ipl") == events


def test_events_of_several_lines(tmp_path: Path) -> None:
    """Prevents commentary lines after the third from being dropped or taken for events of their own."""
    text = (
        "\nMI 1st Inns \n\n0.1 over\nA to B, FOUR, first line\nsecond line\n\nthird line\n\n"
        "MI 1st Inns\n0.2 overs\nA to B, SIX"
    )
    events = list(parse_events(text.splitlines(keepends=True), tmp_path))
    assert "".join(e.text for e in events) == text
    assert [(e.header, e.over, e.body) for e in events] == [
        ("MI 1st Inns", "0.1", "A to B, FOUR, first line second line third line"),
        ("MI 1st Inns", "0.2", "A to B, SIX"),
    ]
    assert list(innings(events)) == [events]
    (document,) = Corpus(write(tmp_path, text)).documents()
    assert document.text == text
    assert document.contents == ("a to b, four, first line second line third line", "a to b, six")


def test_commentary_that_ends_like_a_header(tmp_path: Path) -> None:
    """Prevents a whole corpus from being refused because one line of commentary ends in "the 1st Inns"."""
    said = "A to B, FOUR, all square\nThey need 12 more than in the 1st Inns"
    file = write(tmp_path, event("MI 2nd Inns", "19.1", said) + event("MI 2nd Inns", "19.2"))
    (document,) = Corpus(file).documents()
    assert len(document.contents) == 2


def test_contents_ignore_case_and_space(tmp_path: Path) -> None:
    """Prevents a repeat that differs in case, spacing or line breaks from passing for another text."""
    file = write(
        tmp_path,
        event("MI 1st Inns", "0.1", "A to B,  FOUR\nGreat") + event("CSK 2nd Inns", "7.1", "a TO b, four great"),
    )
    one, two = Corpus(file).documents()
    assert one.contents == two.contents
    one, two = Corpus(write(tmp_path, "Straße one\n\n\n\tSTRASSE  One\n"), "text").documents()
    assert one.contents == two.contents


def test_innings_takes_events_as_a_stream() -> None:
    """Prevents the whole corpus being held before the first innings is given out."""
    taken = []

    def events() -> itertools.chain[Event]:
        for number, header in enumerate(["MI 1st Inns", "CSK 2nd Inns", "RCB 1st Inns"]):
            taken.append(number)
            yield Event(header, "1.1", "said", "text")

    assert next(innings(events())) == [Event("MI 1st Inns", "1.1", "said", "text")]
    assert taken == [0, 1]


BAD = {
    "empty": (b"", "text", "give a file with text"),
    "byte-order mark only": (codecs.BOM_UTF8, "text", "give a file with text"),
    "white space only": (b" \n\n\t\r\n", "text", "give a file with text"),
    "white space for ipl": (b"\n \n", "ipl", "give a file with text"),
    "binary": (b"PK\x03\x04 text\n\0\x01\n", "text", "NUL bytes: it is binary, not UTF-8 text"),
    "binary for ipl": (b"MI 1st Inns\n\0", "ipl", "NUL bytes: it is binary, not UTF-8 text"),
    "Latin-1": ("plain line\n" * 5000 + "Müller\n").encode("latin-1"),
    "cut in a character": "caf\u00e9".encode()[:-1],
    "UTF-16": "text\n".encode("utf-16"),
    "an over without end": (f"MI 1st Inns\n{'9' * 5000}.1 overs\nA to B\n".encode(), "ipl", "data=text"),
    "prose": (
        b"\nCall me Ishmael.\n\nSome years ago\n",
        "ipl",
        "found 'Call me Ishmael.'; read other text with data=text",
    ),
    "junk before the first event": (
        b"junk\n\nMI 1st Inns\n1.1 overs\nA to B\n",
        "ipl",
        "read other text with data=text",
    ),
    "header without over": (b"MI 1st Inns\nA to B, FOUR\n", "ipl", "read other text with data=text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_named_with_a_remedy(tmp_path: Path, name: str) -> None:
    """Prevents tracebacks, and training on rubbish, for a file that is not what the config says."""
    case = BAD[name]
    content, form, remedy = case if isinstance(case, tuple) else (case, "text", "convert it to UTF-8")
    file = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        texts(file, form)
    message = str(caught.value)
    assert f"data.path={file}" in message
    assert remedy in message
    assert "\n" not in message


def test_bad_file_in_a_folder_is_named(tmp_path: Path) -> None:
    """Prevents a message that names the folder only, when one of many files is at fault."""
    write(tmp_path, "good", "a.txt")
    bad = write(tmp_path, b"caf\xe9", "b.txt")
    with pytest.raises(UserError, match=re.escape(str(bad))):
        texts(tmp_path)


def test_missing_path_is_named_with_a_remedy(tmp_path: Path) -> None:
    """Prevents a traceback for a mistyped path."""
    for ask in (Corpus.files, Corpus.fingerprint, lambda corpus: list(corpus.documents())):
        with pytest.raises(UserError, match=r"does not exist; give an existing") as caught:
            ask(Corpus(tmp_path / "nowhere.txt"))
        assert str(tmp_path / "nowhere.txt") in str(caught.value)


def test_folder_without_text_is_named_with_a_remedy(tmp_path: Path) -> None:
    """Prevents a folder of other files from being an empty corpus."""
    write(tmp_path, "text", "notes.md")
    with pytest.raises(UserError, match=r"folder without \.txt, \.txt\.gz, .* files; add some") as caught:
        texts(tmp_path)
    assert f"data.path={tmp_path}" in str(caught.value)


def test_fingerprint_follows_content_and_division(tmp_path: Path) -> None:
    """Prevents cached tokens of other text, or of other documents, from being used."""
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    here, there = (write(tmp_path / place, "one\n\ntwo\n", place + ".txt") for place in ("here", "there"))
    other = write(tmp_path, "one\n\ntwo.\n", "other.txt")
    assert Corpus(here).fingerprint() == Corpus(there).fingerprint()
    assert Corpus(here).fingerprint() == Corpus(there.parent).fingerprint()
    different = {
        Corpus(here, "text", "blank_line").fingerprint(),
        Corpus(here, "text", "file").fingerprint(),
        Corpus(here, "ipl").fingerprint(),
        Corpus(other, "text", "blank_line").fingerprint(),
    }
    write(here.parent, "three", "more.txt")
    different.add(Corpus(here.parent, "text", "blank_line").fingerprint())
    assert len(different) == 5
