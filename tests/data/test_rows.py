"""JSON Lines, Parquet and compressed text: the same documents as plain text, and a sentence for each fault."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s15erav3.data.commentary import is_commentary
from s15erav3.data.corpus import Corpus
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.sources import sources
from s15erav3.errors import UserError

TEXTS = ["first\n\nof two paragraphs", "naïve 😀 \u2028 <|endoftext|>\r\n", None, " \n", "", "last"]
KEPT = [TEXTS[0], TEXTS[1], TEXTS[5]]
LINES = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS))


def zstd(data: bytes) -> bytes:
    """Two frames, as parallel compressors write them."""
    half = len(data) // 2
    return b"".join(pa.compress(part, codec="zstd", asbytes=True) for part in (data[:half], data[half:]))


PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def write_parquet(file: Path, kind: pa.DataType | None = None) -> None:
    column = pa.array(TEXTS, pa.string())
    table = pa.table({"id": range(len(TEXTS)), "text": column.cast(kind) if kind else column, "more": TEXTS})
    pq.write_table(table, file, row_group_size=2)


def write_arrow(file: Path, writer: Callable[..., Any] = pa.ipc.new_stream) -> None:
    """In two batches; by default as ``datasets`` does."""
    table = pa.table({"id": range(len(TEXTS)), "text": pa.array(TEXTS, pa.string())})
    with writer(str(file), table.schema) as out:
        for batch in table.to_batches(max_chunksize=3):
            out.write_batch(batch)


def texts(path: Path) -> list[str]:
    corpus = Corpus(path, "text")
    found = list(corpus.texts())
    assert [document.text for document in corpus.documents()] == found
    return found


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        texts(path)
    said = str(caught.value)
    assert said.isprintable() and said.endswith(".") and str(path) in said
    return said


@pytest.mark.parametrize("pack", PACK)
def test_compressed_text_is_the_text(tmp_path: Path, pack: str) -> None:
    """Prevents compressed text from being refused as binary, or from losing its later members or its end."""
    text = "naïve\r\n\r\n" + "words of a paragraph\n" * 5000 + "\nlast"
    (tmp_path / f"x.txt{pack}").write_bytes(PACK[pack](text.encode("utf-8-sig")))
    (tmp_path / "plain").write_bytes(text.encode())
    assert texts(tmp_path / f"x.txt{pack}") == texts(tmp_path) == texts(tmp_path / "plain")
    assert len(texts(tmp_path)) == 3


@pytest.mark.parametrize("pack", PACK)
def test_json_lines_are_documents(tmp_path: Path, pack: str) -> None:
    """Prevents rows that are cut at blank lines, changed, or joined, and empty rows from ending the reading."""
    (tmp_path / f"x.JSONL{pack}").write_bytes(PACK[pack](("\n" + LINES).encode("utf-8-sig")))
    assert texts(tmp_path) == KEPT


@pytest.mark.parametrize("kind", [None, pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_parquet_rows_are_documents(tmp_path: Path, kind: pa.DataType | None) -> None:
    """Prevents a table from being read as text, and rows from being lost between its groups."""
    write_parquet(tmp_path / "x.parquet", kind)
    assert texts(tmp_path) == texts(tmp_path / "x.parquet") == KEPT
    assert not is_commentary(tmp_path / "x.parquet")


@pytest.mark.parametrize("writer", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_rows_are_documents(tmp_path: Path, writer: Callable[..., Any]) -> None:
    """As ``datasets`` saves them, with its files about the data set beside them, and as Feather."""
    write_arrow(tmp_path / "data-00000-of-00002.arrow", writer)
    write_arrow(tmp_path / "data-00001-of-00002.arrow", writer)
    (tmp_path / "state.json").write_text("{}")
    assert texts(tmp_path) == [*KEPT, *KEPT]


def test_folder_of_all_kinds(tmp_path: Path, sample: Corpus) -> None:
    """Prevents a kind from being left out, and data=ipl from reading tables in the folder of its text."""
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(sample.path.read_bytes()))
    write_parquet(tmp_path / "c.parquet")
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": None}))
    assert texts(tmp_path) == [*KEPT, *Corpus(sample.path, "text").texts(), *KEPT]
    assert sources(tmp_path).passed_over == [f"{tmp_path / 'd.jsonl'} (empty)"]
    assert list(Corpus(tmp_path).texts()) == list(sample.texts())
    with pytest.raises(UserError, match=r"c\.parquet holds rows of any text, not commentary; read it with data=text"):
        list(Corpus(tmp_path / "c.parquet").documents())
    with pytest.raises(UserError, match="is empty"):
        texts(tmp_path / "d.jsonl")


def test_kind_is_part_of_the_key(tmp_path: Path) -> None:
    """Prevents tokens of a file read in one way from being used where it is read in another."""
    for name in ("x.txt", "y", "x.jsonl"):
        (tmp_path / name).write_text(LINES)
    for name in ("x.txt.gz", "x.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(LINES.encode(), mtime=0))
    keys = {
        name: Corpus(tmp_path / name, "text").fingerprint() for name in ("x.txt", "x.jsonl", "x.txt.gz", "x.jsonl.gz")
    }
    assert len(set(keys.values())) == 4
    assert Corpus(tmp_path / "y", "text").fingerprint() == keys["x.txt"]


def test_rows_can_be_trained_on(tmp_path: Path) -> None:
    """Prevents rows from failing further in: split, vocabulary, tokens."""
    rows = (json.dumps({"text": f"paragraph {i}\n\nof some words"}) for i in range(60))
    (tmp_path / "x.jsonl").write_text("\n".join(rows))
    data = CommentaryData(name="text", path=str(tmp_path), vocab_size=265, sequence_length=8).prepare()
    assert sum(counts["documents"] for counts in data.token_files.parts.values()) == 60


@pytest.mark.parametrize("pack", [".gz", ".zst"])
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda data: data[:-5], "cannot be read: Truncated compressed stream"),
        (lambda data: b"plain text", "cannot be read: "),
        (lambda data: data[:20] + bytes([data[20] ^ 255]) + data[21:], "cannot be read: "),
        (lambda data: data + b"more", "cannot be read: "),
    ],
    ids=["cut", "not compressed", "changed", "followed"],
)
def test_damaged_compression_is_named(tmp_path: Path, pack: str, damage: Callable[[bytes], bytes], named: str) -> None:
    """Prevents training on the part of a text before the damage, and a traceback."""
    for name in (f"x.txt{pack}", f"x.jsonl{pack}"):
        whole = PACK[pack]("".join(json.dumps({"text": f"words {i * i}"}) + "\n" for i in range(999)).encode())
        (tmp_path / name).write_bytes(damage(whole))
        assert named in refused(tmp_path / name)


@pytest.mark.parametrize("pack", [".gz", ".zst"])
@pytest.mark.parametrize("content", [b"caf\xe9\n", b"a\0b\n"], ids=["latin-1", "NUL"])
def test_compressed_binary_is_named(tmp_path: Path, pack: str, content: bytes) -> None:
    """Prevents the place of a bad byte from being looked for in the compressed bytes."""
    (tmp_path / f"x.txt{pack}").write_bytes(PACK[pack](b"good\n" * 99 + content))
    assert "does not hold UTF-8 text, once decompressed" in refused(tmp_path / f"x.txt{pack}")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"text": "cut', "line 3, is not JSON (Unterminated string starting at: column 10)"),
        ("[" * 100_000, "line 3, is not JSON ("),
        ("1" * 5000, "line 3, is not JSON ("),
        ('"text"', "line 3, is no object, but a text under 'text' is expected"),
        ("[1]", "line 3, is no object"),
        (
            '{"content": "a", "é": 1}',
            "line 3, has the fields 'content', '\\xe9', but a text under 'text' is expected",
        ),
        ('{"text": 3}', "line 3, has the fields 'text', but a text under"),
        ('{"text": "a\\ud800b"}', "line 3, has half of a surrogate pair"),
    ],
    ids=lambda value: value[:20],
)
def test_bad_line_is_named(tmp_path: Path, line: str, named: str) -> None:
    """Prevents a traceback, and rows that are left out silently, for a line without a text."""
    (tmp_path / "x.jsonl").write_text(f'{{"text": "good"}}\n\n{line}\n{{"text": "good"}}\n')
    assert named in refused(tmp_path / "x.jsonl")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def spoil(file: Path) -> None:
    data = file.read_bytes()
    at = data.index(b"of two paragraphs")
    file.write_bytes(data[:at] + b"\xff" + data[at + 1 :])


PARQUET: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (lambda file: (write_parquet(file), cut(file)), "is not a whole Parquet file"),
    "text": (lambda file: file.write_text("plain text " * 9), "is not a whole Parquet file"),
    "short": (lambda file: file.write_text("x"), "is not a whole Parquet file"),
    "latin-1": (
        lambda file: (
            pq.write_table(pa.table({"text": TEXTS}), file, compression="none", use_dictionary=False),
            spoil(file),
        ),
        "is not a whole Parquet file with UTF-8 text",
    ),
    "other column": (
        lambda file: pq.write_table(pa.table({"content": TEXTS, "é": TEXTS}), file),
        "has the columns 'content' (string), '\\xe9' (string), but one 'text' of strings is expected",
    ),
    "numbers": (lambda file: pq.write_table(pa.table({"text": [1]}), file), "has the columns 'text' (int64), but one"),
    "lists": (lambda file: pq.write_table(pa.table({"text": [["a"]]}), file), "but one 'text' of strings is expected"),
}


@pytest.mark.parametrize(("make", "named"), PARQUET.values(), ids=PARQUET)
def test_bad_table_is_named(tmp_path: Path, make: Callable[[Path], object], named: str) -> None:
    """Prevents a traceback for a table that is damaged or another's."""
    make(tmp_path / "x.parquet")
    assert named in refused(tmp_path / "x.parquet")


