"""What a job finds in its folder, without training anything."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from s15erav3.cli.hydra_setup import conf_dir
from s15erav3.errors import UserError
from s15erav3.runs.code import code
from s15erav3.runs.reader import find_runs, from_yaml
from s15erav3.sweeps.objective import objective
from s15erav3.sweeps.resume import differences, examine, repeated, save_command, set_aside


def composed(*settings: str) -> DictConfig:
    """conf/train.yaml with these settings."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", list(settings))


@pytest.fixture(scope="module")
def cfg() -> DictConfig:
    """A job's config, with values that YAML could misread."""
    return composed("seed=3", "optimizer.lr=1e-05", "trainer.max_time='00:00:10:00'", "data.path=text.txt", "data=text")


def folder_of(tmp_path: Path, cfg: DictConfig, result: dict[str, Any] | None, checkpoint: bool = False) -> Path:
    """A run's folder as ``train`` leaves it."""
    folder = tmp_path / "sweep" / "3"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    if checkpoint:
        (folder / "checkpoints").mkdir()
        with zipfile.ZipFile(folder / "checkpoints" / "last.ckpt", "w") as file:
            file.writestr("x", "y")
    return folder


DONE = {"status": "completed"}
FAILED = {"status": "failed", "error": "RuntimeError"}
DIVERGED = {"status": "failed", "error": "Diverged"}


@pytest.mark.parametrize(
    ("result", "checkpoint", "state"),
    [
        (DONE, True, "done"),
        (DONE | {"code": "other"}, True, "done"),
        (FAILED, True, "resume"),
        (FAILED, False, "again"),
        (DIVERGED, True, "again"),
        ({"status": "interrupted"}, True, "resume"),
        ({"status": "interrupted"}, False, "again"),
        ({}, True, "again"),  # result.json without a status
        (None, True, "resume"),  # killed
        (None, False, "again"),
    ],
)
def test_what_is_left_to_do(
    tmp_path: Path, cfg: DictConfig, result: dict[str, Any] | None, checkpoint: bool, state: str
) -> None:
    """Each of these mistaken for another repeats hours of work, or believes a broken run."""
    result = {"code": code()} | result if result else result
    folder = folder_of(tmp_path, cfg, result, checkpoint)
    if result == {}:
        (folder / "result.json").write_text('{"seed": 1}')
    before = sorted(tmp_path.rglob("*"))
    assert examine(cfg, folder).state == state
    assert sorted(tmp_path.rglob("*")) == before


def test_complete_runs_of_other_code_are_trained_anew_where_it_is_asked_for(tmp_path: Path, cfg: DictConfig) -> None:
    """By default they stay, with a word on it."""
    folder = folder_of(tmp_path, cfg, DONE | {"code": "other"}, True)
    assert examine(cfg, folder)[:2] == ("done", "it was trained by different code")
    cfg.sweep.code = "retrain"
    assert examine(cfg, folder)[:2] == ("again", "it was trained by different code")


def test_a_log_alone_is_no_run(tmp_path: Path, cfg: DictConfig) -> None:
    """gpu_queue opens train.log before the job begins."""
    assert examine(cfg, tmp_path / "none").state == "fresh"
    (tmp_path / "train.log").write_text("Killed\n")
    assert examine(cfg, tmp_path).state == "fresh"


@pytest.mark.parametrize("result", [DONE | {"code": code()}, {"status": "interrupted"}, None])
def test_a_run_of_other_settings_is_refused(tmp_path: Path, cfg: DictConfig, result: Any) -> None:
    """Also an unfinished one: going on with it under other settings would mix two runs."""
    folder = folder_of(tmp_path, cfg, result, checkpoint=True)
    other = OmegaConf.merge(cfg, {"seed": 4, "optimizer": {"lr": 1e-4}})
    assert isinstance(other, DictConfig)
    with pytest.raises(
        UserError, match=r"optimizer\.lr=1e-05, here optimizer\.lr=0\.0001; seed=3, here seed=4"
    ) as told:
        examine(other, folder)
    assert str(folder) in str(told.value) and "sweep.name" in str(told.value)


def test_a_corrected_mistake_is_not_refused(tmp_path: Path, cfg: DictConfig) -> None:
    """A job that never began, because a value was bad, begins with the good one."""
    folder = folder_of(tmp_path, cfg, {"status": "failed", "error": "UserError"})
    assert examine(composed("seed=9"), folder).state == "again"


def test_where_a_run_is_does_not_make_it_another(tmp_path: Path, cfg: DictConfig) -> None:
    """The same settings reached by another name, from another folder, logged elsewhere; but no other setting."""
    moved = composed(
        "sweep.name=x", "sweep.objective=val/loss", "logger=both", "report=false", "run_dir=there", "seed=3",
        "optimizer.lr=0.00001", "data=text",
        f"data.path={Path.cwd() / 'text.txt'}", "trainer.max_time='00:00:10:00'",
    )  # fmt: skip
    assert list(differences(plain_of(cfg), plain_of(moved))) == []
    assert list(
        differences(
            plain_of(cfg), plain_of(composed(*["data=text", "data.path=text.txt", "seed=3", "optimizer.lr=1e-5"]))
        )
    ) == ["trainer.max_time=00:00:10:00, here trainer.max_time=None"]


def plain_of(config: DictConfig) -> dict[str, Any]:
    """The config as it is read from a run's folder."""
    return from_yaml(OmegaConf.to_yaml(config))


