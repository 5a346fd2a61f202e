"""What a run appends while it trains, read back whatever a crash has left at the end: lines of JSON, rows of CSV.

A power cut leaves zeros, half a line or half a character. Such lines are dropped, wherever they stand, and counted.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

RECORDS = ("balance.jsonl", "samples.jsonl")
"""Lines of JSON, each with its step, in a run's folder."""

RESUMES = ".hydra/resumed.json"
"""In a run's folder, too."""


class Lines(NamedTuple):
    """A ``.jsonl`` file: the objects that have a step, the text of each, and the number of lines dropped."""

    rows: list[dict[str, Any]]
    texts: list[str]
    dropped: int


class Table(NamedTuple):
    """A ``metrics.csv``: its columns, the rows of numbers as they are written, and the number of lines dropped."""

    columns: list[str]
    rows: list[list[str]]
    dropped: int


def read_resumes(run_dir: Path) -> list[dict[str, Any]]:
    """Each time that a run was resumed: the step, the folder, and the settings that made it another experiment."""
    try:
        found = json.loads((run_dir / RESUMES).read_text())
    except (OSError, ValueError, RecursionError):
        return []
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _lines(file: Path) -> list[bytes]:
    """Lines that are not empty, with their ends; a file that is not there, or is none, has none."""
    if not file.is_file():
        return []
    return [line for line in file.read_bytes().splitlines(keepends=True) if line.strip()]


def read_lines(file: Path) -> Lines:
    """Read ``balance.jsonl`` or ``samples.jsonl``; a file that is not there has no lines."""
    found = Lines([], [], 0)
    lines = _lines(file)
    for line in lines:
        try:
            text = line.decode().rstrip("\r\n")
            row = json.loads(text)
            step = row["step"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(step, int) and not isinstance(step, bool):
            found.rows.append(row)
            found.texts.append(text)
    return found._replace(dropped=len(lines) - len(found.rows))


def read_table(file: Path) -> Table:
    """Read ``metrics.csv``; a file that is not there, or whose first line names no step, has no columns."""
    lines = _lines(file)
    header = _cells(lines[0]) if lines else []
    if "step" not in header or len(set(header)) != len(header):
        return Table([], [], len(lines))
    place, rows = header.index("step"), []
    for line in lines[1:]:
        cells = _cells(line)
        if (
            line.endswith(b"\n")  # else its last cell may be a part of a number
            and len(cells) <= len(header)
            and len(cells) > place
            and cells[place].isdecimal()
            and all(map(_is_number, cells))
        ):
            rows.append(cells)
    return Table(header, rows, len(lines) - 1 - len(rows))


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode().rstrip("\r\n")], strict=True), [])
    except (ValueError, csv.Error):
        return []


def _is_number(cell: str) -> bool:
    try:
        return not cell or not math.isnan(float(cell)) or cell == "nan"
    except ValueError:
        return False
