"""Hydra's flags keep their values wherever they stand, and do what they do in any program of Hydra's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from s15erav3.__main__ import VERBS, main
from s15erav3.cli.flags import split
from s15erav3.cli.trust import conf_dir
from s15erav3.errors import UserError
from tests.tiny import TINY

PLAIN = """
import os
import sys
from pathlib import Path
import hydra
from omegaconf import OmegaConf
from s15erav3.cli.plugins import own_plugins
conf = os.environ["CONF"]
sys.argv[0] = "s15erav3 train"
OmegaConf.register_new_resolver("either", lambda a, b: b if a is None else a)
own_plugins(Path(conf))
hydra.main(version_base="1.3", config_path=conf, config_name="train")(lambda cfg: None)()
"""
"""Another program with the same configs, which leaves its command line to Hydra."""


@pytest.fixture
def my_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's config folder with a choice of his own, in the working folder."""
    group = tmp_path / "my" / "balancing"
    group.mkdir(parents=True)
    (group / "mine.yaml").write_text("_target_: s15erav3.balancing.LossFree\nrate: 0.5\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my"


@pytest.mark.parametrize(
    "line",
    [
        "--cfg job --resolve seed=1 run_dir=x",
        "seed=1 model=pico --cfg job",
        "-c hydra seed=1 -p hydra.launcher",
        "--cfg job --package model seed=3",
        "--config-dir my -c job balancing=mine -p balancing",
        "balancing=mine -p balancing -cd my --cfg=job",
        "-cn sample --cfg job",
        "--info defaults seed=1",
        "-i config -cd my balancing=mine",
        "--info searchpath",
        "--hydra-help",
        "--version",
    ],
)
def test_a_flag_does_what_it_does_in_plain_hydra(line: str, my_conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same output, letter by letter."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "CONF": str(conf_dir())}
    plain = subprocess.run(
        [sys.executable, "-c", PLAIN, *line.split()],
        capture_output=True, text=True, check=False, timeout=120, env=environment,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    capfd.readouterr()
    assert main(["train", *line.split()]) == 0
    assert capfd.readouterr().out == plain.stdout and plain.stdout


def test_a_sweep_and_a_run_take_a_config_folder(my_conf: Path) -> None:
    """Before the settings, among them and after them."""
    tiny = [*TINY, "trainer.max_steps=1"]
    assert main(["train", "--config-dir", "my", "-m", "balancing=mine", "seed=1,2", "sweep.name=s", *tiny]) == 0
    assert sorted(p.name for p in Path("multirun/s").iterdir() if p.name.isdecimal()) == ["0", "1"]
    assert main(["train", "seed=1", "--config-dir", "my", "balancing=mine", "hydra.run.dir=r", *tiny]) == 0
    assert "rate: 0.5" in Path("r/.hydra/config.yaml").read_text()


def test_a_verb_finds_its_folder_among_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """And shows its config without one."""
    assert main(["sample", "--cfg", "job", "RUN", "seed=7", "-p", "seed"]) == 0
    assert "7" in capsys.readouterr().out
    assert main(["compare", "-c", "job"]) == 0
    assert "folders: ???" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--cfg", "expected one argument"),
        ("--cfg jobs", "invalid choice: 'jobs'"),
        ("--config-dir nowhere seed=1", "nowhere"),
        ("--nonsense", "--nonsense"),
        ("--cfg job -m", "Only one of"),
        ("--resolve", "--cfg"),
        ("--experimental-rerun job.pickle", "executes"),
    ],
)
def test_a_wrong_flag_is_told(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one sentence, which ends the program with 2."""
    assert main(["train", *line.split()]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and said.startswith("error: ") and "\n" not in said


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    """``--experimental-rerun`` would load it, abbreviated, too."""
    for flag in ("--experimental-rerun", "--exp"):
        with pytest.raises(UserError, match="pickle"):
            split(["seed=1", flag, str(tmp_path / "job.pickle")])


def test_a_shell_installs_and_asks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra's script calls the program with neither verb nor settings; the line tells them."""
    assert main(["train", "-sc", "install=bash"]) == 0
    script = capsys.readouterr().out
    assert re.search(r"-F hydra_bash_completion s15erav3$", script.strip()) and "$helper -sc query=bash" in script

    def asked(line: str, *verb: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        assert main([*verb, "-sc", "query=bash"]) == 0
        return capsys.readouterr().out.split()

    assert asked("s15erav3 ") == list(VERBS)
    assert asked("s15erav3 tr") == ["train"]
    assert asked("s15erav3 train seed=1 model=na") == asked("s15erav3 train model=na", "train") == ["model=nano"]
    assert asked("s15erav3 sample RUN_DIR temp") == ["temperature="]
    assert asked("s15erav3 nonsense ") == []
