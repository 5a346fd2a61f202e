"""A signal to any rank, or an error of one: all end together, and the run can be resumed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.ranks.several import result, run, sentences, start, wait

LONG = ["trainer.max_steps=12"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "name"), [((0,), "SIGTERM"), ((1,), "SIGTERM"), ((0, 1), "SIGTERM"), ((1,), "SIGINT")]
)
def test_a_signal_to_any_rank_saves_and_ends_all(tmp_path: Path, ranks: tuple[int, ...], name: str) -> None:
    """With the status of that signal, and one sentence."""
    number = signal.Signals[name]
    ended = run(tmp_path, f"if RANK in {ranks}: at(3, lambda _: hit({int(number)}))", *LONG)
    assert ended.status == 128 + number
    (said,) = sentences(ended.said)
    assert said.startswith(f"stopped by {name}; resume with:")
    found = result(tmp_path)
    assert (found["status"], found["reason"], found["steps"]) == ("interrupted", f"stopped by {name}", 4)


IN_BACKGROUND = """
import torch
from s15erav3.session import build
its = build.WholeFileIO
build.WholeFileIO = lambda background: its(background=True)
save = torch.save
def late(payload, file):
    time.sleep(14)
    save(payload, file)
torch.save = late
"""
"""As on GPUs, to a disk that is slower than the ranks have patience with one another."""


@pytest.mark.slow
def test_a_signal_waits_for_the_file_that_is_written_in_the_background(tmp_path: Path) -> None:
    """Seen to fail when neither the other ranks wait nor the watch that ends the first one with them."""
    body = IN_BACKGROUND + f"RANK == 0 and at(2, lambda self: hit({int(signal.SIGTERM)}))"
    few = ["trainer.max_steps=12", "callbacks.checkpoint.every_n_steps=100", "trainer.val_check_interval=100"]
    ended = run(tmp_path, body, *few)
    assert ended.status == 128 + signal.SIGTERM and ended.seconds > 14
    assert {file.name for file in (tmp_path / "run" / "checkpoints").iterdir()} == {"last.ckpt"}
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == result(tmp_path)["steps"] == 3


@pytest.mark.slow
def test_a_signal_to_all_before_training_begins(tmp_path: Path) -> None:
    """While the other rank prepares, and the first waits for it where Python handles no signal."""
    process = start(tmp_path, "if RANK: CommentaryData.prepare = lambda self: hit(0) or time.sleep(1000)", *LONG)
    until = time.time() + 120
    while not (tmp_path / "hit").exists() and time.time() < until:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    ended = wait(process, tmp_path)
    assert (ended.status, result(tmp_path)["reason"]) == (128 + signal.SIGTERM, "stopped by SIGTERM")
    assert sentences(ended.said) == ["stopped by SIGTERM; it had no checkpoint yet"]


@pytest.mark.slow
def test_an_error_of_one_rank_is_told_once(tmp_path: Path) -> None:
    """A user's mistake leaves nothing of a run that never began; a bug shows its traceback, from any rank."""
    body = "from s15erav3.errors import UserError\ndef bad(_): raise UserError('data.path=x is bad.')\n"
    ended = run(tmp_path / "user", f"{body}if RANK == 1: CommentaryData.prepare = bad", *LONG)
    assert (ended.status, sentences(ended.said)) == (2, ["error: data.path=x is bad."])
    assert not (tmp_path / "user" / "run").exists()
    ended = run(tmp_path / "bug", "def bad(_): raise TypeError('a bug')\nif RANK == 1: at(3, bad)", *LONG)
    assert ended.status == 1 and ended.said.count("TypeError: a bug\n") == 1
    assert "failed: TypeError: a bug" in result(tmp_path / "bug")["reason"]
    ended = run(tmp_path / "early", "", "trainer.max_steps=nonsense")
    assert ended.status == 2 and len(sentences(ended.said)) == 1
    assert not (tmp_path / "early" / "run").exists()


NAN = """
import torch
right, bad = LanguageModule._nll, []
def nll(self, windows, look_ahead=False):
    found, out = right(self, windows, look_ahead)
    if RANK == 1 and self.training and self.trainer.global_step == 4:
        bad.append(windows)
    return (found * float("nan") if any(torch.equal(windows, other) for other in bad) else found), out
LanguageModule._nll = nll
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["balancing=aux", "balancing.scope=global", "data.batch_size=2", "trainer.accumulate_grad_batches=2"],
        ["trainer.max_time=00:00:10:00", "data.batch_size=2", "trainer.accumulate_grad_batches=2"],
        ["trainer.strategy=fsdp"],
    ],
)
def test_a_nan_on_one_rank_ends_all(tmp_path: Path, settings: list[str]) -> None:
    """Named as that rank found it; the others find nothing, and must not be waited for on the way. Seen to hang with
    the sums over ranks, or the clock of the first rank, asked for in the diagnosis."""
    ended = run(tmp_path / "ends", NAN, *LONG, *settings)
    assert ended.status == 2
    (said,) = sentences(ended.said)
    assert "training diverged: the loss is not finite at step 5;" in said
    assert result(tmp_path / "ends")["error"] == "Diverged"
    skips = run(tmp_path / "skips", NAN, *LONG, *settings, "trainer.skip_nonfinite=1")
    assert skips.status == 0
    assert result(tmp_path / "skips")["train/skipped_steps"] == 1