def test_groups_that_a_folder_of_weights_brings_are_not_compared(cfg: DictConfig) -> None:
    """``init_from`` overwrites them in the saved config, and nowhere else."""
    now = composed("init_from=weights")
    saved = OmegaConf.merge(now, {"init_from": str(Path("weights").absolute()), "model": {"hidden_size": 8}})
    assert isinstance(saved, DictConfig)
    assert list(differences(plain_of(saved), plain_of(now))) == []
    assert list(differences(plain_of(saved), plain_of(composed("init_from=others"))))


def test_a_run_at_work_is_left_alone(tmp_path: Path, cfg: DictConfig) -> None:
    """Two programs in one folder would ruin the run; a process that is gone, or this one, is none."""
    folder = folder_of(tmp_path, cfg, None, checkpoint=True)
    progress = {"step": 5, "pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}

    def state(**changes: Any) -> str:
        (folder / "progress.json").write_text(json.dumps(progress | changes))
        return examine(cfg, folder).state

    assert state() == "resume"
    other = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(UserError, match=rf"still running \(process {other.pid} on"):
            state(pid=other.pid)
    finally:
        other.kill()
        other.wait()
    assert state(pid=other.pid) == "resume"
    with pytest.raises(UserError, match="on elsewhere"):
        state(host="elsewhere")
    assert state(host="elsewhere", time=time.time() - 90) == "resume"


def test_what_is_set_aside_is_kept_and_not_counted(tmp_path: Path, cfg: DictConfig) -> None:
    """Nothing is ever deleted; the log stays where it is being written; other readers do not see a second run."""
    sweep = tmp_path / "sweep"
    for attempt in (1, 2):
        folder = folder_of(tmp_path, cfg, FAILED | {"attempt": attempt})
        with (folder / "train.log").open("a") as log:
            place = set_aside(folder, sweep)
            log.write(f"attempt {attempt}\n")
        assert place == sweep / ".superseded" / f"3-{attempt}"
        assert json.loads((place / "result.json").read_text())["attempt"] == attempt
        assert [file.name for file in folder.iterdir()] == ["train.log"]
        if attempt == 1:
            (folder / "train.log").rename(tmp_path / "train.log")
            folder.rmdir()
    assert (tmp_path / "train.log").read_text() == "attempt 1\n" and find_runs(sweep) == []


def test_the_code_is_what_it_does_and_not_what_is_written_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit of a README, or a better report, must not make runs be done again; another rule of balancing must."""
    package = tmp_path / "package"
    (package / "balancing").mkdir(parents=True)
    (package / "pages").mkdir()
    (package / "runs").mkdir()
    monkeypatch.setattr("s15erav3.runs.code.__file__", str(package / "runs" / "code.py"))
    fresh = code.__wrapped__

    rule = package / "balancing" / "rule.py"
    rule.write_text("def rule(x):\n    return x + 1\n")
    first = fresh()
    (package / "pages" / "page.py").write_text("b = 1")
    (package / "report.py").write_text("b = 1")
    (package / "README.md").write_text("c")
    rule.write_text('"""A file."""\n\n# why\ndef rule(x):\n    """What it does."""\n    return (x + 1)  # and how\n')
    assert fresh() == first
    rule.write_text("def rule(x):\n    return x + 2\n")
    second = fresh()
    rule.rename(package / "balancing" / "other.py")
    assert len({first, second, fresh()}) == 3


def test_a_metric_that_is_none_is_told() -> None:
    """A sweeper that is told nothing would choose by chance."""
    result = {"val/bpb": 2, "balance/maxvio_global": 0.5, "status": "completed", "causal": True}
    assert objective("val/bpb", result) == 2.0
    assert objective(OmegaConf.create(["val/bpb", "balance/maxvio_global"]), result) == [2.0, 0.5]
    for wanted, words in (
        ("val/bbp", "'val/bpb'"),
        ("status", "not a metric"),
        ("causal", "not a metric"),
        (3, "list"),
    ):
        with pytest.raises(UserError, match=words) as told:
            objective(wanted, result)
        assert str(wanted) in str(told.value)


@pytest.mark.parametrize("name", ["plain", "with spaces, and 'a quote'", "equal=sign"])
def test_a_command_is_repeated_as_it_was_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes, spaces and relative paths survive; what is given anew replaces what it changes."""
    monkeypatch.chdir(tmp_path)
    typed = [
        "-m",
        "data.path='a text, of mine.txt'",
        "seed=1,2",
        "hydra/launcher=joblib",
        "+new=1",
        "hydra.sweep.dir=x",
    ]
    sweep = tmp_path / name
    save_command(sweep, typed)
    monkeypatch.chdir("/")
    arguments, folder = repeated(str(sweep), ["-m", "hydra/launcher=gpu_queue", "new=2"])
    assert folder == tmp_path
    assert arguments[:3] == typed[:3] and arguments[3:5] == ["hydra/launcher=gpu_queue", "new=2"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [arguments[1], arguments[-1]], return_hydra_config=True)
    assert cfg.hydra.sweep.dir == str(sweep) and cfg.data.path == "a text, of mine.txt"


def test_a_folder_without_a_sweep_is_told(tmp_path: Path) -> None:
    """One sentence, whatever is wrong with it."""
    for place, words in ((tmp_path / "none", "does not exist"), (tmp_path, "holds no sweep")):
        with pytest.raises(UserError, match=words):
            repeated(str(place), [])
    save_command(tmp_path, [])
    (tmp_path / ".sweep" / "command.json").write_text('{"arguments": 3')
    with pytest.raises(UserError, match="cannot be read"):
        repeated(str(tmp_path), [])
