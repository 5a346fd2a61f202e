"""What runs log is what the table of metrics says: every name, in its place, with one value wherever it is told."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from s15erav3.__main__ import main
from s15erav3.comparison.groups import metrics as compared
from s15erav3.evaluate import SHOWN
from s15erav3.metrics import METRICS, find
from s15erav3.runs.reader import read_run
from tests.tiny import train

pytestmark = pytest.mark.slow

ADD_ONS = [
    *("balancing.capacity_factor=1.25", "balancing.z_loss=1e-3", "balancing.router_jitter=0.01"),
    "balancing.expert_dropout=0.1",
]
RUNS = {
    "smebu": ["balancing=smebu", "model.num_nextn_predict_layers=1", "trainer.skip_nonfinite=1", *ADD_ONS],
    "aux": ["balancing=aux", "trainer.accumulate_grad_batches=2"],
    "dense": ["experts=dense", "balancing=none"],
    "wide": ["experts=e32"],
    "zero": ["balancing=zero_experts"],
}
FACTS = {"checkpoint", "reference", "reference_step", "data", "split", "sequence_length", "stride", "ablate_mode"}
"""Of the JSON file of evaluate: what was measured."""

Told = dict[str, dict[str, Any]]
"""By place, the last value of each name."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """What each run tells in each place."""
    return {name: tell(tmp_path_factory.mktemp("logged") / name, settings) for name, settings in RUNS.items()}


def tell(run_dir: Path, settings: list[str]) -> Told:
    """Train five steps, evaluate the last checkpoint against itself, and read everything back."""
    assert train("trainer.max_steps=5", *settings, run_dir=run_dir) == 0
    last = run_dir / "checkpoints" / "last.ckpt"
    removal = [] if "experts=dense" in settings else ["ablate=experts", "ablate_mode=zero", "ablate_tokens=300"]
    assert main(["evaluate", str(last), f"reference={last}", "stride=20", "trainer.accelerator=cpu", *removal]) == 0
    found: Told = defaultdict(dict)
    with (run_dir / "metrics.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            place = "validation" if row["val/bpb"] else "train"
            found[place] |= {name: float(value) for name, value in row.items() if value}
    run = read_run(run_dir)
    found["result"] = {name: run.result[name] for name in compared([run])}
    found["evaluate"] = json.loads((run_dir / "evaluate-last-val.json").read_text())
    found["callback_metrics"] = torch.load(last, weights_only=True)["metrics"]
    found["progress"] = {k: v for k, v in json.loads((run_dir / "progress.json").read_text()).items() if "/" in k}
    return found


def test_nothing_is_told_that_is_not_in_the_table(told: dict[str, Told]) -> None:
    """A new figure must be told what it is: a row of s15erav3/metrics/table.py."""
    for run, places in told.items():
        for place, values in places.items():
            for name in values.keys() - (FACTS if place == "evaluate" else set()):
                metric = find(name)
                assert metric is not None, f"{name}, told by {run} in {place}, is not in the table"
                if place not in ("callback_metrics", "progress"):
                    assert place in metric.where, f"{name} is told by {run} in {place}, where the table has it not"
        assert places["callback_metrics"].keys() <= places["validation"].keys()


def test_nothing_is_in_the_table_that_is_not_told(told: dict[str, Told]) -> None:
    """A dead entry promises a figure that nobody finds."""
    seen = {
        (metric.name, place)
        for places in told.values()
        for place, values in places.items()
        for name in values
        if (metric := find(name)) is not None
    }
    others = {"perf/compile_seconds", "balance/rank_maxvio"}  # these runs wait for no compiler, and have one rank
    assert {(metric.name, place) for metric in METRICS for place in metric.where if metric.name not in others} <= seen


def test_evaluate_shows_what_the_table_has(told: dict[str, Told]) -> None:
    """Its table in the terminal names metrics of its file."""
    for name, _ in SHOWN:
        metric = find(name)
        assert metric is not None and "evaluate" in metric.where, name
        assert any(name in places["evaluate"] for places in told.values()), name


def test_one_name_has_one_value(told: dict[str, Told]) -> None:
    """The last row, result.json and evaluate of the last checkpoint speak of one moment and one text: where they share
    a name they share its value. Seen to fail with the floor of a step under the name of a text's, with twice the
    tokens in either floor, and with biases of which multi-token prediction is left out in one place."""
    shared = 0
    for run, places in told.items():
        for one, other in (("train", "result"), ("validation", "result"), ("result", "evaluate")):
            for name in (places[one].keys() & places[other].keys()) - {"step"}:
                assert places[other][name] == pytest.approx(places[one][name], rel=1e-4, abs=1e-6), (run, name)
                shared += 1
        ended, measured = places["result"], places["evaluate"]
        for name in ("loss", "bpb"):
            assert measured[f"text/{name}"] == pytest.approx(ended[f"val/{name}"], rel=1e-4)
        assert measured["step"] == ended["steps"] == places["train"]["step"]
    assert shared > 50


def test_a_mean_over_layers_is_that_of_its_layers(told: dict[str, Told]) -> None:
    """In rows of training and in evaluate alike."""
    for place, name, mean in (
        ("train", "maxvio", "maxvio_batch"), ("evaluate", "maxvio_global", "maxvio_global"),
        ("evaluate", "confidence", "confidence"),
    ):  # fmt: skip
        values = told["aux"][place]
        layers = [value for key, value in values.items() if key.startswith("layer_") and key.endswith(f"/{name}")]
        assert len(layers) == 2 and math.isclose(values[f"balance/{mean}"], sum(layers) / 2, rel_tol=1e-6)
