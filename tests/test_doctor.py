"""``s15erav3 doctor`` with and without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch

from s15erav3.__main__ import main
from s15erav3.cli.schema.verbs import Check
from s15erav3.machine import examine, inventory
from s15erav3.machine.checks import CHECKS
from tests.conftest import ROOT

NONE = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_the_schema_knows_every_check() -> None:
    assert get_args(Check) == tuple(CHECKS)


@NONE
def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says so, names what did not run, and ends well unless a GPU is required."""
    assert main(["doctor", f"output={tmp_path}/new/gpu.json"]) == 0
    said = capsys.readouterr().out
    assert torch.__version__ in said
    assert f"no GPU: these checks did not run: {', '.join(CHECKS)}" in said
    report = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert report["machine"]["gpu"] is None
    assert {check["status"] for check in report["checks"].values()} == {"not run"}
    assert (tmp_path / "new" / "gpu.md").read_text() in said
    assert main(["doctor", "require_gpu=true", "checks=[parity]"]) == 2
    assert "no GPU: these checks did not run" in capsys.readouterr().err


def test_one_failure_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GPU that is made up."""

    def broken(device: str) -> dict[str, float]:
        raise RuntimeError("no kernel image | is available")

    made_up = {
        "parity": broken,
        "no_sync": lambda device: {"device": device},
        "bench_step": lambda d: {"output": "9 ms"},
    }
    monkeypatch.setattr(examine, "CHECKS", made_up)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(inventory, "gpu", lambda: {"name": "Card"})
    file = tmp_path / "gpu.json"
    assert main(["doctor", "checks=[parity,no_sync,bench_step]", f"output={file}", "require_gpu=true"]) == 1
    said = capsys.readouterr().out
    assert r"| parity | failed | 0.0 | RuntimeError: no kernel image \| is available |" in said
    assert "| no_sync | passed | 0.0 | device cuda |" in said
    assert "```text\n9 ms\n```" in said and "GPU: name Card" in said
    assert "traceback" in json.loads(file.read_text())["checks"]["parity"]


def test_a_report_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", f"output={tmp_path}/file/gpu.json"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_make_has_the_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "doctor require_gpu=true output=build/gpu-check.json" in makefile
    assert "pytest tests/gpu_static" in makefile
