"""Run folders in every state that training, kills and full disks leave them in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from s15erav3.runs.reader import find_runs, is_alive, read_balance, read_choices, read_metrics, read_run
from tests.comparison.sweeps import write_metrics, write_run


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    """Overrides lose their quotes, and a config that is parsed in parts is the config that was written."""
    run = write_run(
        tmp_path, "experts=e16", "+data.path='a, b.txt'", "optimizer.lr=0.5", config={"x": "a: b\n\nc: d\n"}
    )
    read = read_run(run)
    assert (read.status, read.reason) == ("completed", "")
    assert read.overrides == {"experts": "e16", "data.path": "a, b.txt", "optimizer.lr": "0.5"}
    assert read.config == yaml.safe_load((run / ".hydra" / "config.yaml").read_text())
    assert read.config["optimizer"]["lr"] == 0.5


@pytest.mark.parametrize(
    ("status", "expected", "reason"),
    [
        ("completed", "completed", ""),
        ("failed", "failed", "ValueError"),
        ("interrupted", "interrupted", "ValueError"),
        ("running", "running", ""),
        ("killed", "interrupted", "it was killed"),
        ("starting", "interrupted", "no step yet"),
    ],
)
def test_each_state_is_told(tmp_path: Path, status: str, expected: str, reason: str) -> None:
    """A killed run that counts as running keeps a sweep from being restarted."""
    read = read_run(write_run(tmp_path, status=status, val_bpb=1.5))
    assert read.status == expected and read.reason.startswith(reason)
    assert ("val/bpb" in read.result) == (status != "starting")


BROKEN = {
    "cut result": ("result.json", b'{"status": "comp', "result.json"),
    "empty result": ("result.json", b"", "result.json"),
    "result without status": ("result.json", b'{"val/bpb": 1}', "status"),
    "list as result": ("result.json", b"[1]", "no object"),
    "not text": ("result.json", b"\xff\xfe", "codec"),
    "bad yaml": (".hydra/config.yaml", b"a: [", "config.yaml"),
    "text as config": (".hydra/config.yaml", b"hello", "config"),
    "empty config": (".hydra/config.yaml", b"", "config"),
    "overrides no list": (".hydra/overrides.yaml", b"a: 1", "config"),
    "overrides a number": (".hydra/overrides.yaml", b"7", "config"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_a_broken_run_and_no_exception(tmp_path: Path, case: str) -> None:
    """One bad file out of a thousand must not hide the others."""
    name, content, told = BROKEN[case]
    run = write_run(tmp_path)
    (run / name).write_bytes(content)
    read = read_run(run)
    assert read.status == "broken"
    assert told in read.reason and "\n" not in read.reason


@pytest.mark.parametrize("pid", [None, "x", -1, 0, 10**30, [1]])
def test_a_progress_file_of_nonsense_is_no_exception(tmp_path: Path, pid: object) -> None:
    """Signal 0 to process 0 or -1 reaches others, and would say that a run is alive."""
    run = write_run(tmp_path, status="killed")
    (run / "progress.json").write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "time": time.time()}))
    assert read_run(run).status in ("interrupted", "broken")


def test_a_number_that_another_process_has_now_is_not_the_run(tmp_path: Path) -> None:
    """After a restart of the machine, the numbers of killed runs are those of other programs."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        here = {"host": socket.gethostname(), "pid": child.pid}
        assert is_alive({**here, "time": time.time() + 1})
        assert not is_alive({**here, "time": time.time() - 3600})
    finally:
        child.kill()
        child.wait()
    assert not is_alive({**here, "time": time.time()})


def test_a_run_on_another_machine_lives_as_long_as_it_writes() -> None:
    """Its process number says nothing here."""
    there = {"host": "elsewhere", "pid": os.getpid()}
    assert is_alive({**there, "time": time.time() - 60})
    assert not is_alive({**there, "time": time.time() - 3600})


def test_runs_are_found_by_number_without_what_was_set_aside_and_once(tmp_path: Path) -> None:
    """A superseded run, or the same run through a link, would count twice in a median."""
    for name in ("10", "9", "a/1", ".superseded/9", "9/checkpoints/inner"):
        write_run(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "9")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [str(run.relative_to(tmp_path)) for run in find_runs(tmp_path)]
    assert found == ["9", "10", "a/1"]
    assert find_runs(tmp_path / "9") == [tmp_path / "9"]
    assert find_runs(tmp_path / "nowhere") == []


def test_choices_of_defaults_are_read(tmp_path: Path) -> None:
    """The command line does not say them."""
    run = write_run(tmp_path, "experts=e16")
    assert read_choices(run) == {
        "experts": "e16", "model": "nano", "balancing": "loss_free", "optimizer": "adamw", "experiment": "null"
    }  # fmt: skip
    (run / ".hydra" / "hydra.yaml").unlink()
    assert read_choices(run) == {}


def test_metrics_of_a_run_at_work_are_read_up_to_a_cut_line(tmp_path: Path) -> None:
    """The last line may be half written; empty cells are NaN, and absent columns are left out."""
    write_metrics(write_run(tmp_path), rows=5, columns=0)
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("12,245")
    table = read_metrics(tmp_path, ["step", "val/bpb", "nothing"])
    assert list(table) == ["step", "val/bpb"]
    assert table["step"].tolist() == [2, 4, 6, 8, 10, 10]
    assert np.isnan(table["val/bpb"][:5]).all() and table["val/bpb"][5] == 2.2
    assert read_metrics(tmp_path / "nowhere") == {}


def test_balance_lines_are_thinned_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    """A page needs some hundred steps of a long run, the last among them."""
    line = {"tokens": 1, "layers": [1], "load": [[1, 2]], "bias": [[0, 0]], "update": [[0, 0]]}
    text = "".join(json.dumps({**line, "step": step}) + "\n" for step in range(100))
    (tmp_path / "balance.jsonl").write_text(text)
    some = read_balance(tmp_path, 5)
    assert some is not None and some.steps.tolist() == [0, 25, 50, 74, 99] and some.load.shape == (5, 1, 2)
    (tmp_path / "balance.jsonl").write_text(text + '{"step": 100, "lo')
    every = read_balance(tmp_path)
    assert every is not None and every.steps[-1] == 99
    assert read_balance(tmp_path / "nowhere") is None


def test_speeds_of_an_older_result_are_those_of_the_whole_run(tmp_path: Path) -> None:
    """Until version 0.2 one name meant the last row in ``metrics.csv`` and the whole run in ``result.json``."""
    old = read_run(write_run(tmp_path / "0", "seed=1", val_bpb=1.5, **{"perf/tokens_per_second": 900.0})).result
    assert old["perf/tokens_per_second_overall"] == 900 and "perf/tokens_per_second" not in old
    both = {"perf/tokens_per_second": 950.0, "perf/tokens_per_second_overall": 900.0}
    new = read_run(write_run(tmp_path / "1", "seed=1", val_bpb=1.5, **both)).result
    assert {name: new[name] for name in both} == both
