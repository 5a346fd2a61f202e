"""scripts/study_records.py: what is kept of a sweep."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s15erav3.__main__ import main
from tests.tiny import MODEL, RUN

ROOT = Path(__file__).parent.parent.parent


def records(sweep: Path, out: Path, *options: str) -> tuple[str, list[dict[str, Any]]]:
    """What the script printed, and the records it wrote."""
    command = [sys.executable, str(ROOT / "scripts" / "study_records.py"), str(sweep), "--out", str(out), *options]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}).stdout
    return said, [json.loads(line) for line in (out / f"{sweep.name}.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_records_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arms of the study, tiny: their documents sum up to what ``evaluate`` says, and no path is kept."""
    monkeypatch.chdir(tmp_path)
    sweep = tmp_path / "study"
    settings = ["experiment=study/dsv3,study/dense", "data=sample", "data.max_epochs=-1", "compile=false", "seed=3"]
    settings += [*MODEL, *RUN, "data.vocab_size=512", "data.sequence_length=32", "trainer.max_steps=8"]
    assert main(["train", "-m", *settings, f"hydra.sweep.dir='{sweep}'"]) == 0
    said, kept = records(sweep, tmp_path / "kept")
    assert "2 of 2 runs" in said and [one["arm"] for one in kept] == ["dsv3", "dense"]
    for job, one in enumerate(kept):
        told = json.loads((sweep / str(job) / "evaluate-last-test.json").read_text())
        assert sum(one["test"]["nll"]) / sum(one["test"]["bytes"]) / 0.6931471805599453 == pytest.approx(
            told["text/bpb"], rel=1e-6
        )
        assert one["validations"]["val/bpb"][-1] == one["val/bpb"] and one["validations"]["step"] == [4, 8]
        assert one["seed"] == 3 and one["code"] and str(tmp_path) not in json.dumps(one)
    last = json.loads((sweep / "0" / "balance.jsonl").read_text().splitlines()[-1])
    assert kept[0]["last_load"] == last["load"] and kept[1]["last_load"] == []
    (sweep / "1" / "result.json").unlink()
    said, kept = records(sweep, tmp_path / "kept", "--split", "none")
    assert "left out" in said and len(kept) == 1 and "test" not in kept[0]


def test_the_name_of_an_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    arm = importlib.import_module("study_records").arm
    assert arm({"experiment": "study/dsv3", "balancing.rate": "0.1"}) == "dsv3"
    assert arm({"experiment": "study/none", "balancing": "hash", "model": "pico"}) == "hash"
