"""Weights & Biases offline: one run per job, readable by W&B's own reader, always closed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s15erav3.__main__ import main
from s15erav3.callbacks.telemetry import Telemetry
from s15erav3.loggers.wandb_history import steps_known
from s15erav3.loggers.wandb_later import Table, log_later
from tests.loggers.wandb_reader import (
    assert_same_media,
    assert_same_rows,
    fragments,
    history,
    matrix,
    plain_of,
    records,
    updated,
    written,
)
from tests.tiny import TINY, result, rows, train

pytestmark = pytest.mark.slow
LOGGED = {"logger": {"wandb": {"_target_": "s15erav3.loggers.wandb.wandb_logger", "project": "s15erav3"}}}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No account, no network."""
    monkeypatch.setenv("WANDB_MODE", "offline")


def axis(run_dir: Path) -> str:
    """What all metrics are drawn over."""
    (found,) = {m["step_metric"] for m in records(run_dir, "metric") if m.get("glob_name") == "*"}
    return found


def test_an_offline_run_holds_all_that_the_run_wrote(tmp_path: Path) -> None:
    """Every value of every row, media, config, summary, artifact. Seen to fail with rows that are not merged, with
    media in a row of their own, with the axis fixed to steps, and with the group or the result left out."""
    run_dir = tmp_path / "run"
    settings = ["logger=both", "logger.wandb.log_model=best", "logger.wandb.tags=[mine]"]
    assert train(*settings, "trainer.max_steps=10", "sweep.name=first", "experts=e16", run_dir=run_dir) == 0
    arrived = history(run_dir)
    assert_same_rows(arrived, run_dir)
    (fragment,) = fragments(run_dir)
    files = {str(f.relative_to(fragment / "files")): f.read_bytes() for f in fragment.rglob("files/media/**/*.*")}
    assert_same_media(arrived[:-1], files, run_dir)
    table = json.loads(files[arrived[-1]["samples"]["path"]])
    assert table["columns"] == ["step", "prompt", "text"]
    assert table["data"] == [[s["step"], s["prompt"], s["text"]] for s in rows(run_dir / "samples.jsonl")]

    run = next(records(run_dir, "run"))
    assert (run["run_group"], run["job_type"], run["project"]) == ("first", "train", "s15erav3")
    assert run["display_name"].startswith("e16 loss_free ")
    assert {"experts=e16", "balancing=loss_free", "mine"} <= set(run["tags"])
    assert axis(run_dir) == "trainer/global_step"

    config = updated(run_dir, "config") | run["config"]["update"]
    assert config["choices"]["experts"] == "e16" and config["choices"]["logger"] == "both"
    assert config["balancing"]["_target_"] == "s15erav3.balancing.LossFree" and config["trainer"]["max_steps"] == 10
    told, summary = result(run_dir), updated(run_dir, "summary")
    assert config["params"] == {"total": told["params/total"], "active": told["params/active"]}
    assert plain_of(told).items() <= summary.items()
    assert summary["best/val/bpb"] == min(row["val/bpb"] for row in written(run_dir) if "val/bpb" in row)
    (model,) = (a for a in records(run_dir, "artifact") if a["type"] == "model")
    assert sorted(model["aliases"]) == ["best", "latest"]  # W&B keeps them in a set
    assert json.loads(model["metadata"])["best/val/bpb"] == told["best/val/bpb"]
    assert model["manifest"]["contents"][0]["local_path"] == str(run_dir / "checkpoints" / "best.ckpt")


def test_each_job_of_a_sweep_is_a_run_of_its_own(tmp_path: Path) -> None:
    """Without an explicit finish, job 2 would silently write into run 1, also after a failure."""
    sweep = [f"hydra.sweep.dir={tmp_path}", "logger=both", "trainer.max_steps=4", "optimizer.lr=1e-3,1e30,2e-3"]
    sweep += ["logger.wandb.x_axis=tokens"]
    assert main(["train", "-m", *TINY, *sweep, "schedule.warmup_steps=0", "sweep.name=three"]) == 2
    for job, status, rate in ((0, "completed", "0.001"), (1, "failed", "1e+30"), (2, "completed", "0.002")):
        run_dir = tmp_path / str(job)
        assert result(run_dir)["status"] == updated(run_dir, "summary")["status"] == status
        assert len(fragments(run_dir)) == 1
        assert [record["exit_code"] for record in records(run_dir, "exit")] == [int(status == "failed")]
        (name,) = {run["display_name"] for run in records(run_dir, "run")}
        assert name.startswith("e8 loss_free lr=") and float(name.partition("lr=")[2]) == float(rate)
        assert axis(run_dir) == "tokens"
        if status == "completed":
            assert_same_rows(history(run_dir), run_dir)


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
    """Same id, name and choices, steps without a gap, also after a crash that W&B saw; at the end the samples of both
    parts."""
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
    runs = list(records(run_dir, "run"))
    assert len({run["run_id"] for run in runs}) == len({run["display_name"] for run in runs}) == 1
    assert {run["config"]["update"]["choices"]["experts"] for run in runs if "choices" in run["config"]["update"]} == {
        "e8"
    }
    assert [record.get("exit_code", 0) for record in records(run_dir, "exit")] == [1, 0]
    found = history(run_dir)
    assert [row["trainer/global_step"] for row in found if "train/loss" in row] == [1, 2, 4, 6, 8]  # none twice
    assert found[-1]["samples"]["nrows"] == len(rows(run_dir / "samples.jsonl")) == 4


