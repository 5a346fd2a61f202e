"""A resumed run is the run that was never interrupted."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from s15erav3.__main__ import main
from s15erav3.callbacks.run_state import collect_rng, restore_rng
from s15erav3.training.module import LanguageModule
from s15erav3.training.step_churn import StepChurn
from tests.tiny import TINY, few, result, rows, train

STEPS = 11
LONG = [f"trainer.max_steps={STEPS}", "trainer.accumulate_grad_batches=2", "schedule.warmup_steps=2"]
KINDS = {
    "adamw": ["optimizer=adamw"],
    "muon": ["optimizer=muon"],
    "ahead": ["optimizer=adamw", "model.num_nextn_predict_layers=1"],
}


def trajectory(run_dir: Path) -> tuple[dict[str, torch.Tensor], list[dict], list[tuple]]:
    """Final weights and biases, balance records, and every logged loss."""
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    with (run_dir / "metrics.csv").open() as stream:
        names = ("step", "train/loss", "train/mtp_loss", "val/bpb")
        logged = [tuple(row.get(name) for name in names) for row in csv.DictReader(stream)]
    return state, rows(run_dir / "balance.jsonl"), logged


def metrics(run_dir: Path) -> list[dict[str, str]]:
    """Every row of metrics.csv, without speeds."""
    with (run_dir / "metrics.csv").open() as stream:
        return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in csv.DictReader(stream)]


def assert_same_run(one: Path, other: Path) -> None:
    (weights, balance, logged), (weights2, balance2, logged2) = trajectory(one), trajectory(other)
    assert weights.keys() == weights2.keys()
    assert any(key.endswith("router.bias") for key in weights)
    for key in weights:
        assert torch.equal(weights[key], weights2[key]), key
    assert balance == balance2
    assert logged == logged2
    assert rows(one / "samples.jsonl") == rows(other / "samples.jsonl")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that nothing interrupted, one per optimizer and one with multi-token prediction."""
    folder = tmp_path_factory.mktemp("unbroken")
    runs = {kind: folder / kind for kind in KINDS}
    for kind, run_dir in runs.items():
        assert train(*LONG, *KINDS[kind], run_dir=run_dir) == 0
    return runs


class Killed(BaseException):
    """Stands for a crash: nothing of the program catches it."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_in_mid_accumulation_is_continued_bit_for_bit(
    kind: str, unbroken: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 8 dies after the first of its two micro-batches; the run goes on from step 6 as if nothing had been."""
    calls = 0
    original = LanguageModule._nll

    def dies(self: LanguageModule, windows: torch.Tensor, **settings: bool):
        nonlocal calls
        calls += self.training
        if calls == 2 * 7 + 2:
            raise Killed
        return original(self, windows, **settings)

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModule, "_nll", dies)
        with pytest.raises(Killed):
            train(*LONG, *KINDS[kind], run_dir=run_dir)
    assert result(run_dir)["status"] == "failed"
    torch.rand(7)  # another state of the generators must not matter
    assert main(["train", f"resume={run_dir}"]) == 0
    assert result(run_dir)["status"] == "completed"
    assert_same_run(run_dir, unbroken[kind])


def test_a_signal_saves_between_two_steps_and_the_run_is_continued(unbroken: dict[str, Path], tmp_path: Path) -> None:
    """SIGTERM in the middle of a step: the step is finished and saved, the status says interrupted."""
    run_dir = tmp_path / "run"
    original = LanguageModule._nll

    def signals(self: LanguageModule, windows: torch.Tensor, **settings: bool):
        if self.training and self.trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, windows, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModule, "_nll", signals)
        # Both micro-batches of the step send one: the second would end the program at once, so send only one.
        sent = []
        patch.setattr(os, "kill", lambda pid, number: sent or (sent.append(1), signal.raise_signal(number)))
        assert train(*LONG, "optimizer=adamw", run_dir=run_dir) == 128 + signal.SIGTERM
    ended = result(run_dir)
    assert (ended["status"], ended["steps"]) == ("interrupted", 5)
    assert main(["train", f"resume={run_dir}"]) == 0
    assert_same_run(run_dir, unbroken["adamw"])


