"""The files of a path: all its text once, nothing that hangs, and each fault with its place."""

from __future__ import annotations

import codecs
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s15erav3.data.commentary import is_commentary
from s15erav3.data.corpus import Corpus
from s15erav3.data.reading import read_lines
from s15erav3.data.sources import sources
from s15erav3.errors import UserError


def names(top: Path) -> list[str]:
    return [file.relative_to(top).as_posix() for file in sources(top).files]


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        list(Corpus(path, "text").documents())
    said = str(caught.value)
    assert said.isprintable() and said.endswith(".")
    return said


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A folder with one text."""
    folder = tmp_path / "top"
    folder.mkdir()
    (folder / "first.txt").write_text("first\n")
    return folder


def test_linked_folders_are_read(top: Path) -> None:
    """Prevents text from being left out silently because a folder in data.path is a link."""
    real = top.parent / "real"
    (real / "below").mkdir(parents=True)
    (real / "below" / "more.txt").write_text("more\n")
    (top / "linked").symlink_to("../real")
    assert names(top) == ["first.txt", "linked/below/more.txt"]
    assert sources(top).passed_over == []


def test_links_to_a_parent_end(top: Path) -> None:
    """Prevents a walk without end, and text that is read once for each turn."""
    (top / "a").mkdir()
    (top / "a" / "inner.txt").write_text("inner\n")
    (top / "a" / "up").symlink_to(top)
    (top / "a" / "upper").symlink_to(top.parent)
    (top / "self").symlink_to(".")
    assert names(top) == ["a/inner.txt", "first.txt"]


def test_two_ways_to_a_file_count_once(top: Path) -> None:
    """Prevents text that is trained on twice, and an order that follows the names of links."""
    (top / "own").mkdir()
    (top / "own" / "text.txt").write_text("text\n")
    (top / "a_link").symlink_to("own")
    (top / "a_link.txt").symlink_to("own/text.txt")
    os.link(top / "own" / "text.txt", top / "own" / "z.txt")
    assert names(top) == ["first.txt", "own/text.txt"]
    assert [d.text for d in Corpus(top, "text").documents()] == ["first\n", "text\n"]


def test_ends_of_names_in_any_case(top: Path) -> None:
    """Prevents files that came from another system from being left out."""
    for name in ("B.TXT", "c.Txt", "d.text", "txt"):
        (top / name).write_text(name)
    assert names(top) == ["B.TXT", "c.Txt", "first.txt"]


def test_what_holds_no_text_is_passed_over_and_named(top: Path) -> None:
    """Prevents one empty file among thousands from ending everything, and links and pipes from vanishing unseen."""
    (top / "empty.txt").touch()
    (top / "blank.txt").write_bytes(codecs.BOM_UTF8 + " \n\u3000\r\n".encode())
    (top / "broken.txt").symlink_to("nowhere.txt")
    (top / "loop").symlink_to("loop")
    os.mkfifo(top / "pipe.txt")
    (top / "null.txt").symlink_to("/dev/null")
    assert names(top) == ["first.txt"]
    assert sources(top).passed_over == [
        f"{top / 'blank.txt'} (empty)",
        f"{top / 'broken.txt'} (a broken link)",
        f"{top / 'empty.txt'} (empty)",
        f"{top / 'loop'} (a broken link)",
        f"{top / 'null.txt'} (a device)",
        f"{top / 'pipe.txt'} (a named pipe)",
    ]
    (top / "first.txt").unlink()
    assert re.search(r"folder without text \(skipped: .*blank.txt \(empty\).* and 1 more", refused(top))


def test_socket_is_no_text(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents a traceback for the socket of a program in the folder."""
    monkeypatch.chdir(top)  # as a socket's name may be short only
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s.txt")
        assert sources(top).passed_over == [f"{top / 's.txt'} (a socket)"]
        assert "is a socket" in refused(top / "s.txt")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_path_that_never_ends_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Prevents a program that waits for ever for somebody to write, or reads for ever."""
    make(tmp_path / "x.txt")
    began = time.monotonic()
    assert "write its text to a file first" in refused(tmp_path / "x.txt")
    assert not is_commentary(tmp_path / "x.txt")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_cannot_be_read_is_refused(top: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Prevents a traceback, and training on the part of the text that happens to be readable."""

    def deny(place: str | Path, *arguments: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(*(("pathlib.Path.open", deny) if kind == "file" else ("os.scandir", deny)))
    said = refused(top)
    assert f"data.path={top / 'first.txt' if kind == 'file' else top} cannot be read: Permission denied" in said


@pytest.mark.parametrize("name", ["a\nb.txt", os.fsdecode(b"caf\xe9.txt"), "\x1b[31m.txt", "[red].txt"])
def test_odd_names_are_read_and_told_on_one_line(top: Path, name: str) -> None:
    """Prevents a message of two lines, or one that a terminal obeys or cannot show."""
    (top / name).write_text("more\n")
    assert len(names(top)) == 2
    (top / name).write_bytes(b"\xff")
    refused(top)
    (top / name).write_bytes(b"")
    (told,) = sources(top).passed_over
    assert told.isprintable()


@pytest.mark.parametrize("path", ["nul\0", "x" * 5000, "file.txt/below"])
def test_paths_that_cannot_be(tmp_path: Path, path: str) -> None:
    """Prevents a traceback for a path that no system has."""
    (tmp_path / "file.txt").write_text("text")
    refused(tmp_path / path)


PIECE = st.sampled_from(["a", "\n", "\r\n", "\r", "é", "字", "😀", "\u2028", "\x0b", "x" * 30])


@given(before=st.lists(PIECE, max_size=30).map("".join), bad=st.sampled_from([b"\xff", b"\0", b"\xe9x", b"\xf0\x9f"]))
@example(before="", bad=b"\xff")
@example(before="é\r\n", bad=b"\xf0\x9f")
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "byte-order mark"])
def test_bad_byte_is_named_with_its_place(
    tmp_path_factory: pytest.TempPathFactory, mark: bytes, before: str, bad: bytes
) -> None:
    """Prevents a place within a block for one in the file, and a line that an editor counts otherwise."""
    file = tmp_path_factory.mktemp("bad") / "x.txt"
    content = mark + before.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s15erav3.data.reading._BLOCK", 5)
        file.write_bytes(content + bad + b" and more of plain text" * (bad[0] != 0xF0))
        said = refused(file)
    line = 1 + len(re.findall(rb"\r\n|\r|\n", content))
    assert f"offset {len(content)}, in line {line}" in said