def test_an_ablation_is_added_to_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every expert of evaluate's JSON, in a fragment of the same run, and later rows of training are not lost to it.
    Seen to fail with a run of its own, with the row known as one of training, and with the table transposed."""
    run_dir = tmp_path / "run"
    assert train("logger=wandb", "trainer.max_steps=4", run_dir=run_dir) == 0
    last = run_dir / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    assert main(["evaluate", str(last), "ablate=experts", "ablate_tokens=200", "wandb=true"]) == 0
    assert "wandb sync" in capsys.readouterr().err
    *_, row = history(run_dir)
    assert row["trainer/global_step"] == 4 and row.keys() - {"_step", "_runtime", "_timestamp"} == {
        "trainer/global_step", "ablation/experts", "ablation/heatmap",
    }  # fmt: skip
    fragment = fragments(run_dir)[-1]
    measured = json.loads((run_dir / "evaluate-last-val.json").read_text())
    table = json.loads((fragment / "files" / row["ablation/experts"]["path"]).read_text())
    assert table["columns"] == ["layer", "expert", "ablation/change", "ablation/half"]
    assert table["data"] == [
        [layer, expert, change, half]
        for layer, changes, halves in zip(
            measured["layers"], measured["ablation/change"], measured["ablation/half"], strict=True
        )
        for expert, (change, half) in enumerate(zip(changes, halves, strict=True))
    ]
    drawn = json.loads((fragment / "files" / row["ablation/heatmap"]["path"]).read_text())["data"][0]
    assert matrix(drawn["z"]) == pytest.approx([line[2] for line in table["data"]], abs=1e-4)
    runs = list(records(run_dir, "run"))
    assert len(runs) == 2 and len({(run["run_id"], run["display_name"], run["project"]) for run in runs}) == 1
    assert [record.get("exit_code", 0) for record in records(run_dir, "exit")] == [0, 0]
    log_later(run_dir, LOGGED, 99, {"ablation/experts": Table(["a"], [[1]])}, {})
    assert history(run_dir)[-1]["trainer/global_step"] == 99 and steps_known(run_dir, None) == {1, 2, 4}


def test_an_ablation_is_told_to_no_other_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not unless asked, not where the run was not logged, nor while it is training; an error of W&B is a sentence."""
    run_dir = tmp_path / "run"
    assert train("trainer.max_steps=2", run_dir=run_dir) == 0
    command = ["evaluate", str(run_dir / "checkpoints" / "last.ckpt"), "ablate=experts", "ablate_tokens=100"]
    assert main([*command, "wandb=true"]) == 0
    assert "is not the folder of a run that was logged there" in capsys.readouterr().err
    assert not (run_dir / "wandb").exists()
    logged = {"logger": {"wandb": LOGGED["logger"]["wandb"] | {"project": "a/b"}}}
    (run_dir / "wandb").mkdir()
    (run_dir / "wandb" / "run-id.txt").write_text("abc\n")
    capsys.readouterr()
    assert main(command) == main([*command[:2], "wandb=false"]) == 0  # a folder that names one: only if asked
    assert "W&B" not in capsys.readouterr().err
    assert main([*command[:2], "wandb=true"]) == 2
    log_later(run_dir, {}, 2, {}, {})
    log_later(run_dir, {"logger": {"csv": {"_target_": "x"}}}, 2, {}, {})
    assert capsys.readouterr().err.count("W&B was not told, as ") == 2
    log_later(run_dir, logged, 2, {"t": Table(["a"], [[1]])}, {})
    assert "W&B was not told (UserError: logger.wandb cannot start" in capsys.readouterr().err
    (run_dir / "result.json").unlink()
    progress = {"step": 1, "max_steps": 2, "pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    (run_dir / "progress.json").write_text(json.dumps(progress))
    log_later(run_dir, logged, 2, {"t": Table(["a"], [[1]])}, {})
    assert "still training" in capsys.readouterr().err
    assert [path.name for path in (run_dir / "wandb").iterdir()] == ["run-id.txt"]
