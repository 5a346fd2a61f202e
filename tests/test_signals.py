"""Signals: the step at hand is finished and saved, the run says interrupted, and the exit status is 128 + n."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from s15erav3.__main__ import main
from s15erav3.callbacks import last_checkpoint
from s15erav3.data import tokens
from s15erav3.runs.checkpoint_io import WholeFileIO
from s15erav3.session import build
from s15erav3.training.module import LanguageModule
from tests.loggers.wandb_reader import records
from tests.tiny import few, result, rows, train

SETTINGS = ["trainer.max_steps=50", "callbacks.telemetry.every_n_steps=1", "trainer.val_check_interval=50"]


def name(number: int) -> str:
    """A signal's."""
    return signal.Signals(number).name


def at_step(step: int, monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Send signals in the middle of a step, one after another."""
    original, sent = LanguageModule._nll, list(numbers)

    def signals(self: LanguageModule, windows: torch.Tensor, **settings: bool):  # type: ignore[no-untyped-def]
        if self.training and self.trainer.global_step >= step and sent:
            signal.raise_signal(sent.pop(0))
        return original(self, windows, **settings)

    monkeypatch.setattr(LanguageModule, "_nll", signals)


@pytest.mark.parametrize(
    "number", few([*last_checkpoint.STOPS, signal.SIGINT], signal.SIGUSR1, signal.SIGINT), ids=name
)
def test_each_signal_saves_and_says_interrupted(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a cluster, a closed terminal, a service manager, and Ctrl-C. The handlers of before are back afterwards."""
    before = {n: signal.getsignal(n) for n in (*last_checkpoint.STOPS, signal.SIGINT)}
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(4, patch, number)
        assert train(*SETTINGS, run_dir=run_dir) == 128 + number
    assert {n: signal.getsignal(n) for n in before} == before
    ended, called = result(run_dir), name(number)
    assert (ended["status"], ended["reason"], ended["steps"]) == ("interrupted", f"stopped by {called}", 5)
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    assert [row["step"] for row in rows(run_dir / "balance.jsonl")] == [1, 2, 3, 4, 5]
    assert f"stopped by {called}" in capsys.readouterr().err
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=6"]) == 0


def test_a_second_signal_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same step, after the time within which signals mean one request; the checkpoint of before holds."""
    run_dir = tmp_path / "run"
    monkeypatch.setattr(last_checkpoint, "TOGETHER", -1.0)
    original = LanguageModule._nll

    def signals(self: LanguageModule, windows: torch.Tensor, **settings: bool):  # type: ignore[no-untyped-def]
        if self.training and self.trainer.global_step == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return original(self, windows, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModule, "_nll", signals)
        assert train(*SETTINGS, run_dir=run_dir) == 130
    assert (result(run_dir)["status"], result(run_dir)["steps"]) == ("interrupted", 4)
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=6"]) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=name)
def test_a_signal_while_training_is_set_up_keeps_its_status(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning has begun, and the first step has not."""
    monkeypatch.setattr(LanguageModule, "configure_optimizers", lambda self: signal.raise_signal(number))
    assert train(*SETTINGS, run_dir=tmp_path / "run") == 128 + number
    assert result(tmp_path / "run")["status"] == "interrupted"


@pytest.mark.parametrize("number", few([signal.SIGTERM, signal.SIGINT, signal.SIGHUP], signal.SIGINT), ids=name)
@pytest.mark.parametrize("while_doing", ["train_bpe", "_encode"])
def test_a_signal_while_data_is_prepared_leaves_nothing(
    while_doing: str, number: signal.Signals, tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a run's folder nor half a cache; the next run prepares it anew."""
    run_dir, original = tmp_path / "run", getattr(tokens, while_doing)

    def signals(*args: object) -> object:
        done = original(*args)
        signal.raise_signal(number)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(tokens, while_doing, signals)
        assert train(*SETTINGS, run_dir=run_dir) == 128 + number
    assert not run_dir.exists()
    made = {file.relative_to(fresh_cache).parts[0] for file in fresh_cache.rglob("*") if file.suffix != ".lock"}
    left = [f for f in fresh_cache.rglob("*") if f.is_file() and f.suffix != ".lock"]
    assert len(left) == (0 if while_doing == "train_bpe" else 1), made
    assert train("trainer.max_steps=1", run_dir=run_dir) == 0


def test_a_signal_while_the_last_checkpoint_is_written_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is whole, and no scratch file stays."""
    run_dir, original = tmp_path / "run", torch.save

    def signals(payload: dict, file: object) -> None:
        if payload["global_step"] == 6:
            signal.raise_signal(signal.SIGTERM)
        original(payload, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", signals)
        assert train(*SETTINGS, run_dir=run_dir) == 128 + signal.SIGTERM
    assert {file.name for file in (run_dir / "checkpoints").iterdir()} == {"last.ckpt"}
    saved = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert saved == result(run_dir)["steps"] and saved in (6, 7)


@pytest.fixture
def in_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written as on a GPU."""
    monkeypatch.setattr(build, "WholeFileIO", lambda background: WholeFileIO(background=True))


@pytest.mark.usefixtures("in_background")
def test_a_signal_while_the_final_checkpoint_is_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is complete. Seen to fail when the wait comes after the handlers have gone."""
    run_dir, original = tmp_path / "run", torch.save

    def signals(payload: dict, file: object) -> None:
        final = payload["global_step"] == 5 and (run_dir / "checkpoints" / "best.ckpt").exists()
        if final:
            time.sleep(0.5)
            signal.raise_signal(signal.SIGTERM)
        original(payload, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", signals)
        assert train(*SETTINGS, "trainer.max_steps=5", run_dir=run_dir) == 0
    assert result(run_dir)["status"] == "completed"
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5


@pytest.mark.usefixtures("in_background")
def test_a_job_is_requeued_when_its_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may begin on another node at once. Seen to fail when the thread that writes is not waited for."""
    run_dir, original, found = tmp_path / "run", torch.save, []

    def saves_late(payload: dict, file: object) -> None:
        time.sleep(0.5)
        original(payload, file)

    def requeues(number: int, frame: object) -> None:
        found.extend(file.name for file in (run_dir / "checkpoints").iterdir())
        raise SystemExit(1)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", saves_late)
        at_step(4, patch, signal.SIGUSR2)
        before = signal.signal(signal.SIGUSR2, requeues)
        try:
            assert train(*SETTINGS, run_dir=run_dir) == 1
        finally:
            signal.signal(signal.SIGUSR2, before)
    assert found == ["last.ckpt"] and result(run_dir)["status"] == "interrupted"


@pytest.mark.slow
def test_an_interrupted_wandb_run_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: its last rows are in the file, and it says that it did not end well."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(4, patch, signal.SIGTERM)
        assert train(*SETTINGS, "logger=both", run_dir=run_dir) == 128 + signal.SIGTERM
    assert [exit_record["exit_code"] for exit_record in records(run_dir, "exit")] == [128 + signal.SIGTERM]
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=6"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_at_any_moment_of_a_process_ends_it_in_good_order(number: int, tmp_path: Path) -> None:
    """While it imports, composes, prepares, trains or concludes: no traceback, and a folder that can be read."""
    import random

    from s15erav3.runs.reader import read_run
    from tests.tiny import TINY

    draw = random.Random(number)
    for attempt in range(6):
        run_dir = tmp_path / str(attempt)
        command = [
            sys.executable,
            "-m",
            "s15erav3",
            "train",
            *TINY,
            "trainer.max_steps=400",
            f"hydra.run.dir={run_dir}",
        ]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        while attempt and not (run_dir / "progress.json").exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 1.5))
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
        if attempt == 0:  # most likely before Python has set up anything
            continue
        assert process.returncode in (0, 128 + number), said
        assert "Traceback" not in said, said
        if run_dir.exists():
            assert read_run(run_dir).status in ("interrupted", "completed")