def test_resume_takes_a_file_and_a_longer_training(tmp_path: Path) -> None:
    """A named older checkpoint is gone on from, later records are dropped, the limit can be raised."""
    run_dir = tmp_path / "run"
    assert train("trainer.max_steps=6", "schedule=constant", run_dir=run_dir) == 0
    file = run_dir / "checkpoints" / "best.ckpt"
    step = torch.load(file, weights_only=True)["global_step"]
    assert main(["train", f"resume={file}", "trainer.max_steps=9"]) == 0
    assert result(run_dir)["steps"] == 9
    steps = [row["step"] for row in rows(run_dir / "balance.jsonl")]
    assert steps == sorted(set(steps))
    assert step < 9 and steps[-1] == 9


def test_a_relative_path_to_the_text_survives_a_change_of_folder(tmp_path: Path, monkeypatch) -> None:
    """The checkpoint knows where the text lay; resuming and evaluating elsewhere finds it."""
    (tmp_path / "elsewhere").mkdir()
    paragraphs = (f"Paragraph {i} says {i * i}, or so they tell us in chapter {i % 7}." for i in range(400))
    (tmp_path / "text.txt").write_text("\n\n".join(paragraphs))
    monkeypatch.chdir(tmp_path)
    settings = ["data=text", "data.path=text.txt", "data.vocab_size=280"]
    assert train(*settings, "trainer.max_steps=2", run_dir=tmp_path / "run") == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "resume=../run", "trainer.max_steps=3"]) == 0
    assert main(["evaluate", "../run"]) == 0


def test_resume_last_finds_the_newest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``resume=last`` means the run below outputs/ or multirun/ that wrote a checkpoint last, and none set aside."""
    monkeypatch.chdir(tmp_path)
    older, newer = tmp_path / "outputs" / "a" / "run", tmp_path / "multirun" / "b" / "0"
    for run_dir in (older, newer):
        assert train("trainer.max_steps=2", run_dir=run_dir) == 0
    aside = shutil.copytree(newer, tmp_path / "multirun" / "b" / ".superseded" / "0-1")
    (aside / "checkpoints" / "last.ckpt").touch()
    assert main(["train", "resume=last", "trainer.max_steps=3"]) == 0
    assert (result(older)["steps"], result(newer)["steps"], result(aside)["steps"]) == (2, 3, 2)


def test_a_kill_during_a_validation_loses_nothing(
    unbroken: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints and validations fall on the same step: the one is not the other's loss, nor its repetition."""
    together = [*LONG, "optimizer=adamw", "callbacks.checkpoint.every_n_steps=4"]
    original = LanguageModule.validation_step

    def dies(self: LanguageModule, *args):
        if self.trainer.global_step == 8:
            raise Killed
        return original(self, *args)

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModule, "validation_step", dies)
        with pytest.raises(Killed):
            train(*together, run_dir=run_dir)
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert main(["train", f"resume={run_dir}"]) == 0
    assert_same_run(run_dir, unbroken["adamw"])


CHURNING = [
    *("trainer.max_steps=7", "trainer.val_check_interval=2", "callbacks.checkpoint.every_n_steps=3"),
    *("balancing.rate=0.02", "balancing.router_jitter=0.1", "optimizer.lr=0.004", "schedule.warmup_steps=0"),
]
"""Validations at 2, 4, 6 and 7. Whoever draws from the generators while probing would train another model."""


