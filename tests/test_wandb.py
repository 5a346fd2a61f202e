"""Weights & Biases: one offline run per job, readable by W&B's own reader, always closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from s15erav3.__main__ import main
from s15erav3.callbacks.telemetry import Telemetry
from tests.tiny import TINY, result, rows, train

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No account, no network."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def history(run_dir: Path) -> list[dict]:
    """All history rows of the offline runs in a folder, as W&B's own reader gives them."""
    read = []
    for file in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb")):
        wandb = Path(sys.executable).with_name("wandb")
        done = subprocess.run(
            [wandb, "leet", "inspect", "--json", file], capture_output=True, text=True, check=True, timeout=120
        )
        read += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [flat(record) for record in read if record.get("type") == "history"]


def flat(record: dict) -> dict:
    """Key and value of each item of a history record."""
    items = record.get("items") or record.get("history", {}).get("item") or record.get("item") or record
    if isinstance(items, dict):
        return items
    found = {}
    for item in items:
        key = item.get("key") or "/".join(item.get("nested_key", []))
        value = item.get("value", item.get("value_json"))
        found[key] = json.loads(value) if isinstance(value, str) else value
    return found


def test_each_job_of_a_sweep_is_a_run_of_its_own(tmp_path: Path) -> None:
    """Without an explicit finish, job 2 would silently write into run 1, also after a failure."""
    sweep = [f"hydra.sweep.dir={tmp_path}", "logger=both", "trainer.max_steps=4", "optimizer.lr=1e-3,1e30,2e-3"]
    assert main(["train", "-m", *TINY, *sweep, "schedule.warmup_steps=0", "sweep.name=three"]) == 2
    for job, status in enumerate(("completed", "failed", "completed")):
        run_dir = tmp_path / str(job)
        assert result(run_dir)["status"] == status
        assert len(list(run_dir.glob("wandb/offline-run-*/run-*.wandb"))) == 1
        logged = [row for row in history(run_dir) if "train/loss" in row]
        assert [row["trainer/global_step"] for row in logged] == [
            row["step"] for row in rows(run_dir / "balance.jsonl")
        ]
        for row, line in zip(logged, rows(run_dir / "balance.jsonl"), strict=True):
            assert row["tokens"] == line["tokens"]
            assert row["bias_L01/E03"] == pytest.approx(line["bias"][0][3])
    assert any("val/bpb" in row for row in history(tmp_path / "0"))


def test_without_an_account_a_run_is_offline(tmp_path: Path) -> None:
    """A new user has neither WANDB_MODE nor a key: every job of a sweep must run all the same, and ask nothing."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "XDG_CONFIG_HOME": str(tmp_path)}
    sweep = [f"hydra.sweep.dir={tmp_path / 'sweep'}", "logger=wandb", "trainer.max_steps=2", "seed=1,2"]
    done = subprocess.run(
        [sys.executable, "-m", "s15erav3", "train", "-m", *TINY, *sweep],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for job in (0, 1):
        assert len(history(tmp_path / "sweep" / str(job))) >= 2


def test_a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same id, steps without a gap, also after a crash that W&B saw."""
    run_dir = tmp_path / "run"
    original = Telemetry.on_train_batch_end

    def crashes(self, trainer, *args):
        original(self, trainer, *args)
        if trainer.global_step == 5:
            raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Telemetry, "on_train_batch_end", crashes)
        with pytest.raises(RuntimeError, match="a bug"):
            train("logger=wandb", "trainer.max_steps=8", run_dir=run_dir)
    assert main(["train", f"resume={run_dir}"]) == 0
    ids = {file.stem for file in run_dir.glob("wandb/offline-run-*/run-*.wandb")}
    assert len(ids) == 1
    steps = [row["trainer/global_step"] for row in history(run_dir) if "train/loss" in row]
    assert sorted(set(steps)) == [1, 2, 4, 6, 8]