def test_place_of_a_bad_byte_in_a_large_file(top: Path) -> None:
    """Prevents the same where the reader has gone through many blocks, in one file of a folder."""
    good = "naïve words in a line\r\n".encode() * 100_000
    (top / "second.txt").write_bytes(good + b"caf\xe9\r\n")
    said = refused(top)
    assert f"{top / 'second.txt'} is not UTF-8 text: byte 0xe9 at offset {len(good) + 3}, in line 100001;" in said


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_utf_16_is_called_so(tmp_path: Path, encoding: str) -> None:
    """Prevents text that only has to be converted from being called binary."""
    mark = "\ufeff" if encoding == "utf-32-be" else ""
    (tmp_path / "x.txt").write_bytes((mark + "naïve text\n" * 9).encode(encoding))
    assert "UTF-16 or UTF-32 text" in refused(tmp_path / "x.txt")


def test_marks_and_line_ends(tmp_path: Path) -> None:
    """Prevents a byte-order mark or CR from becoming text, and other separators from being lost."""
    file = tmp_path / "x.txt"
    file.write_bytes(codecs.BOM_UTF8 + "a\r\nb\rc\u2028d\x0b\x85e\x1cf\n\ufeffg".encode())
    assert list(read_lines(file)) == ["a\n", "b\n", "c\u2028d\x0b\x85e\x1cf\n", "\ufeffg"]


@pytest.mark.parametrize("size", [0, 9])
def test_file_that_changes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Prevents a traceback where another program writes the file anew: what was bad is good, or gone, soon after."""
    (tmp_path / "x.txt").write_bytes(b"\xff text")
    monkeypatch.setattr("s15erav3.data.reading._undecodable", lambda _: -1)
    monkeypatch.setattr("s15erav3.data.reading.os.fstat", lambda _: os.stat_result((0,) * 6 + (size, 0, 0, 0)))
    assert "changes while it is read" in refused(tmp_path / "x.txt")