@pytest.fixture(scope="module")
def churning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted, most of whose steps change some experts of the probe."""
    run_dir = tmp_path_factory.mktemp("churning") / "run"
    assert train(*CHURNING, run_dir=run_dir) == 0
    series = [row["balance/step_churn"] for row in metrics(run_dir) if row["balance/step_churn"]]
    assert len(series) == 4 and all(0 < float(share) < 1 for share in series) and len({*series}) > 2
    return run_dir


@pytest.mark.parametrize("at", few(("before", "signal 3", "signal 4", "validation"), "before", "validation"))
def test_the_churn_of_steps_goes_on_as_if_nothing_had_been(
    at: str, churning: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every figure of metrics.csv but speeds, to the bit, in a run that ends while the probe of step 4 is routed, with
    a signal in the step before or in that step, or in its validation. Seen to fail without the first probe after a
    resume, with other tokens as probe after it, and with a first probe that draws from the generators."""
    owner, name = (LanguageModule, "validation_step") if at == "validation" else (StepChurn, "begin")
    owner, name = (LanguageModule, "_nll") if at.startswith("signal") else (owner, name)
    original, step = getattr(owner, name), int(at[-1]) if at.startswith("signal") else 4
    sent: list[int] = []

    def ends(self: Any, *args: Any, **settings: Any) -> Any:
        now = self.step if isinstance(self, StepChurn) else self.trainer.global_step + self.training
        if now == step and not sent:
            sent.append(now)
            if not at.startswith("signal"):
                raise Killed
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args, **settings)

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, ends)
        if at.startswith("signal"):
            assert train(*CHURNING, run_dir=run_dir) == 128 + signal.SIGTERM
        else:
            with pytest.raises(Killed):
                train(*CHURNING, run_dir=run_dir)
    assert sent
    assert main(["train", f"resume={run_dir}"]) == 0
    assert metrics(run_dir) == metrics(churning)
    assert_same_run(run_dir, churning)


def test_settings_given_on_resume_hold_and_are_remembered(tmp_path: Path) -> None:
    """A lower learning rate is used, not the checkpoint's; the next resume knows the new length and logger."""
    run_dir = tmp_path / "run"
    assert train("trainer.max_steps=2", "schedule=constant", "schedule.warmup_steps=0", run_dir=run_dir) == 0
    changed = ["optimizer.lr=1e-5", "trainer.max_steps=4", "data.batch_size=2"]
    assert main(["train", f"resume={run_dir}", *changed]) == 0
    assert result(run_dir)["train/learning_rate"] == pytest.approx(1e-5)
    assert result(run_dir)["tokens"] == (2 * 4 + 2 * 2) * 32
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=5"]) == 0
    assert result(run_dir)["train/learning_rate"] == pytest.approx(1e-5)


def test_a_resume_that_cannot_be_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    """Other parameter groups or other text are found out before anything is rewound or overwritten."""
    run_dir = tmp_path / "run with a 'quote"
    quoted = str(run_dir).replace("'", "\\'")
    assert main(["train", *TINY, "trainer.max_steps=3", f"hydra.run.dir='{quoted}'"]) == 0
    before = {f: f.read_bytes() for f in run_dir.rglob("*") if f.is_file()}
    for change in ("optimizer.decay_embeddings=true", "data.split_seed=5", "optimizer=muon", "logger=wandb"):
        assert main(["train", f"resume={run_dir}", change, "trainer.max_steps=6"]) == 2, change
    assert {f: f.read_bytes() for f in run_dir.rglob("*") if f.is_file()} == before
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=4"]) == 0


def test_a_complete_run_says_so_and_keeps_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resuming a finished run neither trains nor overwrites anything."""
    run_dir = tmp_path / "run"
    assert train("trainer.max_steps=2", run_dir=run_dir) == 0
    before = (run_dir / "result.json").read_text()
    assert main(["train", f"resume={run_dir}"]) == 2
    assert "is complete" in capsys.readouterr().err
    assert (run_dir / "result.json").read_text() == before


def test_a_damaged_last_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of several checkpoints the readable one with the most steps is taken, and it is said."""
    run_dir = tmp_path / "run"
    assert train("trainer.max_steps=5", run_dir=run_dir) == 0
    last = run_dir / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=6"]) == 0
    assert "skipped" in capsys.readouterr().out
    assert result(run_dir)["steps"] == 6


