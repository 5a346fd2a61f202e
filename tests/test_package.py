"""What travels in the wheel, and what the README promises."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from s15erav3.__main__ import VERBS, main
from s15erav3.cli.hydra_setup import conf_dir
from s15erav3.cli.plugins import own_plugins
from tests.tiny import TINY, result

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Fenced blocks of the README in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def readme_commands() -> list[list[str]]:
    """Every ``s15erav3 ...`` of the README's bash blocks, as words."""
    lines = [line.replace("$'", "'") for block in blocks("bash") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if "s15erav3" in line and not line.startswith("wandb")]
    return [w[w.index("s15erav3") + 1 :] for w in words]


@pytest.mark.parametrize("command", readme_commands(), ids=" ".join)
def test_every_command_of_the_readme_composes(command: list[str]) -> None:
    """A setting that was renamed cannot stay in the README."""
    verb, *settings = command
    assert verb in VERBS
    given = [s for s in settings if "=" in s and not s.startswith(("hydra.", "resume=", "prompt=", "stop="))]
    if "balancing=rescue" in given:
        return  # runs whole below
    if "-m" in settings:
        given = [re.sub(r",.*", "", s) for s in given]
    OmegaConf.register_new_resolver("either", lambda a, b: b if a is None else a, replace=True)
    own_plugins(conf_dir())
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        compose(verb, given)


def test_a_strategy_from_another_package_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's own twenty lines, run as it says."""
    code, (config,) = next(block for block in blocks("python") if "Balancer" in block), blocks("yaml")
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "my_conf" / "balancing").mkdir(parents=True)
    (tmp_path / "my_conf" / "balancing" / "rescue.yaml").write_text(textwrap.dedent(config))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (command,) = [c for c in readme_commands() if "balancing=rescue" in c]
    assert main([*command, *TINY, "trainer.max_steps=3", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert result(tmp_path / "run")["status"] == "completed"
    assert "rescue" in str(OmegaConf.load(tmp_path / "run" / ".hydra" / "hydra.yaml"))


@pytest.mark.slow
def test_the_wheel_carries_config_and_text_and_runs_elsewhere(tmp_path: Path) -> None:
    """An installed package finds its conf/ and its bundled commentary without the source tree."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert "s15erav3/conf/train.yaml" in names
    assert "s15erav3/conf/model/nano.yaml" in names
    assert "s15erav3/data/sample/commentary.txt" in names
    assert not any(name.startswith("tests") for name in names)
    done = subprocess.run(
        [sys.executable, "-m", "s15erav3", "train", *TINY, "trainer.max_steps=2", "hydra.run.dir=run"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    where = subprocess.run(
        [sys.executable, "-c", "import s15erav3.cli.hydra_setup as c; print(c.conf_dir())"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")}, capture_output=True, text=True,
    )  # fmt: skip
    assert str(tmp_path) in where.stdout
    assert result(tmp_path / "run")["status"] == "completed"
