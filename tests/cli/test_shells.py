"""The Tab key in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import s15erav3
from s15erav3.__main__ import VERBS, main
from s15erav3.cli.shells import SCRIPTS
from tests.terminal import Terminal

START = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"], "fish": ["fish", "--no-config"]}


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell that finds this program by its name."""
    entry = tmp_path / "bin" / "s15erav3"
    entry.parent.mkdir()
    entry.write_text(f'#!/bin/sh\nexec {sys.executable} -m s15erav3 "$@"\n')
    entry.chmod(0o755)
    package = str(Path(s15erav3.__file__).parent.parent)
    return {
        "PATH": f"{entry.parent}:{os.environ['PATH']}",
        "PYTHONPATH": package,
        "HOME": str(tmp_path),
        "PS1": "$ ",
    }


def shell(name: str, tmp_path: Path, environment: dict[str, str]) -> Terminal:
    """A shell that has read the script, in a folder with one file."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    (tmp_path / "work" / "commentary").mkdir(parents=True)
    started = Terminal(START[name], 100, cwd=tmp_path / "work", **environment)
    load = f"s15erav3 --completion {name}"
    started.type((f"{load} | source" if name == "fish" else f'eval "$({load})"') + "; echo rea''dy\n")
    started.until("ready\n")
    return started


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_tab_completes_in_a_shell(name: str, tmp_path: Path, installed: dict[str, str]) -> None:
    """Verbs, groups, choices, settings below a choice made before; files where no word is known."""
    with shell(name, tmp_path, installed) as terminal:
        terminal.type("s15erav3 tr\t")
        terminal.until("s15erav3 train")
        terminal.type("bala\t")
        terminal.until("train balancing")
        terminal.type("\x15s15erav3 train balancing=loss\t")
        terminal.until("balancing=loss_free")
        terminal.type("opti\t")
        terminal.until("balancing=loss_free optimizer")
        terminal.type("\x15s15erav3 train balancing=smebu balancing.ka\t")
        terminal.until("balancing=smebu balancing.kappa=")
        terminal.type("\x15s15erav3 evaluate com\t")
        terminal.until("evaluate commentary")
        terminal.type("\x15s15erav3 train data.path=com\t")
        terminal.until("data.path=commentary")
        terminal.type("\x15s15erav3 train balancing=\t\t")
        terminal.until(lambda text: all(choice in text for choice in ("aux", "bip", "loss_free", "simbal", "switch")))


def test_every_word_that_may_follow_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One in a line; nothing for what is no verb."""

    def asked(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        assert main(["--completion", "words"]) == 0
        return [word.partition("\t")[0] for word in capsys.readouterr().out.split("\n") if word]

    assert asked("s15erav3 ") == asked("s15erav3") == list(VERBS)
    assert asked("s15erav3 --comp") == ["--completion"] and asked("s15erav3 --completion z") == ["zsh"]
    assert asked("s15erav3 train bal") == ["balancing=", "balancing/", "balancing."]
    assert asked("s15erav3 train balancing/") == ["balancing/loss="]
    assert asked("s15erav3 train -m seed=1 experts=e8_split") == [f"experts=e8_split{n}" for n in (2, 4, 8)]
    assert asked("s15erav3 train hydra/launcher=gp") == ["hydra/launcher=gpu_queue"]
    assert asked("s15erav3 sample RUN_DIR top_") == ["top_k=", "top_p="]
    assert "--multirun" in asked("s15erav3 train --") and "--experimental-rerun" not in asked("s15erav3 train --")
    assert asked("s15erav3 nonsense bal") == asked("s15erav3 train nonsense") == []


@pytest.mark.parametrize("name", ["", "csh", "bash zsh"])
def test_another_shell_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With those that there are."""
    assert main(["--completion", *name.split()]) == 2
    assert "bash" in capsys.readouterr().err


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_shell_can_read_its_script(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an error of syntax."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    assert main(["--completion", name]) == 0
    script = capsys.readouterr().out
    run = subprocess.run([name, "-n"], input=script, text=True, capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