def test_checkpoints_hold_plain_containers_only(tmp_path: Path) -> None:
    """weights_only loading works, and all that a resumed run needs is inside."""
    run_dir = tmp_path / "run"
    assert train("trainer.max_steps=2", run_dir=run_dir) == 0
    for file in (run_dir / "checkpoints").glob("*.ckpt"):
        payload = torch.load(file, weights_only=True)
        assert {"run", "rng", "seen", "optimizer_states", "loops"} <= payload.keys()
        assert payload["run"]["config"]["balancing"]["_target_"] == "s15erav3.balancing.LossFree"


def test_generators_are_restored_exactly() -> None:
    """Python's, NumPy's and torch's next numbers after restoring are those after collecting."""
    import random

    import numpy as np

    state = collect_rng()
    drawn = random.random(), np.random.rand(), torch.rand(3)
    restore_rng(state)
    again = random.random(), np.random.rand(), torch.rand(3)
    assert drawn[:2] == again[:2]
    assert torch.equal(drawn[2], again[2])


def test_each_rank_restores_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the state that the first rank saved of its device. Seen to fail when the states of all devices are saved by
    the first rank, which draws on one of them."""
    states = {torch.device("cuda", index): torch.tensor([index]) for index in range(2)}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state}))
    first, second = states
    saved = collect_rng(first)
    assert collect_rng(torch.device("cpu"))["cuda"] == [] and len(collect_rng()["cuda"]) == 2
    states.update({first: torch.tensor([7]), second: torch.tensor([8])})
    restore_rng(saved, second)
    assert states == {first: torch.tensor([7]), second: torch.tensor([0])}


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["balancing.router_jitter=0.1", "balancing.expert_dropout=0.2"])
def test_workers_of_the_loader_draw_from_no_generator_of_training(
    noise: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With data.num_workers=2: begun, interrupted after step 4 and resumed, it is the run that nothing interrupted, and
    the one without workers.

    Seen to fail when the loader seeds its workers from the global generator.
    """
    settings = [*LONG, noise, "optimizer=adamw"]
    assert train(*settings, run_dir=tmp_path / "alone") == 0
    assert train(*settings, "data.num_workers=2", run_dir=tmp_path / "whole") == 0
    original = LanguageModule._nll

    def dies(self: LanguageModule, windows: torch.Tensor, **settings: bool):
        if self.training and self.trainer.global_step == 4:
            raise Killed
        return original(self, windows, **settings)

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModule, "_nll", dies)
        with pytest.raises(Killed):
            train(*settings, "data.num_workers=2", run_dir=run_dir)
    torch.rand(7)
    assert main(["train", f"resume={run_dir}"]) == 0
    for other in ("alone", "whole"):
        assert_same_run(run_dir, tmp_path / other)
    mine, whole = (metrics(folder) for folder in (run_dir, tmp_path / "whole"))
    assert mine == whole and len(mine) > 5


@pytest.mark.slow
def test_kill_minus_nine_resumes_from_the_last_checkpoint(tmp_path: Path) -> None:
    """A process killed at any moment leaves a folder that can be gone on from, and ends as if unbroken."""
    command = [
        sys.executable,
        "-m",
        "s15erav3",
        "train",
        *TINY,
        "trainer.max_steps=60",
        "trainer.val_check_interval=20",
    ]
    unbroken = tmp_path / "unbroken"
    subprocess.run([*command, f"hydra.run.dir={unbroken}"], check=True, capture_output=True)
    for attempt, wait in enumerate((0.0, 0.35, 0.8)):
        run_dir = tmp_path / f"run{attempt}"
        process = subprocess.Popen(
            [*command, f"hydra.run.dir={run_dir}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while not (run_dir / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = subprocess.run(
            [sys.executable, "-m", "s15erav3", "train", f"resume={run_dir}"], capture_output=True, text=True
        )
        if "is complete" not in done.stderr:  # it may have ended before the kill
            assert done.returncode == 0, done.stderr
        assert_same_run(run_dir, unbroken)
