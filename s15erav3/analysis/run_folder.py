"""Run folders read back, whatever state they are in: completed, failed, killed, broken or still at work."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import yaml
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is there


class Run(NamedTuple):
    """A run's folder."""

    folder: Path
    status: str
    """``completed``, ``failed``, ``interrupted`` (also: killed) or ``running``; ``broken`` if a file of it cannot be
    read."""
    reason: str
    """Why it failed, was interrupted or is broken; empty otherwise."""
    result: dict[str, Any]
    """``result.json``; while there is none, ``progress.json`` (step, max_steps, the last metrics)."""
    overrides: dict[str, str]
    """What the command line said: groups and dotted keys with their values as text."""
    config: dict[str, Any]
    """The composed config as plain containers, interpolations as they stand."""


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
    update: Floats
    """What the step added to the bias, (S, L, E)."""


def find_runs(folder: Path) -> list[Path]:
    """Run folders at or below ``folder``, in the order of job numbers; what a restarted sweep set aside, in hidden
    folders, is left out."""
    found = [config.parent.parent for config in _visible(folder, ".hydra/config.yaml")]
    return sorted(found, key=lambda run: [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in run.parts])


def _visible(folder: Path, name: str) -> Iterator[Path]:
    """Files ``name`` at or below ``folder``; a run's own folders are not looked into."""
    if (folder / name).is_file():
        yield folder / name
        return
    try:
        below = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name[:1] != "."]
    except OSError:  # removed meanwhile, or not ours to read
        return
    for path in below:
        yield from _visible(path, name)


def read_run(folder: Path) -> Run:
    """One run; never raises for what lies in the folder."""
    try:
        config = _yaml(folder / ".hydra" / "config.yaml")
        given = _yaml(folder / ".hydra" / "overrides.yaml") if (folder / ".hydra" / "overrides.yaml").exists() else []
        if not isinstance(config, dict) or not isinstance(given, list):
            raise ValueError(".hydra does not hold a config")
        result, progress = _json(folder / "result.json"), _json(folder / "progress.json")
    except (OSError, ValueError, yaml.YAMLError) as error:
        return Run(folder, "broken", " ".join(str(error).split()), {}, {}, {})
    overrides = dict(_split(str(override)) for override in given)
    if "status" in result:
        return Run(folder, str(result["status"]), str(result.get("reason", "")), result, overrides, config)
    if result:
        return Run(folder, "broken", "result.json has no status", {}, overrides, config)
    status, reason = ("running", "") if is_alive(progress) else ("interrupted", "it was killed, or never began")
    return Run(folder, status, reason, progress, overrides, config)


def is_alive(progress: dict[str, Any]) -> bool:
    """Whether the process that writes ``progress.json`` is at work: by its number on this machine, else by its
    having written within ten minutes."""
    if not progress:
        return False
    if progress.get("host") != socket.gethostname():
        return time.time() - float(progress.get("time", 0)) < 600
    try:
        os.kill(int(progress["pid"]), 0)
    except (KeyError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def _yaml(file: Path) -> Any:
    with file.open("rb") as stream:
        return yaml.load(stream, Loader=Loader)


def _json(file: Path) -> dict[str, Any]:
    """The file's object; empty where there is no file."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        return {}
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} holds no object")
    return found


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value.strip("'\"")


def read_metrics(folder: Path, columns: list[str] | None = None) -> dict[str, Floats]:
    """Columns of ``metrics.csv``, all of one length, NaN where a row does not have the metric.

    Args:
        columns: those wanted; the ones that the file lacks are left out.
    """
    file = folder / "metrics.csv"
    try:
        with file.open() as stream:
            header = stream.readline().rstrip("\r\n").split(",")
        wanted = [name for name in header if columns is None or name in columns]
        if not wanted:
            return {}
        table = pyarrow.csv.read_csv(
            file,
            parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=lambda row: "skip"),  # of a run at work
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.float64()), null_values=[""]
            ),
        )
    except (OSError, pa.ArrowInvalid):
        return {}
    return {name: table[name].to_numpy() for name in wanted}


def read_balance(folder: Path, at_most: int | None = None) -> Balance | None:
    """``balance.jsonl``, every line, or ``at_most`` so many, evenly spaced and with the last.

    Returns:
        ``None`` where nothing is recorded: a dense model, or a run that has not logged yet.
    """
    try:
        lines = (folder / "balance.jsonl").read_text().splitlines()
    except OSError:
        return None
    if at_most is not None and len(lines) > at_most:
        lines = [lines[i] for i in np.linspace(0, len(lines) - 1, at_most).round().astype(int)]
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # a line that is being written, or that a kill cut short
            continue
    if not rows:
        return None
    arrays = {key: np.array([row[key] for row in rows], dtype=np.float64) for key in ("load", "bias", "update")}
    steps, tokens = (np.array([row[key] for row in rows], dtype=np.float64) for key in ("step", "tokens"))
    return Balance(steps, tokens, rows[-1]["layers"], **arrays)
