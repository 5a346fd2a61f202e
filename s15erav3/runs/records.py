"""The files that a run appends to while it trains: lines of JSON and rows of CSV, readable after a crash.

A power cut leaves zeros, half a line or half a character. Such lines are dropped, wherever they are, and counted.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

RECORDS = ("balance.jsonl", "samples.jsonl")
"""Files in a run's folder with lines of JSON, each with its step."""

RESUMES = ".hydra/resumed.json"
"""File in a run's folder with its history of resumptions."""


class Lines(NamedTuple):
    """A ``.jsonl`` file: the objects that have a step, the text of each, and the number of dropped lines."""

    rows: list[dict[str, Any]]
    texts: list[str]
    dropped: int


class Table(NamedTuple):
    """A ``metrics.csv``: its columns, the rows of numbers as written, and the number of dropped lines."""

    columns: list[str]
    rows: list[list[str]]
    dropped: int


def read_resumes(run_dir: Path) -> list[dict[str, Any]]:
    """Return each resumption of a run: the step, the folder, and the settings that made it another experiment."""
    try:
        found = json.loads((run_dir / RESUMES).read_text())
    except (OSError, ValueError, RecursionError):
        return []
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def logs_again(run_dir: Path) -> bool:
    """Whether the run was last resumed with unchanged settings: it then repeats its rows after the checkpoint."""
    resumes = read_resumes(run_dir)
    return bool(resumes) and not resumes[-1].get("changed")


def _lines(file: Path) -> list[bytes]:
    """Return the non-empty lines with their line ends; none if the file is missing or not a regular file."""
    if not file.is_file():
        return []
    return [line for line in file.read_bytes().splitlines(keepends=True) if line.strip()]


def read_lines(file: Path) -> Lines:
    """Read ``balance.jsonl`` or ``samples.jsonl``; a missing file has no lines."""
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
    """Read ``metrics.csv``; a file that is missing, or whose header has no step, has no columns."""
    lines = _lines(file)
    header = _cells(lines[0]) if lines else []
    if "step" not in header or len(set(header)) != len(header):
        return Table([], [], len(lines))
    place, rows = header.index("step"), []
    for line in lines[1:]:
        cells = _cells(line)
        if (
            line.endswith(b"\n")  # otherwise its last cell may be a truncated number
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
