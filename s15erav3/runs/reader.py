"""Run folders read back, whatever state they are in: completed, failed, killed, broken or still at work."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import yaml
from numpy.typing import NDArray

from s15erav3.cli.overrides import key_of, value_of
from s15erav3.errors import one_line
from s15erav3.files import load_yaml
from s15erav3.runs.progress import is_alive
from s15erav3.runs.records import read_lines, read_table

Floats = NDArray[np.float64]
TABLES = ("load", "bias", "update")
"""Of each line of ``balance.jsonl``, (L, E) each."""


class Run(NamedTuple):
    """A run's folder."""

    folder: Path
    status: str
    """``completed``, ``pruned`` (a search ended it as hopeless), ``failed``, ``interrupted`` (also: killed) or
    ``running``; ``broken`` if a file of it cannot be read."""
    reason: str
    """Why it was pruned, failed, was interrupted or is broken; empty otherwise."""
    result: dict[str, Any]
    """``result.json``; while there is none, ``progress.json`` (step, max_steps, the last metrics)."""
    overrides: dict[str, str]
    """What the command line said: groups and dotted keys with their values as text."""
    config: dict[str, Any]
    """The composed config as plain containers, interpolations as they stand. Not to be changed: runs share parts."""


class Balance(NamedTuple):
    """``balance.jsonl``. Shapes: S logged steps, L MoE layers, E routed experts."""

    steps: Floats
    """(S,)."""
    tokens: Floats
    """Seen up to each step, (S,)."""
    layers: list[int]
    """Numbers of the L layers."""
    load: Floats
    """Assignments of the step, (S, L, E)."""
    bias: Floats
    """After the step, (S, L, E)."""
    bias_update: Floats
    """What the step added to the bias, (S, L, E)."""


def find_runs(folder: Path) -> list[Path]:
    """Run folders at or below ``folder``, in the order of job numbers; what a restarted sweep set aside, in hidden
    folders, is left out, and so is a second way to a folder, by a link."""
    found = list(_visible(folder, set()))
    return sorted(found, key=lambda run: [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in run.parts])


def _visible(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Folders with a config at or below ``folder``; a run's own folders are not looked into."""
    place = os.path.realpath(folder)
    if place in seen:
        return
    seen.add(place)
    if (folder / ".hydra" / "config.yaml").is_file():
        yield folder
        return
    try:
        below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and entry.name[:1] != ".")
    except OSError:  # removed meanwhile, or not ours to read
        return
    for path in below:
        yield from _visible(Path(path), seen)


def read_run(folder: Path) -> Run:
    """One run; never raises for what lies in the folder."""
    try:
        config = _yaml(folder / ".hydra" / "config.yaml")
        given = _yaml(folder / ".hydra" / "overrides.yaml") if (folder / ".hydra" / "overrides.yaml").exists() else []
        if not config or not isinstance(config, dict) or not isinstance(given, list):
            raise ValueError(".hydra does not hold a config")
        overrides = {key_of(str(override)): value_of(str(override)) for override in given}
        result = _with_overall(_json(folder / "result.json"))
        progress = _json(folder / "progress.json")
        alive = not result and is_alive(progress)
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        return Run(folder, "broken", one_line(error), {}, {}, {})
    if "status" in result:
        return Run(folder, str(result["status"]), str(result.get("reason", "")), result, overrides, config)
    if result:
        return Run(folder, "broken", "result.json has no status", {}, overrides, config)
    if alive:
        return Run(folder, "running", "", progress, overrides, config)
    reason = "it was killed" if progress else "no step yet: it has just begun, or was killed before the first"
    return Run(folder, "interrupted", reason, progress, overrides, config)


def _with_overall(result: dict[str, Any]) -> dict[str, Any]:
    """``result.json`` of version 0.1, whose speeds were those of the whole run, by today's names."""
    speeds = ("perf/tokens_per_second", "perf/mfu")
    if not result or "perf/tokens_per_second_overall" in result:
        return result
    return {f"{name}_overall" if name in speeds else name: value for name, value in result.items()}


