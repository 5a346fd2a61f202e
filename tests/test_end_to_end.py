"""Every verb as a user calls it, on a tiny model."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from s15erav3.__main__ import VERBS, main
from s15erav3.balancing.diagnostics import max_violation
from tests.tiny import TINY, result, rows, train


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ten steps."""
    folder = tmp_path_factory.mktemp("end_to_end") / "run"
    assert train("trainer.max_steps=10", "callbacks.telemetry.every_n_steps=1", run_dir=folder) == 0
    return folder


def test_a_run_leaves_everything_the_design_promises(run_dir: Path) -> None:
    """Files, and result.json with the metrics flat under their names."""
    found = {p.relative_to(run_dir).as_posix() for p in run_dir.rglob("*") if p.is_file()}
    assert {
        ".hydra/config.yaml",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "metrics.csv",
        "balance.jsonl",
        "samples.jsonl",
        "result.json",
    } <= found
    ended = result(run_dir)
    assert ended["status"] == "completed"
    assert ended["steps"] == 10
    assert ended["tokens"] == 10 * 4 * 32
    for name in (
        "val/loss",
        "val/bpb",
        "train/loss",
        "balance/maxvio_global",
        "perf/tokens_per_second_overall",
        "perf/mfu_overall",
    ):
        assert math.isfinite(ended[name]), name
    assert ended["versions"]["torch"] == torch.__version__
    assert ended["params/active"] < ended["params/total"]


def test_metrics_csv_has_every_expert_under_its_name(run_dir: Path) -> None:
    """One row per logged step; loads average 1.0, biases add up their updates."""
    with (run_dir / "metrics.csv").open() as stream:
        table = [row for row in csv.DictReader(stream) if row["train/loss"]]
    assert [int(row["step"]) for row in table] == list(range(1, 11))
    for layer in (1, 2):
        names = [f"L{layer:02d}/E{expert:02d}" for expert in range(8)]
        for row in table:
            assert np.mean([float(row[f"load_{n}"]) for n in names]) == pytest.approx(1.0)
            assert float(row[f"layer_{layer:02d}/maxvio"]) >= 0
        for name in names:
            bias = np.array([float(row[f"bias_{name}"]) for row in table])
            update = np.array([float(row[f"bias_update_{name}"]) for row in table])
            np.testing.assert_allclose(bias, np.cumsum(update), atol=1e-6)
    assert all(float(row["balance/maxvio_floor"]) > 0 for row in table)


def test_balance_jsonl_replays_the_rule(run_dir: Path) -> None:
    """From the logged loads the sign rule, computed here by hand, gives the logged updates and biases."""
    lines = rows(run_dir / "balance.jsonl")
    bias = np.zeros_like(np.array(lines[0]["bias"]))
    for done, line in enumerate(lines):
        load = np.array(line["load"], dtype=float)
        assert (load.sum(axis=1) == 4 * 32 * 2).all()
        sign = np.sign(load.mean(axis=1, keepdims=True) - load)
        rate = 0.01 * 0.5 * (1 + math.cos(math.pi * done / 10))
        update = rate * (sign - sign.mean(axis=1, keepdims=True))
        np.testing.assert_allclose(line["update"], update, atol=1e-7)
        bias += update
        np.testing.assert_allclose(line["bias"], bias, atol=1e-6)
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    np.testing.assert_allclose(state["net.layers.1.mlp.router.bias"], bias[0], atol=1e-6)


