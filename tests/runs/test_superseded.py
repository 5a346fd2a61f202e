"""Going back to an earlier checkpoint deletes nothing: what came after it is set aside, numbered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s15erav3.__main__ import main
from tests.tiny import result, rows, train


def step_of(file: Path) -> int:
    return int(torch.load(file, weights_only=True)["global_step"])


def test_later_checkpoints_and_records_are_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail when best.ckpt of a later step stays, and when a second time overwrites the first."""
    run_dir = tmp_path / "run"
    settings = ["callbacks.checkpoint.keep_every_n_steps=2", "callbacks.telemetry.every_n_steps=1"]
    assert train("trainer.max_steps=8", *settings, run_dir=run_dir) == 0
    folder = run_dir / "checkpoints"
    assert step_of(folder / "best.ckpt") == 8  # val/bpb falls while there is so much to learn
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    records = {name: (run_dir / name).read_bytes() for name in ("metrics.csv", "balance.jsonl", "samples.jsonl")}
    records["result.json"] = (run_dir / "result.json").read_bytes()

    capsys.readouterr()
    early = folder / "step_000004.ckpt"
    assert main(["train", f"resume={early}", "optimizer.lr=1e-4"]) == 0
    said = capsys.readouterr().err
    aside = run_dir / ".superseded" / "1"
    later = {"last.ckpt", "best.ckpt", "step_000006.ckpt", "step_000008.ckpt"}
    assert {file.name for file in aside.iterdir()} == later | set(records)
    assert all((aside / name).read_bytes() == files[name] for name in later)
    assert all((aside / name).read_bytes() == content for name, content in records.items())
    assert "later than step 4" in said and str(aside) in said and all(name in said for name in later)
    assert (folder / "step_000002.ckpt").read_bytes() == files["step_000002.ckpt"]
    assert early.read_bytes() == files["step_000004.ckpt"]
    # A run of its own from there: everything is there once, and best.ckpt is one of its own.
    assert [row["step"] for row in rows(run_dir / "balance.jsonl")] == list(range(1, 9))
    assert rows(run_dir / "balance.jsonl")[:4] == rows(aside / "balance.jsonl")[:4]
    assert {file.name for file in folder.iterdir()} == set(files)
    assert result(run_dir)["resumed"] == [
        {"step": 4, "run_dir": str(run_dir), "changed": {"optimizer.lr": [0.004, 1e-4]}}
    ]

    assert main(["train", f"resume={early}", "optimizer.lr=1e-5"]) == 0
    assert sorted(p.name for p in (run_dir / ".superseded").iterdir()) == ["1", "2"]
    assert all((aside / name).read_bytes() == files[name] for name in later)
    assert len(result(run_dir)["resumed"]) == 2
    assert main(["train", "resume=last"]) == 2  # what was set aside is no run


def test_best_is_written_anew_when_the_best_was_set_aside(tmp_path: Path) -> None:
    """Else a run that learns nothing more would have none, though its figures tell of one."""
    run_dir = tmp_path / "run"
    settings = ["callbacks.checkpoint.keep_every_n_steps=4", "schedule=constant", "schedule.warmup_steps=0"]
    assert train("trainer.max_steps=8", *settings, run_dir=run_dir) == 0
    folder = run_dir / "checkpoints"
    assert main(["train", f"resume={folder / 'step_000004.ckpt'}", "optimizer.lr=0.3"]) == 0  # which ruins it
    best = torch.load(folder / "best.ckpt", weights_only=True)
    assert best["global_step"] == 8
    assert result(run_dir)["best/val/bpb"] == result(run_dir)["val/bpb"]


def test_going_on_from_the_last_sets_nothing_aside(tmp_path: Path) -> None:
    """Nor does a file of the same step."""
    run_dir = tmp_path / "run"
    assert train("trainer.max_steps=4", "callbacks.checkpoint.keep_every_n_steps=4", run_dir=run_dir) == 0
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=5"]) == 0
    assert not (run_dir / ".superseded").exists()
