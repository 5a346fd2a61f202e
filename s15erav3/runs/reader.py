"""Read run folders in whatever state they are: completed, failed, killed, broken or still running."""

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
"""Tables in each line of ``balance.jsonl``, (L, E) each."""


class Run(NamedTuple):
    """A run's folder."""

    folder: Path
    status: str
    """``completed``, ``pruned`` (a search ended it as hopeless), ``failed``, ``interrupted`` (including killed) or
    ``running``; ``broken`` if one of its files cannot be read."""
    reason: str
    """Why it was pruned, failed, was interrupted or is broken; empty otherwise."""
    result: dict[str, Any]
    """Content of ``result.json``; before it exists, of ``progress.json`` (step, max_steps, the last metrics)."""
    overrides: dict[str, str]
    """Overrides on the command line: groups and dotted keys with their values as text."""
    config: dict[str, Any]
    """The composed config as plain containers, interpolations unresolved. Do not modify it: runs share parts."""


class Balance(NamedTuple):
    """Content of ``balance.jsonl``. Shapes: S logged steps, L MoE layers, E routed experts."""

    steps: Floats
    """(S,)."""
    tokens: Floats
    """Tokens seen up to each step, (S,)."""
    layers: list[int]
    """Numbers of the L layers."""
    load: Floats
    """Assignments in the step, (S, L, E)."""
    bias: Floats
    """Bias after the step, (S, L, E)."""
    bias_update: Floats
    """The step's update to the bias, (S, L, E)."""


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders at or below ``folder``, ordered by job number.

    Left out are hidden folders, with what a restarted sweep set aside, and further links to a folder already found.
    """
    found = list(_visible(folder, set()))
    return sorted(found, key=lambda run: [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in run.parts])


def _visible(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Yield the folders with a config at or below ``folder``, without searching inside a run's own folders."""
    place = os.path.realpath(folder)
    if place in seen:
        return
    seen.add(place)
    if (folder / ".hydra" / "config.yaml").is_file():
        yield folder
        return
    try:
        below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and entry.name[:1] != ".")
    except OSError:  # removed meanwhile, or not readable
        return
    for path in below:
        yield from _visible(Path(path), seen)


def read_run(folder: Path) -> Run:
    """Read one run; never raises, whatever the folder contains."""
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
    reason = "it was killed" if progress else "no step yet: it has just started, or was killed before the first"
    return Run(folder, "interrupted", reason, progress, overrides, config)


def _with_overall(result: dict[str, Any]) -> dict[str, Any]:
    """Rename speeds in version 0.1's ``result.json``, which were those of the whole run, to today's names."""
    speeds = ("perf/tokens_per_second", "perf/mfu")
    if not result or "perf/tokens_per_second_overall" in result:
        return result
    return {f"{name}_overall" if name in speeds else name: value for name, value in result.items()}


def read_choices(folder: Path) -> dict[str, str]:
    """Return the choice for each group of the config, including defaults; empty without it in ``.hydra/hydra.yaml``.

    Only that part of the file is parsed as YAML, which is slow.
    """
    try:
        text = (folder / ".hydra" / "hydra.yaml").read_text()
        part = re.search(r"^    choices:\n((?:      .*\n)+)", text, flags=re.MULTILINE)
        found = _part(part[1]) if part else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {str(key): "null" if value is None else str(value) for key, value in found.items()}


def _yaml(file: Path) -> Any:
    """Read a YAML file.

    Raises:
        ValueError: it is not valid YAML.
    """
    try:
        return from_yaml(file.read_bytes().decode())
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file.name}: {error}") from error


def from_yaml(text: str) -> Any:
    """Parse YAML. The configs of a sweep share most of their parts, so each distinct part is parsed once."""
    parts = re.split(r"^(?=[A-Za-z_]\w*:)", text, flags=re.MULTILINE)
    if parts[0]:  # a list, or not written by this program
        return load_yaml(text)
    return {key: value for part in parts[1:] for key, value in _part(part).items()}


@functools.lru_cache(maxsize=4096)
def _part(text: str) -> dict[str, Any]:
    found = load_yaml(text)
    if not isinstance(found, dict):
        raise ValueError("a part of it is not a mapping")
    return found


def _json(file: Path) -> dict[str, Any]:
    """Return the file's object; empty if there is no file."""
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
    """Return columns of ``metrics.csv``, all of the same length, NaN where a row lacks the metric.

    Args:
        columns: names of the columns to read; those missing from the file are left out.
    """
    file = folder / "metrics.csv"
    try:
        content = file.read_bytes()
        content.decode()  # otherwise Arrow prints a traceback of its own
        header = content.partition(b"\n")[0].decode().rstrip("\r").split(",")
        wanted = [name for name in header if columns is None or name in columns]
        if not wanted or len(set(header)) != len(header):
            return {}
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=lambda row: "skip"),  # for a running run
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
    ):  # a line damaged by a crash, which Arrow does not skip; a file of another program
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
    """Return ``balance.jsonl``: every line, or ``at_most`` lines, evenly spaced and including the last.

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
    """Return whether a line has the expected structure: tables of one shape, a number of tokens, the layers."""
    layers = row.get("layers")
    if not isinstance(layers, list) or not layers or not isinstance(row.get("tokens"), int):
        return False
    try:
        shapes = {np.array(row[key], dtype=np.float64).shape for key in TABLES}
    except (KeyError, ValueError, TypeError):
        return False
    return len(shapes) == 1 and [len(shape) for shape in shapes] == [2] and {s[0] for s in shapes} == {len(layers)}
