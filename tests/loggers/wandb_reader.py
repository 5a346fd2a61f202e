"""What W&B has of a run, read back by W&B's own reader, and what the run's own files say of the same."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import rows

WANDB = Path(sys.executable).with_name("wandb")
MEDIA = {"media/load_heatmap", "media/bias_heatmap", "media/load_histogram", "media/samples"}
OF_WANDB = {"_step", "_runtime", "_timestamp"}


def fragments(run_dir: Path) -> list[Path]:
    """Folders of W&B's runs below a run's folder: more than one if it was resumed."""
    return sorted(file.parent for file in run_dir.glob("wandb/*run-*/run-*.wandb"))


def records(run_dir: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Records of one kind of all fragments: history, summary, config, run, exit ..."""
    for fragment in fragments(run_dir):
        (file,) = fragment.glob("run-*.wandb")
        command = [WANDB, "leet", "inspect", "--json", file]
        read = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        found = [json.loads(line) for line in read.stdout.splitlines() if line.startswith("{")]
        yield from (record[kind] for record in found if record["type"] == kind)


def history(run_dir: Path) -> list[dict[str, Any]]:
    """All history rows."""
    return [nested(record["item"]) for record in records(run_dir, "history")]


def updated(run_dir: Path, kind: str) -> dict[str, Any]:
    """The state that all updates of the summary or the config lead to."""
    state: dict[str, Any] = {}
    for record in records(run_dir, kind):
        state |= record.get("update", {})
    return state


def nested(row: dict[str, Any]) -> dict[str, Any]:
    """The reader's ``media/x.path`` as W&B itself has it: ``path`` in ``media/x``."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        name, dot, part = key.partition(".")
        if dot:
            found.setdefault(name, {})[part] = value
        else:
            found[key] = value
    return found


def plain_of(result: dict[str, Any]) -> dict[str, Any]:
    """What of result.json a summary can hold."""
    return {key: value for key, value in result.items() if value is not None and not isinstance(value, dict)}


def written(run_dir: Path) -> list[dict[str, float]]:
    """The rows of ``metrics.csv``, those of one step in one."""
    found: dict[float, dict[str, float]] = {}
    with (run_dir / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            values = {key: float(value) for key, value in row.items() if value}
            found.setdefault(values["step"], {}).update(values)
    return [{("trainer/global_step" if k == "step" else k): v for k, v in row.items()} for row in found.values()]


def assert_same_rows(arrived: list[dict[str, Any]], run_dir: Path) -> None:
    """Row by row: every value of metrics.csv and balance.jsonl and nothing beside them but media, at validations; the
    table of samples at the end."""
    expected = written(run_dir)
    if "samples" in arrived[-1]:
        *arrived, last = arrived
        assert last["trainer/global_step"] == expected[-1]["trainer/global_step"]
        assert last["tokens"] == expected[-1]["tokens"]
    assert [row["trainer/global_step"] for row in arrived] == [row["trainer/global_step"] for row in expected]
    for row, line in zip(arrived, expected, strict=True):
        media = MEDIA if "val/bpb" in line else set()
        assert row.keys() - OF_WANDB == line.keys() | media
        assert {key: row[key] for key in line} == line
    lines = {line["step"]: line for line in rows(run_dir / "balance.jsonl")}
    logged = [row for row in arrived if "train/loss" in row]
    assert [row["trainer/global_step"] for row in logged] == list(lines)
    for row in logged:
        line = lines[row["trainer/global_step"]]
        assert row["tokens"] == line["tokens"]
        for at, layer in enumerate(line["layers"]):
            fair = sum(line["load"][at]) / len(line["load"][at])
            for expert, load in enumerate(line["load"][at]):
                name = f"L{layer:02d}/E{expert:02d}"
                assert row[f"load_{name}"] == pytest.approx(load / fair, rel=1e-12)
                assert row[f"bias_{name}"] == line["bias"][at][expert]
                assert row[f"bias_update_{name}"] == line["bias_update"][at][expert]


def assert_same_media(arrived: list[dict[str, Any]], files: dict[str, bytes], run_dir: Path) -> None:
    """The heatmaps show the biases of balance.jsonl and the loads of which metrics.csv has the MaxVio; the page of
    samples shows the texts of samples.jsonl."""
    lines = {line["step"]: line for line in rows(run_dir / "balance.jsonl")}
    validated = [row for row in arrived if "val/bpb" in row]
    assert len(validated) >= 2
    for row in validated:
        step = row["trainer/global_step"]
        bias = json.loads(files[row["media/bias_heatmap"]["path"]])["data"][0]
        assert bias["y"] == [f"L{layer:02d}" for layer in lines[step]["layers"]]
        assert matrix(bias["z"]) == pytest.approx([value for layer in lines[step]["bias"] for value in layer], abs=1e-4)
        load = json.loads(files[row["media/load_heatmap"]["path"]])["data"][0]
        layers = len(load["y"])
        shares = matrix(load["z"])
        experts = len(shares) // layers
        peaks = [max(shares[i * experts : (i + 1) * experts]) - 1 for i in range(layers)]
        assert sum(peaks) / layers == pytest.approx(row["balance/maxvio_global"], abs=1e-3)
        bars = row["media/load_histogram"]
        assert sum(bars["values"]) == len(shares)
        assert bars["bins"][0] == pytest.approx(min(shares), abs=1e-3)
        assert bars["bins"][-1] == pytest.approx(max(shares), abs=1e-3)
        page = files[row["media/samples"]["path"]].decode()
        assert page.count("<dd>") == sum(sample["step"] == step for sample in rows(run_dir / "samples.jsonl")) > 0


def matrix(z: Any) -> list[float]:
    """Plotly's numbers, a list of rows or base64 of an array, one after the other."""
    if isinstance(z, list):
        return [value for row in z for value in row]
    import base64

    import numpy as np

    return np.frombuffer(base64.b64decode(z["bdata"]), dtype=z["dtype"]).tolist()
