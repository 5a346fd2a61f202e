"""The study's protocol was there before its runs, and says today what it said then."""

from __future__ import annotations

import json
import math
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = "docs/study_protocol.md"
FILES = list((ROOT / "docs/data/study").glob("study_*.jsonl"))
RECORDS = [json.loads(line) for file in FILES for line in file.open()]


def git(*arguments: str) -> str:
    """What git says of this repository."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no history of the study here: {done.stderr.strip()}")
    return done.stdout


def promised(text: str) -> str:
    """What the protocol promises: all that stands before its list of deviations."""
    return text.partition("\n## Deviations")[0]


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    if not RECORDS:
        pytest.skip("docs/data/study has no records of confirmatory runs yet")
    return RECORDS


def test_each_run_was_made_under_the_protocol_of_today(records: list[dict[str, Any]]) -> None:
    now = promised((ROOT / PROTOCOL).read_text())
    for commit in {record["git_commit"] for record in records}:
        assert promised(git("show", f"{commit}:{PROTOCOL}")) == now, commit


def test_the_protocol_is_older_than_each_run(records: list[dict[str, Any]]) -> None:
    for commit in {record["git_commit"] for record in records}:
        written = datetime.fromisoformat(git("log", "-1", "--format=%cI", commit, "--", PROTOCOL).strip())
        ended = [datetime.fromisoformat(record["finished"]) for record in records if record["git_commit"] == commit]
        assert written < min(ended)


def test_all_runs_have_one_code(records: list[dict[str, Any]]) -> None:
    assert len({record["code"] for record in records}) == 1
    assert not any(str(record["git_commit"]).endswith("+changes") for record in records)


def test_no_run_is_there_twice_and_all_had_one_thread(records: list[dict[str, Any]]) -> None:
    """As the protocol says; another number of threads is another rounding."""
    runs = [(record["arm"], record["seed"], record["settings"].get("rounding")) for record in records]
    assert len(set(runs)) == len(runs)
    assert {record["threads"] for record in records} == {1}


def test_every_model_beats_the_4_gram(records: list[dict[str, Any]]) -> None:
    """The protocol's condition, before differences are looked at."""
    file = ROOT / "docs/data/study/baselines.json"
    found = json.loads(file.read_text())
    assert found["split"] == "test"
    for record in records:
        assert sum(record["test"]["nll"]) / sum(record["test"]["bytes"]) / math.log(2) < found["bpb"]["4-gram"]
