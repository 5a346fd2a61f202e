"""The command that ends a run's summary does train it further, whatever limit ended it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tiny import result, train


@pytest.mark.parametrize(
    ("limits", "further"),
    [
        (["trainer.max_steps=2"], "trainer.max_steps=4"),
        (["trainer.max_epochs=0.002"], "trainer.max_epochs=1"),
        (["trainer.max_time=0.1"], "trainer.max_time=null"),
    ],
)
def test_a_longer_limit(limits: list[str], further: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail with the number of epochs whatever the limit: "is complete: it has done 2 of 2 steps"."""
    run = tmp_path / "run"
    assert train(*limits, run_dir=run) == 0
    done = result(run)["steps"]
    told = capsys.readouterr()
    assert re.search(rf"train resume=\S+ {further}\n", told.out + told.err), told
    limit = [] if further == "trainer.max_steps=4" else [f"trainer.max_steps={done + 1}"]
    assert train(f"resume={run}", further, *limit) == 0
    assert result(run)["steps"] > done
