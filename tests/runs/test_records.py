"""What crashes leave at the end of metrics.csv, balance.jsonl and samples.jsonl: dropped, told, nothing else lost."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s15erav3.__main__ import main
from s15erav3.runs.reader import read_metrics
from s15erav3.runs.records import read_lines, read_table
from tests.tiny import few, result, rows, train

LINES = {
    "nothing": b"",
    "zeros": b"\0\0\0\0\n",
    "zeros without end": b"\0" * 512,
    "half a line": b'{"step": 6, "lo',
    "half a character": b'{"step": 6, "x": "\xc3',
    "not UTF-8": b'{"step": 6, "x": "\xff"}\n',
    "an array": b"[1, 2]\n",
    "a number": b"6\n",
    "no step": b'{"stop": 6}\n',
    "a step of text": b'{"step": "6"}\n',
    "deep": b"[" * 100_000 + b"\n",
    "several": b'\0\0\n[1]\n{"step":\n',
}
ROWS = {
    "nothing": b"",
    "zeros": b"\0\0\0\0\n",
    "zeros without end": b"\0" * 512,
    "half a row": b"6,1.2",
    "half a character": b"6,\xc3",
    "not UTF-8": b"6,\xff\n",
    "words": b"six,1.0\n",
    "an open quote": b'6,"1.0\n',
    "too many cells": b"6," + b"1.0," * 5000 + b"\n",
    "another header": b"step,train/loss\n",
    "several": b"\0\0\nsix\n,,\n",
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps."""
    folder = tmp_path_factory.mktemp("records") / "run"
    assert train("trainer.max_steps=4", run_dir=folder) == 0
    return folder


@pytest.fixture(scope="module")
def unbroken(run_dir: Path) -> Path:
    """The same, gone on with to step 6."""
    whole = shutil.copytree(run_dir, run_dir.parent / "whole")
    assert main(["train", f"resume={whole}", "trainer.max_steps=6"]) == 0
    return whole


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    """The run, to be damaged."""
    return shutil.copytree(run_dir, tmp_path / "copy")


def recorded(run: Path) -> list[tuple[str | None, ...]]:
    """Rows of metrics.csv, without speeds."""
    with (run / "metrics.csv").open() as stream:
        return [tuple(v for k, v in row.items() if not k.startswith("perf/")) for row in csv.DictReader(stream)]


def check_whole(run: Path, unbroken: Path) -> None:
    for name in ("balance.jsonl", "samples.jsonl"):
        assert rows(run / name) == rows(unbroken / name)
    assert recorded(run) == recorded(unbroken)


@pytest.mark.parametrize("case", few(LINES, "zeros", "half a character", "an array"))
def test_broken_lines_are_dropped_and_told(
    case: str, copy: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the end of both .jsonl files, and between two lines; the complete ones survive, and the run is the whole one.

    Seen to fail when lines are decoded with the file, and when an array is asked for its step.
    """
    for name in ("balance.jsonl", "samples.jsonl"):
        first, _, rest = (copy / name).read_bytes().partition(b"\n")
        middle = LINES[case] if LINES[case].endswith(b"\n") else b""
        (copy / name).write_bytes(first + b"\n" + middle + rest + LINES[case])
    damaged = (copy / "balance.jsonl").read_bytes()
    assert main(["report", str(copy), "max_tokens=0"]) == 0
    capsys.readouterr()
    assert main(["train", f"resume={copy}", "trainer.max_steps=6"]) == 0
    said = capsys.readouterr().err
    count = (2 if LINES[case].endswith(b"\n") else 1) * len(LINES[case].strip().splitlines())
    for name in ("balance.jsonl", "samples.jsonl"):
        assert (f"{name}: {count} unreadable line(s) dropped" in said) == (case != "nothing"), said
    if case != "nothing":
        assert (copy / ".superseded" / "1" / "balance.jsonl").read_bytes() == damaged
    check_whole(copy, unbroken)


@pytest.mark.parametrize("case", few(ROWS, "zeros", "half a row", "not UTF-8"))
def test_broken_rows_are_dropped_and_told(
    case: str, copy: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same of metrics.csv."""
    file = copy / "metrics.csv"
    file.write_bytes(file.read_bytes() + ROWS[case])
    assert main(["report", str(copy), "max_tokens=0"]) == 0
    assert main(["export", str(copy), str(copy / "hub")]) == 0
    capsys.readouterr()
    assert main(["train", f"resume={copy}", "trainer.max_steps=6"]) == 0
    expected = len(ROWS[case].strip().splitlines())
    assert (f"metrics.csv: {expected} unreadable line(s) dropped" in capsys.readouterr().err) == (expected > 0)
    check_whole(copy, unbroken)


@pytest.mark.parametrize(
    "content", [b"", b"step\n", b"\x7fELF\0\1\2\xff\xfe\n\0\0", b"a,b\n1,2\n", b"step,step\n1,1\n", None]
)
@pytest.mark.parametrize("name", few(["metrics.csv", "balance.jsonl", "samples.jsonl"], "metrics.csv"))
def test_a_file_that_is_another_altogether_is_set_aside(
    name: str, content: bytes | None, copy: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Empty, a header alone, a binary, foreign columns, or a folder (None): the run goes on, and what lay there is
    kept."""
    (copy / name).unlink()
    if content is None:
        (copy / name).mkdir()
        (copy / name / "inside").write_text("kept")
    else:
        (copy / name).write_bytes(content)
    assert main(["report", str(copy), "max_tokens=0"]) == 0
    capsys.readouterr()
    assert main(["train", f"resume={copy}", "trainer.max_steps=6"]) == 0
    said, aside = capsys.readouterr().err, copy / ".superseded" / "1"
    assert result(copy)["status"] == "completed"
    if content is None:
        assert (aside / name / "inside").read_text() == "kept" and name in said
    elif content.strip() and not (name == "metrics.csv" and content == b"step\n"):
        assert (aside / name).read_bytes() == content and f"{name}: " in said
    if name == "metrics.csv":
        assert {row[0] for row in recorded(copy)} == {"6"}
    else:
        assert {row["step"] for row in rows(copy / name)} == {6}


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([*LINES.values(), *ROWS.values()])), max_size=5))
def test_any_bytes_are_read_without_an_exception(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    """Good lines among them are found, whatever stands between."""
    file = tmp_path_factory.mktemp("any") / "file"
    good = json.dumps({"step": 3, "x": "\u00e9"})
    file.write_bytes(b"\n".join([*parts, b"", good.encode(), *parts]))
    found = read_lines(file)
    assert good in found.texts and len(found.rows) == len(found.texts)
    file.write_bytes(b"step,a\n1,2\n" + b"\n".join([*parts, b"", b"3,4", *parts, b""]))
    table = read_table(file)
    assert table.columns == ["step", "a"] and ["1", "2"] in table.rows and ["3", "4"] in table.rows
    file.write_bytes(b"\n".join(parts))
    read_table(file)


def test_a_row_that_is_not_utf8_is_passed_over_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow would print a traceback of its own, which no except clause sees. Found by fuzzing."""
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    (tmp_path / "metrics.csv").write_bytes(b"step,train/loss\n1,2.5\n2,1.5\n3,\xff\xfe,,\n")
    assert read_metrics(tmp_path)["train/loss"].tolist() == [2.5, 1.5]
    assert not seen