def read_choices(folder: Path) -> dict[str, str]:
    """What was chosen for each group of the config, defaults included; empty where ``.hydra/hydra.yaml`` does not
    tell. Only that part of the file is read as YAML, which is slow."""
    try:
        text = (folder / ".hydra" / "hydra.yaml").read_text()
        part = re.search(r"^    choices:\n((?:      .*\n)+)", text, flags=re.MULTILINE)
        found = _part(part[1]) if part else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {str(key): "null" if value is None else str(value) for key, value in found.items()}


def _yaml(file: Path) -> Any:
    """A YAML file.

    Raises:
        ValueError: it is none.
    """
    try:
        return from_yaml(file.read_bytes().decode())
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file.name}: {error}") from error


def from_yaml(text: str) -> Any:
    """What YAML says. The configs of a sweep have most of their parts in common, so each part is parsed once."""
    parts = re.split(r"^(?=[A-Za-z_]\w*:)", text, flags=re.MULTILINE)
    if parts[0]:  # a list, or nothing that this program wrote
        return load_yaml(text)
    return {key: value for part in parts[1:] for key, value in _part(part).items()}


@functools.lru_cache(maxsize=4096)
def _part(text: str) -> dict[str, Any]:
    found = load_yaml(text)
    if not isinstance(found, dict):
        raise ValueError("a part of it is no mapping")
    return found


def _json(file: Path) -> dict[str, Any]:
    """The file's object; empty where there is no file."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} holds no object")
    return found


def read_metrics(folder: Path, columns: list[str] | None = None) -> dict[str, Floats]:
    """Columns of ``metrics.csv``, all of one length, NaN where a row does not have the metric.

    Args:
        columns: those wanted; the ones that the file lacks are left out.
    """
    file = folder / "metrics.csv"
    try:
        content = file.read_bytes()
        content.decode()  # Arrow prints a traceback of its own where it cannot
        header = content.partition(b"\n")[0].decode().rstrip("\r").split(",")
        wanted = [name for name in header if columns is None or name in columns]
        if not wanted or len(set(header)) != len(header):
            return {}
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=lambda row: "skip"),  # of a run at work
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.float64()), null_values=[""]
            ),
        )
    except OSError:
        return {}
    except (
        pa.ArrowInvalid,
        KeyError,
        UnicodeDecodeError,
    ):  # a line that a crash has left, which Arrow will not pass over; a foreign file
        return _intact(file, columns)
    return {name: table[name].to_numpy() for name in wanted}


def _intact(file: Path, columns: list[str] | None) -> dict[str, Floats]:
    found = read_table(file)
    width, rows = len(found.columns), [[float(cell) if cell else np.nan for cell in row] for row in found.rows]
    values = np.full((len(rows), width), np.nan)
    for i, row in enumerate(rows):
        values[i, : len(row)] = row
    return {name: values[:, i] for i, name in enumerate(found.columns) if columns is None or name in columns}


def read_balance(folder: Path, at_most: int | None = None) -> Balance | None:
    """``balance.jsonl``, every line, or ``at_most`` so many, evenly spaced and with the last.

    Returns:
        ``None`` where nothing is recorded: a dense model, or a run that has not logged yet.
    """
    try:
        rows = read_lines(folder / "balance.jsonl").rows
    except OSError:
        return None
    if at_most is not None and len(rows) > at_most:
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, at_most).round().astype(int)]
    rows = [row for row in rows if _is_balance(row)]
    if not rows:
        return None
    load, bias, update = (np.array([row[key] for row in rows], dtype=np.float64) for key in TABLES)
    steps, tokens = (np.array([row[key] for row in rows], dtype=np.float64) for key in ("step", "tokens"))
    return Balance(steps, tokens, rows[-1]["layers"], load, bias, update)


def _is_balance(row: dict[str, Any]) -> bool:
    """Whether a line holds what this program writes there: tables of one shape, a number of tokens, the layers."""
    layers = row.get("layers")
    if not isinstance(layers, list) or not layers or not isinstance(row.get("tokens"), int):
        return False
    try:
        shapes = {np.array(row[key], dtype=np.float64).shape for key in TABLES}
    except (KeyError, ValueError, TypeError):
        return False
    return len(shapes) == 1 and [len(shape) for shape in shapes] == [2] and {s[0] for s in shapes} == {len(layers)}
