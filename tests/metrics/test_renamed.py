"""Folders of older runs, with the names that metrics had then: read, compared, and gone on with by today's."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from s15erav3.__main__ import main
from s15erav3.metrics import find
from s15erav3.metrics.renamed import FORMER, FORMER_RESULT, former_names, present_name, present_names, present_result
from s15erav3.runs.reader import read_balance, read_metrics, read_run
from tests.comparison.sweeps import write_run
from tests.test_resume import assert_same_run, metrics
from tests.tiny import result, rows, train

OLD = {new: old for old, new in (FORMER | FORMER_RESULT).items()}


def former(name: str) -> str:
    """What a metric of a training row was called."""
    if name.startswith("layer_"):
        return name.removesuffix("_batch")
    return {new: old for old, new in FORMER.items()}.get(name, name)


def test_former_names_lead_to_names_of_the_table() -> None:
    """Catches a slip of the hand in either column."""
    for old, new in (FORMER | FORMER_RESULT).items():
        assert find(new) is not None and present_result({old: 1.0}) == {new: 1.0}
    assert present_name("layer_12/maxvio") == "layer_12/maxvio_batch"
    for name in ("balance/maxvio_batch", "balance/entropy_global", "layer_12/maxvio_batch", "load_L03/E07", "x"):
        assert present_name(name) == name
    assert present_names({"balance/cv": 1, "balance/cv_batch": 2}) == {"balance/cv_batch": 2}
    assert present_names({"balance/cv_batch": 2, "balance/cv": 1}) == {"balance/cv_batch": 2}
    assert former_names(["val/bpb", "balance/gini_batch", "layer_01/maxvio_batch"]) == [
        "val/bpb", "balance/gini_batch", "layer_01/maxvio_batch", "balance/gini", "layer_01/maxvio"
    ]  # fmt: skip


def old_folder(folder: Path, **more: Any) -> Path:
    """A run as version 0.1 left it."""
    figures = {"perf/tokens_per_second": 900.0, "balance/dead_experts": 3.0, "balance/maxvio_floor": 0.233}
    run = write_run(folder, "seed=1", val_bpb=1.5, maxvio=0.3, **figures, **more)
    (run / "metrics.csv").write_text(
        "step,tokens,train/loss,balance/maxvio_batch,balance/maxvio_floor,balance/entropy,balance/dead_experts,"
        "layer_01/maxvio,perf/tokens_per_second,val/bpb,balance/maxvio_floor_global\n"
        "2,64,3.0,0.5,0.25,0.9,1,0.5,100,,\n4,128,2.0,0.4,0.25,0.95,0,0.4,300,,\n4,128,,,,,,,,1.5,0.03\n"
    )
    line = {"tokens": 64, "layers": [1], "load": [[1, 3]], "bias": [[0.1, -0.1]], "update": [[0.1, -0.1]]}
    (run / "balance.jsonl").write_text("".join(json.dumps({"step": s, **line}) + "\n" for s in (2, 4)))
    return run


def test_an_older_folder_is_read_by_todays_names(tmp_path: Path) -> None:
    """Each figure under the name that says what it was."""
    run = old_folder(tmp_path)
    read = read_run(run).result
    assert read["perf/tokens_per_second_overall"] == 900.0 and "perf/tokens_per_second" not in read
    assert read["balance/maxvio_floor_batch"] == 0.233 and read["balance/dead_experts_batch"] == 3
    table = read_metrics(run)
    assert table["balance/maxvio_floor_batch"][:2].tolist() == [0.25, 0.25]
    assert table["balance/maxvio_floor_global"][2] == 0.03 and math.isnan(table["balance/maxvio_floor_global"][0])
    assert table["perf/tokens_per_second"][:2].tolist() == [100, 300]
    assert read_metrics(run, ["layer_01/maxvio_batch"])["layer_01/maxvio_batch"][:2].tolist() == [0.5, 0.4]
    assert all(find(name) is not None for name in table)
    balance = read_balance(run)
    assert balance is not None and balance.bias_update.tolist() == [[[0.1, -0.1]], [[0.1, -0.1]]]


def test_older_runs_are_compared_with_new_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one column, which one can sort by."""
    old_folder(tmp_path / "0")
    new = {"perf/tokens_per_second_overall": 1100.0, "balance/dead_experts_batch": 1.0}
    write_run(tmp_path / "1", "optimizer.lr=0.1", val_bpb=1.4, **new)
    assert main(["compare", str(tmp_path), "sort=-perf/tokens_per_second_overall"]) == 0
    with (tmp_path / "compare.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["perf/tokens_per_second_overall"] for row in table] == ["1100", "900"]
    assert [row["balance/dead_experts_batch"] for row in table] == ["1", "3"]
    assert "perf/tokens_per_second" not in table[0] and "balance/maxvio_floor" not in table[0]
    page = (tmp_path / "compare.html").read_text()
    assert 'title="Bits per UTF-8 byte of the whole validation part' in page
    assert 'title="Tokens trained on per second of training' in page
    capsys.readouterr()
    assert main(["compare", str(tmp_path), "sort=balance/dead_experts"]) == 2
    assert "balance/dead_experts_batch" in capsys.readouterr().err


def age(run_dir: Path) -> None:
    """Write a run's records and its checkpoint by the names of version 0.1."""
    file = run_dir / "metrics.csv"
    with file.open(newline="") as stream:
        header, *lines = list(csv.reader(stream))
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([[former(name) for name in header], *lines])
    text = (run_dir / "balance.jsonl").read_text()
    (run_dir / "balance.jsonl").write_text(text.replace('"bias_update"', '"update"'))
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    payload = torch.load(checkpoint, weights_only=True)
    (telemetry,) = (state for key, state in payload["callbacks"].items() if key.startswith("Telemetry"))
    telemetry["latest"] = {former(name): value for name, value in telemetry["latest"].items()}
    assert "balance/entropy" in telemetry["latest"]
    torch.save(payload, checkpoint)


@pytest.mark.slow
def test_an_older_run_is_gone_on_with_to_the_last_bit(tmp_path: Path) -> None:
    """Its rows and the new ones stand in the same columns, and the run is the one that nothing interrupted. Seen to
    fail with a logger that adds today's columns beside the former ones."""
    settings = ["trainer.accumulate_grad_batches=2", "schedule=constant", "schedule.warmup_steps=0"]
    settings += ["balancing.schedule=constant"]  # nothing depends on how long a run is to be
    assert train(*settings, "trainer.max_steps=6", run_dir=tmp_path / "whole") == 0
    run_dir = tmp_path / "run"
    assert train(*settings, "trainer.max_steps=4", run_dir=run_dir) == 0
    age(run_dir)
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=6"]) == 0
    lines = rows(run_dir / "balance.jsonl")
    assert ["update" in line for line in lines] == [True, True, True, False]  # steps 1, 2 and 4, then 6
    text = (run_dir / "balance.jsonl").read_text()
    (run_dir / "balance.jsonl").write_text(text.replace('"update"', '"bias_update"'))
    assert_same_run(run_dir, tmp_path / "whole")
    assert metrics(run_dir) == metrics(tmp_path / "whole")
    assert result(run_dir)["balance/entropy_batch"] == result(tmp_path / "whole")["balance/entropy_batch"]


@pytest.mark.slow
def test_the_last_row_of_an_older_run_is_told_by_todays_names(tmp_path: Path) -> None:
    """Where a resumed run does nothing more, its result is made of what the checkpoint remembers."""
    run_dir = tmp_path / "run"
    assert train("trainer.max_steps=4", run_dir=run_dir) == 0
    before = result(run_dir)
    age(run_dir)
    (run_dir / "result.json").unlink()  # killed between its last step and its result
    assert main(["train", f"resume={run_dir}"]) == 0
    after = result(run_dir)
    same = [name for name in before if name.startswith(("balance/", "train/", "val/"))]
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert "balance/entropy" not in after