def test_evaluate_agrees_with_training(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run's last validation and ``evaluate`` of that checkpoint are the same figures."""
    last = run_dir / "checkpoints" / "last.ckpt"
    assert main(["evaluate", str(last)]) == 0
    measured = json.loads((run_dir / "evaluate-last-val.json").read_text())
    ended = result(run_dir)
    assert measured["text/bpb"] == pytest.approx(ended["val/bpb"], rel=1e-5)
    assert measured["text/loss"] == pytest.approx(ended["val/loss"], rel=1e-5)
    assert measured["balance/maxvio_global"] == pytest.approx(ended["balance/maxvio_global"], rel=1e-5)
    load = torch.tensor(measured["load"])
    assert int(load.sum()) == measured["text/tokens"] * 2 * 2
    assert float(max_violation(load).mean()) == pytest.approx(measured["balance/maxvio_global"])
    assert "bits/byte" in capsys.readouterr().out


def test_evaluate_counts_every_byte_of_another_file(run_dir: Path, tmp_path: Path) -> None:
    """``data.path=FILE split=all`` scores the whole file, whatever it holds."""
    first = "MI 1st Inns\n0.1 overs\nAb to Cd, FOUR, caf\u00e9 \u2013 driven\n\n"
    text = first + "MI 1st Inns\n0.2 overs\nAb to Cd, SIX, high\n"
    prose = "No cricket at all.\n\nJust two paragraphs of prose, the model's first."
    for content in (text, prose):
        file = tmp_path / "other, file=1.txt"
        file.write_text(content, encoding="utf-8")
        output = tmp_path / "measured.json"
        assert main(["evaluate", str(run_dir), f"data.path={file}", "split=all", f"output={output}"]) == 0
        assert json.loads(output.read_text())["text/bytes"] == len(content.encode())


def test_sample_is_repeatable_and_greedy_at_zero(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Same seed, same text; temperature 0 needs no seed; the prompt may hold commas and equal signs."""

    def said(*settings: str) -> str:
        capsys.readouterr()
        assert main(["sample", str(run_dir), "max_new_tokens=12", *settings]) == 0
        return capsys.readouterr().out

    prompt = "prompt=Vail to Tamm, FOUR, a=b 'quoted' "
    assert said(prompt, "temperature=0", "seed=1") == said(prompt, "temperature=0", "seed=2")
    assert said(prompt, "seed=1") == said(prompt, "seed=1")
    assert said(prompt, "seed=1", "temperature=1.5") != said(prompt, "seed=2", "temperature=1.5")
    assert said(prompt).startswith("Vail to Tamm, FOUR, a=b 'quoted' ")
    assert said('prompt=["one ","two "]').count("\n\n") >= 1


def test_samples_are_drawn_at_every_validation(run_dir: Path) -> None:
    """Two prompts at steps 4, 8 and 10."""
    assert [(s["step"], s["prompt"]) for s in rows(run_dir / "samples.jsonl")][::2] == [(4, ""), (8, ""), (10, "")]


def test_a_seed_fixes_a_run_and_the_split(run_dir: Path, tmp_path: Path) -> None:
    """The same command gives the same figures; another seed other ones on the same validation text."""
    same = ["trainer.max_steps=10", "callbacks.telemetry.every_n_steps=1"]
    assert train(*same, run_dir=tmp_path / "again") == 0
    assert train(*same, "seed=2", run_dir=tmp_path / "other") == 0
    first, again, other = (result(d) for d in (run_dir, tmp_path / "again", tmp_path / "other"))
    assert first["val/bpb"] == again["val/bpb"]
    assert first["val/bpb"] != other["val/bpb"]


def test_workers_do_not_change_a_run(run_dir: Path, tmp_path: Path) -> None:
    """Two loading processes read the windows in the same order."""
    settings = ["trainer.max_steps=10", "callbacks.telemetry.every_n_steps=1", "data.num_workers=2"]
    assert train(*settings, run_dir=tmp_path / "run") == 0
    assert result(tmp_path / "run")["val/bpb"] == result(run_dir)["val/bpb"]


def test_dense_control_and_no_logger(tmp_path: Path) -> None:
    """A dense run has no balance to report; logger=none and callbacks=none write no metrics."""
    run = tmp_path / "run"
    assert train("experts=dense", "logger=none", "callbacks=none", "trainer.max_steps=2", run_dir=run) == 0
    assert not any(name.startswith("balance") for name in result(run))
    assert not (run / "metrics.csv").exists()
    assert main(["evaluate", str(run)]) == 0


@pytest.mark.slow  # bf16 on a CPU that is not made for it
def test_bf16_and_tokenizers(tmp_path: Path) -> None:
    """bf16 autocast trains with fp32 biases; a public encoding takes the place of the corpus' own."""
    run = tmp_path / "run"
    settings = ["trainer.precision=bf16-mixed", "tokenizer=gpt2", "optimizer=muon", "trainer.max_steps=2"]
    assert train(*settings, run_dir=run) == 0
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(v.dtype == torch.float32 for v in state.values())
    assert result(run)["tokenizer"] == "gpt2"
    assert main(["sample", str(run), "max_new_tokens=2", "trainer.precision=bf16-mixed"]) == 0


@pytest.mark.slow
def test_a_time_limit_anneals_validates_and_saves(tmp_path: Path) -> None:
    """max_time ends the run long before its steps, with the learning rate near its end."""
    run = tmp_path / "run"
    settings = ["trainer.max_steps=100000", "trainer.max_time=00:00:00:06", "schedule=wsd", "schedule.decay_share=1.0"]
    assert train(*settings, "trainer.val_check_interval=100000", run_dir=run) == 0
    ended = result(run)
    assert ended["status"] == "completed"
    assert 0 < ended["steps"] < 100_000
    assert math.isfinite(ended["val/bpb"])
    assert ended["train/learning_rate"] < 0.1 * 4e-3
    assert main(["train", f"resume={run}"]) == 2  # its time is up


def test_help_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """--help of every verb has examples and settings."""
    assert main(["--help"]) == 0
    assert "evaluate" in capsys.readouterr().out
    for verb in VERBS:
        assert main([verb, "--help"]) == 0
        said = capsys.readouterr().out
        assert f"s15erav3 {verb}" in said
        assert "SETTINGS" in said


def test_a_sweep_is_a_folder_of_runs_and_a_bad_job_does_not_stop_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two good jobs run to the end around a bad one, which is named; the exit status is 2."""
    sweep = [f"hydra.sweep.dir={tmp_path / 'sweep'}", "trainer.max_steps=2", "experts=e8,e16", "balancing.rate=0.01,-1"]
    assert main(["train", "-m", *TINY, *sweep]) == 2
    said = capsys.readouterr().err
    assert "4 jobs, 2 done, 2 failed" in said
    assert "job 3 (experts=e16 balancing.rate=-1) failed: " in said
    statuses = [result(tmp_path / "sweep" / str(job))["status"] for job in range(4)]
    assert statuses == ["completed", "failed", "completed", "failed"]
    assert main(["evaluate", str(tmp_path / "sweep" / "0"), "-m", "split=val,test"]) == 0
    assert (tmp_path / "sweep" / "0" / "evaluate-best-test.json").exists()


@pytest.mark.slow
def test_compiled_training_is_eager_training(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile of the net changes neither the losses (to rounding) nor the names in the checkpoint."""
    run = tmp_path / "run"
    settings = ["trainer.max_steps=10", "callbacks.telemetry.every_n_steps=1", "compile=true"]
    monkeypatch.setenv("S15ERAV3_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # which an earlier run of this process has set
    assert train(*settings, run_dir=run) == 0
    assert result(run)["val/loss"] == pytest.approx(result(run_dir)["val/loss"], rel=2e-3)
    assert result(run)["perf/compile_seconds"] > 0
    assert list((tmp_path / "cache" / "compiled").rglob("*.so"))
    files = [d / "checkpoints" / "last.ckpt" for d in (run, run_dir)]
    names = [torch.load(f, weights_only=True)["state_dict"].keys() for f in files]
    assert names[0] == names[1]


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """DDP on two CPU processes with half the batch each: same loads, biases and nearly the same weights, also of
    the multi-token-prediction block, whose loss leaves out other numbers of tokens on each rank."""
    environment = os.environ | {"PYTHONPATH": os.getcwd()}

    def run(folder: Path, *settings: str) -> None:
        command = [sys.executable, "-m", "s15erav3", "train", *TINY, f"hydra.run.dir={folder}", *settings]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr

    common = ["trainer.max_steps=6", "callbacks.telemetry.every_n_steps=1", "trainer.gradient_clip_val=0"]
    common.append("model.num_nextn_predict_layers=1")
    run(tmp_path / "one", *common, "data.batch_size=4")
    run(tmp_path / "two", *common, "data.batch_size=1", "trainer.accumulate_grad_batches=2", "trainer=ddp",
        "trainer.accelerator=cpu", "trainer.devices=2")  # fmt: skip
    one, two = (rows(tmp_path / n / "balance.jsonl") for n in ("one", "two"))
    assert one[0]["load"] == two[0]["load"]
    assert one[0]["bias"] == two[0]["bias"]
    for metric in ("val/bpb", "train/mtp_loss"):
        assert result(tmp_path / "two")[metric] == pytest.approx(result(tmp_path / "one")[metric], rel=1e-3)
    assert result(tmp_path / "two")["tokens"] == result(tmp_path / "one")["tokens"]
