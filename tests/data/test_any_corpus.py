"""Any file or folder is windows of its own text, or one sentence."""

from __future__ import annotations

import codecs
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.errors import UserError

NAMES = st.sampled_from(
    [
        *["a.txt", "B.TXT", "ü ï.Txt", "new\nline.txt", os.fsdecode(b"caf\xe9.txt"), "[b].txt", "-m.txt", "${x}.txt"],
        *[".txt", "notes.md", "below/c.txt", "below/deeper/d.txt", "below.txt/e.txt", "x" * 200 + ".txt"],
    ]
)
WORDS = st.lists(
    st.sampled_from(["bowled", "to", "the", "naïve", "字", "😀", "e\u0301", "שלום", "<|endoftext|>", "7", "\u2028"]),
    min_size=3,
    max_size=6,
).map(" ".join)
END = st.sampled_from(["\n", "\r\n", "\r"])
PROSE = st.builds(
    lambda said, end, count: "".join(f"{said} {i}{end}{end}" for i in range(count)), WORDS, END, st.integers(1, 60)
)
COMMENTARY = st.builds(
    lambda said, end, count: "".join(
        f"T{i} 1st Inns{end}{i % 20}.1 overs{end}{said} {i}, FOUR{end}{end}" for i in range(count)
    ),
    WORDS,
    END,
    st.integers(1, 60),
)
ENDLESS = st.builds(
    lambda c, count: c * count, st.sampled_from([" ", "a", "1", "-", "😀", "\n", "\u0301"]), st.just(4000)
)
TEXT = st.one_of(PROSE, PROSE, COMMENTARY, ENDLESS, st.text(max_size=30), st.sampled_from(["", " \n", "\n" * 50]))
ENCODING = st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
CONTENT = st.one_of(
    st.builds(lambda text, encoding: text.encode(encoding, "replace"), TEXT, ENCODING),
    st.builds(lambda one, two: (one + "\n\n" + two).encode(), PROSE, TEXT),
    st.binary(max_size=40),
)
LINKS = st.lists(
    st.tuples(
        st.sampled_from(["link", "link.txt", "below/link", "z.txt"]),
        st.sampled_from([".", "..", "below", "a.txt", "nowhere", "link", "/dev/null", "/dev/zero", "PIPE", "../a.txt"]),
    ),
    max_size=3,
)
SETTINGS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["text", "text", "ipl"]),
        "document": st.sampled_from(["blank_line", "blank_line", "file"]),
        "sequence_length": st.sampled_from([2, 7, 64]),
        "vocab_size": st.sampled_from([258, 262]),
        "val_fraction": st.sampled_from([0.05, 0.3]),
        "split_seed": st.integers(0, 3),
        "single_part": st.booleans(),
    }
)


GOOD = st.builds(
    lambda good, rest: rest | {"good.txt": "".join(f"{good} {i}\n\n" for i in range(40)).encode()},
    WORDS,
    st.dictionaries(NAMES, TEXT.map(str.encode), max_size=4),
)
FOLDERS = {
    "files": st.one_of(GOOD, GOOD, st.dictionaries(NAMES, CONTENT, max_size=4)),
    "links": LINKS,
    "path": st.sampled_from(["", "", "", "", "", "good.txt", "a.txt", "link", "z.txt"]),
    "chosen": SETTINGS,
}


@given(**FOLDERS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(
    files={"a.txt": b"", "below/c.txt": b"".join(b"words %d\n\n" % i for i in range(40))},
    links=[("link", ".."), ("z.txt", "PIPE")],
    path="",
    chosen={"name": "text", "vocab_size": 258, "sequence_length": 7, "single_part": False},
)
def test_any_folder(
    vocabulary: Tokenizer, files: dict[str, bytes], links: list[tuple[str, str]], path: str, chosen: dict[str, Any]
) -> None:
    """Prevents tracebacks, waits without end and text that is lost, doubled or changed, for whatever lies on a disk."""
    check(vocabulary, files, links, path, chosen)


@pytest.mark.slow
@given(**FOLDERS)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_folders(
    vocabulary: Tokenizer, files: dict[str, bytes], links: list[tuple[str, str]], path: str, chosen: dict[str, Any]
) -> None:
    """Prevents the same, in more cases."""
    check(vocabulary, files, links, path, chosen)


def check(
    vocabulary: Tokenizer, files: dict[str, bytes], links: list[tuple[str, str]], path: str, chosen: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder) / "top"
        top.mkdir()
        make(top, files, links)
        alone = {"tokenizer": vocabulary} if chosen["single_part"] else {}
        try:
            data = CommentaryData(path=str(top / path), batch_size=2, **chosen, **alone).prepare()
        except UserError as error:
            told = str(error)
        else:
            check_windows(data, dict(texts(top / path)))
            return
    assert told.isprintable() and told.endswith(".") and len(told) < 2000, told


def make(top: Path, files: dict[str, bytes], links: list[tuple[str, str]]) -> None:
    for name, content in files.items():
        try:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(content)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            pass  # one name is another's folder
    for name, target in links:
        try:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            if target == "PIPE":
                os.mkfifo(top / name)
            else:
                (top / name).symlink_to(target)
        except (FileExistsError, NotADirectoryError):
            pass


def texts(path: Path) -> Iterator[tuple[str, bytes]]:
    """Of each file that is to be read, by its real place, the bytes that its tokens stand for."""
    found, entered = [path] if path.is_file() else [], set()
    folders = [path] if path.is_dir() else []
    while folders:
        folder = folders.pop().resolve()
        if folder not in entered:
            entered.add(folder)
            below = list(folder.iterdir())
            folders += [p for p in below if p.is_dir()]
            found += [p for p in below if p.is_file() and p.name.lower().endswith(".txt")]
    for file in found:
        text = file.read_bytes().removeprefix(codecs.BOM_UTF8)
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if text.decode().strip():
            yield str(file.resolve()), text


def check_windows(data: CommentaryData, expected: dict[str, bytes]) -> None:
    parts = data.token_files.parts
    assert sum(counts["bytes"] for counts in parts.values()) == sum(map(len, expected.values()))
    whole = b"\0".join(expected.values())
    for part in parts:
        ids = np.array(data.token_files.part(part))
        assert ids.max() < data.tokenizer.n_vocab
        batches = [data.evaluation_dataloader(part)]
        if part == "train":
            batches.append(itertools.islice(data.train_dataloader(), 3))
        for window in itertools.chain.from_iterable(itertools.chain(*batches)):
            assert 1 < len(window) <= data.length + 1
            for stretch in pieces(window.tolist(), data.tokenizer.end_of_text):
                assert b"".join(map(data.tokenizer.bytes_of, stretch)) in whole


def pieces(ids: list[int], end: int) -> list[list[int]]:
    """What stands between the ends of documents."""
    return [list(group) for is_end, group in itertools.groupby(ids, end.__eq__) if not is_end]
