"""Loggers and callbacks from somebody else's module: what docs/loggers.md says, run as it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from s15erav3.__main__ import main
from s15erav3.cli.hydra_setup import conf_dir
from tests.test_bad_input import refusal
from tests.tiny import TINY, result, rows

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "loggers.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's module and config files in a folder of their own, which is the current one."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    for group in ("logger", "callbacks"):
        (tmp_path / "my_conf" / group).mkdir(parents=True)
    (tmp_path / "my_conf" / "experiment").mkdir()
    (tmp_path / "my_conf" / "logger" / "diary.yaml").write_text(
        "diary:\n  _target_: mine.Diary\n  file: ${run_dir}/diary.jsonl\n"
    )
    (tmp_path / "my_conf" / "callbacks" / "pace.yaml").write_text(
        "defaults: [default, _self_]\npace:\n  _target_: mine.Pace\n  every: 2\n"
    )
    (tmp_path / "my_conf" / "experiment" / "two.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /logger: [csv, diary]\n"
    )
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # the README's, of another test
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "s15erav3"], ids=" ".join)
def test_every_command_of_the_page_composes(command: list[str]) -> None:
    """A choice that was renamed cannot stay in the page."""
    given = [re.sub(r"=(?!\[)([^,]*),.*", r"=\1", word) for word in command[2:] if "=" in word]
    OmegaConf.register_new_resolver("either", lambda a, b: b if a is None else a, replace=True)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        compose(command[1], given)


def test_the_page_tells_of_every_logger() -> None:
    """And is short enough to be read."""
    for file in (conf_dir() / "logger").glob("*.yaml"):
        assert f"| `{file.stem}`" in TEXT, file
    assert len(TEXT.splitlines()) <= 120


def diary(run_dir: Path) -> list[int]:
    """Steps of the rows with a validation."""
    return [row["step"] for row in rows(run_dir / "diary.jsonl") if row["val/bpb"] is not None]


def test_own_classes_named_on_the_command_line(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's own command; the default logger and callbacks stay. Seen to fail with a module that lacks Pace."""
    (command,) = [c for c in COMMANDS if "+callbacks.pace.every=10" in c]
    words = [word.replace("every=10", "every=2") for word in command[3:]]
    assert main(["train", *words, *TINY, "trainer.max_steps=4", "hydra.run.dir=run"]) == 0
    assert diary(mine / "run") == [4]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ") and len(line) < 7] == [
        "step 2",
        "step 4",
    ]
    assert (mine / "run" / "metrics.csv").exists() and len(rows(mine / "run" / "samples.jsonl")) == 2


def test_own_config_files_in_a_list_and_resumed_by_trust(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's second command; the run's folder names code that is not this program's, so resuming it is refused
    until the command line trusts it."""
    (command,) = [c for c in COMMANDS if "callbacks=pace" in c]
    assert main(["train", *command[3:], *TINY, "trainer.max_steps=4", "hydra.run.dir=run"]) == 0
    assert diary(mine / "run") == [4] and "step 2" in capsys.readouterr().out
    assert "trust=mine" in refusal(capsys, "train", "resume=run", "trainer.max_steps=8")
    assert main(["train", "resume=run", "trainer.max_steps=8", "trust=mine"]) == 0
    assert diary(mine / "run") == [4, 8]


def test_an_experiment_file_chooses_several_loggers(mine: Path) -> None:
    """And the command line has the last word."""
    searched = "hydra.searchpath=[file://my_conf]"
    assert main(["train", searched, "experiment=two", *TINY, "trainer.max_steps=4", "hydra.run.dir=a"]) == 0
    assert diary(mine / "a") == [4] and (mine / "a" / "metrics.csv").exists()
    assert (
        main(["train", searched, "experiment=two", "logger=none", *TINY, "trainer.max_steps=2", "hydra.run.dir=b"]) == 0
    )
    assert result(mine / "b")["status"] == "completed"
    assert not (mine / "b" / "diary.jsonl").exists() and not (mine / "b" / "metrics.csv").exists()


@pytest.mark.slow
def test_an_own_logger_in_every_job_of_a_sweep_of_processes(mine: Path) -> None:
    """The page's module is found by each process, and a list is one choice."""
    sweep = ["-m", "hydra.searchpath=[file://my_conf]", "logger=[csv,diary]", "hydra/launcher=gpu_queue", "seed=1,2"]
    done = subprocess.run(
        [sys.executable, "-m", "s15erav3", "train", *sweep, *TINY, "trainer.max_steps=4", "hydra.sweep.dir=sweep"],
        capture_output=True, text=True, cwd=mine, env=environment(mine), timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [diary(mine / "sweep" / job) for job in ("0", "1")] == [[4], [4]]


def environment(folder: Path) -> dict[str, str]:
    """This one, with the folder's modules."""
    import os

    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