ARROW: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (lambda file: (write_arrow(file), cut(file)), "is not a whole Arrow file"),
    "cut between batches": (
        lambda file: (write_arrow(file), file.write_bytes(file.read_bytes()[:-8])),
        "is not a whole Arrow file with UTF-8 text (it lacks its end)",
    ),
    "a cut file": (lambda file: (write_arrow(file, pa.ipc.new_file), cut(file)), "is not a whole Arrow file"),
    "text": (lambda file: file.write_text("plain text " * 9), "is not a whole Arrow file"),
    "short": (lambda file: file.write_text("x"), "is not a whole Arrow file"),
    "latin-1": (lambda file: (write_arrow(file), spoil(file)), "is not a whole Arrow file with UTF-8 text"),
}


@pytest.mark.parametrize(("make", "named"), ARROW.values(), ids=ARROW)
def test_bad_arrow_is_named(tmp_path: Path, make: Callable[[Path], object], named: str) -> None:
    """As a bad Parquet file."""
    make(tmp_path / "x.arrow")
    assert named in refused(tmp_path / "x.arrow")


def test_any_byte_of_an_arrow_file_may_be_wrong(tmp_path: Path) -> None:
    """It is read, or refused in a sentence."""
    write_arrow(tmp_path / "x.arrow")
    right = (tmp_path / "x.arrow").read_bytes()
    for at in range(0, len(right), 3):
        (tmp_path / "x.arrow").write_bytes(right[:at] + bytes([right[at] ^ 0xFF]) + right[at + 1 :])
        with suppress(UserError):
            list(Corpus(tmp_path / "x.arrow", "text").texts())
