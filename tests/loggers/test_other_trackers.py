"""TensorBoard, MLflow and Trackio hold all that the run wrote, read back by each library's own reader."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from s15erav3.__main__ import main
from s15erav3.callbacks.telemetry import Telemetry
from s15erav3.cli.overrides import leaves
from tests.loggers import readers
from tests.loggers.readers import Record, check_pictures, written
from tests.tiny import TINY, rows, train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
READERS = [readers.tensorboard, readers.mlflow, readers.trackio]
ALL = "logger=[csv,tensorboard,mlflow,trackio]"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run with all of them."""
    folder = tmp_path_factory.mktemp("trackers") / "run"
    assert train(ALL, "trainer.max_steps=8", run_dir=folder) == 0
    return folder


KILLED = """
import os, signal, sys, time
from pathlib import Path
from s15erav3.callbacks.telemetry import Telemetry
from tests.tiny import train

original = Telemetry.on_train_batch_end

def killed(self, trainer, *args):
    original(self, trainer, *args)
    if trainer.global_step == 8:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

Telemetry.on_train_batch_end = killed
train(sys.argv[2], "trainer.max_steps=8", run_dir=Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, but for a ``kill -9`` after step 8 was logged, the last checkpoint being of step 6; it went on from
    there. The pause before the kill is what Trackio asks for."""
    folder = tmp_path_factory.mktemp("resumed") / "run"
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), ALL], cwd=ROOT, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert main(["train", f"resume={folder}"]) == 0
    assert json.loads((folder / "result.json").read_text())["resumed"][0]["step"] == 6
    return folder


def assert_same_scalars(record: Record, run_dir: Path) -> None:
    """Every value of every row, once."""
    expected = written(run_dir)
    assert set(record.scalars) == set(expected)
    assert {"load_L01/E07", "bias_L02/E00", "bias_update_L01/E03", "layer_02/maxvio", "val/bpb"} <= set(expected)
    for name, values in expected.items():
        assert [step for step, _ in record.scalars[name]] == [step for step, _ in values], name
        assert [v for _, v in record.scalars[name]] == pytest.approx([v for _, v in values], rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("which", ["run_dir", "resumed"])
def test_all_rows_pictures_and_texts(
    read: Callable[[Path], Record], which: str, request: pytest.FixtureRequest
) -> None:
    """Of a run that went through, and of one that went on after a kill: no step is missing, none is there twice.
    Seen to fail without purge_step, without MLflow's and Trackio's steps known, and with pictures upside down."""
    folder = request.getfixturevalue(which)
    record = read(folder)
    assert_same_scalars(record, folder)
    check_pictures(record, folder, [4, 8])
    texts = rows(folder / "samples.jsonl")
    assert sorted(record.texts) == [4, 8]
    for step, told in record.texts.items():
        mine = [sample["text"].strip() for sample in texts if sample["step"] == step]
        flat = "".join(told).replace("\\", "")
        assert len(mine) == 2 and all(line.strip() in flat for text in mine for line in text.splitlines())
    if record.histograms:
        assert record.histograms == {4: 16, 8: 16}  # two layers of eight experts
    assert read is readers.mlflow or record.histograms


@pytest.mark.parametrize("read", READERS)
def test_the_flat_config_is_there(read: Callable[[Path], Record], run_dir: Path) -> None:
    """Under the names of the command line, to filter and to group runs by."""
    settings = read(run_dir).settings
    config = OmegaConf.to_container(OmegaConf.load(run_dir / ".hydra" / "config.yaml"))
    assert isinstance(config, dict)
    assert {key for key, _ in leaves(config)} <= set(settings)
    assert settings["balancing._target_"] == "s15erav3.balancing.LossFree"
    assert float(settings["optimizer.lr"]) == config["optimizer"]["lr"]
    assert float(settings["params.total"]) > float(settings["params.active"]) > 0
    assert float(settings["trainer.max_steps"]) == 8


def test_how_a_run_ended(run_dir: Path, resumed: Path, tmp_path: Path) -> None:
    """Complete, failed or stopped by a signal."""
    assert [readers.mlflow(folder).status for folder in (run_dir, resumed)] == ["FINISHED", "FINISHED"]
    assert readers.tensorboard(run_dir).status == "ended"
    original = Telemetry.on_train_batch_end

    def is_told_to_stop(self, trainer, *args):
        original(self, trainer, *args)
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Telemetry, "on_train_batch_end", is_told_to_stop)
        stopped = tmp_path / "stopped"
        assert train("logger=[csv,mlflow,tensorboard]", "trainer.max_steps=8", run_dir=stopped) == 128 + 15
    record = readers.mlflow(stopped)
    assert (record.status, readers.tensorboard(stopped).status) == ("KILLED", "")
    assert dict(record.scalars["train/loss"]) == pytest.approx(dict(written(stopped)["train/loss"]))
    failed = tmp_path / "failed"
    wrong = ["optimizer.lr=1e30", "schedule.warmup_steps=0"]
    assert train("logger=[csv,mlflow]", "trainer.max_steps=4", *wrong, run_dir=failed) == 2
    assert readers.mlflow(failed).status == "FAILED"


def test_each_job_of_a_sweep_is_a_run_of_its_own(tmp_path: Path) -> None:
    """One process runs them one after the other; a list is one choice of the sweep, and nothing is mixed."""
    sweep = [f"hydra.sweep.dir={tmp_path}", f"{ALL},csv", "seed=1,2", "trainer.max_steps=2", "sweep.name=s"]
    assert main(["train", "-m", *TINY, *sweep]) == 0
    for job in ("0", "1"):
        for read in READERS:
            found, expected = read(tmp_path / job).scalars, written(tmp_path / job)
            assert dict(found["train/loss"]) == pytest.approx(dict(expected["train/loss"]), rel=1e-6), (job, read)
    names = [(tmp_path / job / "trackio" / "run-name.txt").read_text().split()[2] for job in ("0", "1")]
    assert names == ["s1", "s2"]
    for job in ("2", "3"):
        assert not any((tmp_path / job / name).exists() for name in ("tensorboard", "mlflow", "trackio"))


def test_a_database_that_does_not_know_the_run_gets_another(
    resumed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run's folder that was moved to another machine goes on, and says what its MLflow lacks."""
    before = (resumed / "mlflow" / "run-id.txt").read_text()
    (resumed / "mlflow" / "run-id.txt").write_text("0" * 32 + "\n")
    capsys.readouterr()
    assert main(["train", f"resume={resumed}", "trainer.max_steps=10"]) == 0
    assert "MLflow does not know this run" in capsys.readouterr().err
    record = readers.mlflow(resumed)
    assert [step for step, _ in record.scalars["train/loss"]] == [10]
    assert (resumed / "mlflow" / "run-id.txt").read_text() != before
