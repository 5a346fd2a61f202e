"""``s15erav3 sample RUN`` at a terminal: prompts and settings typed one after another."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

import s15erav3
from s15erav3.cli.settings import check_settings
from s15erav3.cli.trust import conf_dir
from s15erav3.conversation import COMMANDS, SETTINGS, converse, obey
from s15erav3.errors import UserError
from s15erav3.request import asked, standard_input, texts
from tests.terminal import Terminal, program
from tests.tiny import train

PACKAGE = str(Path(s15erav3.__file__).parent.parent)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("conversation") / "run"
    assert train("trainer.max_steps=2", "logger=none", "callbacks.samples.max_new_tokens=0", run_dir=folder) == 0
    return folder


@pytest.fixture
def cfg() -> DictConfig:
    """The settings of ``sample`` as they are packaged."""
    loaded = OmegaConf.load(conf_dir() / "sample.yaml")
    assert isinstance(loaded, DictConfig)
    return OmegaConf.masked_copy(loaded, [str(key) for key in loaded if key not in ("hydra", "defaults")])


def talked(
    cfg: DictConfig, typed: list[str | type[BaseException]], monkeypatch: pytest.MonkeyPatch
) -> list[DictConfig]:
    """The settings of each text that is written when lines, or keys that raise, are typed."""
    keys: Iterator[str | type[BaseException]] = iter([*typed, EOFError])

    def typing(_: str) -> str:
        key = next(keys)
        if isinstance(key, str):
            return key
        raise key

    written: list[DictConfig] = []
    monkeypatch.setattr("builtins.input", typing)
    converse(cfg, lambda settings: check_settings(settings, "sample"), written.append)
    return written


def test_what_is_typed_is_the_prompt(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    """Letter by letter, and each text has a seed of its own. Ctrl-C drops what was begun."""
    typed = ["a, ${b} 'c'", "", "one \\", "two", "lost \\", KeyboardInterrupt, "//temperature", "/seed 7", "again", "-"]
    written = talked(cfg, typed, monkeypatch)
    assert [asked(settings).prompts for settings in written[:-1]] == [
        ["a, ${b} 'c'"], [""], ["one \ntwo"], ["/temperature"], ["again"]
    ]  # fmt: skip
    assert [settings.seed for settings in written] == [1, 2, 3, 4, 7, 8]


def test_settings_change_between_prompts(
    cfg: DictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fresh_cache: Path
) -> None:
    """A wrong one is told and changes nothing; a mistake in writing ends nothing."""
    typed = ["/temperature 0.25", "/temperature -1", "/temperatur 1", '/stop "\\n\\n"', "/top_k", "x", "/quit", "never"]
    (written,) = talked(cfg, typed, monkeypatch)
    assert (written.temperature, written.stop) == (0.25, "\n\n") and texts(written.stop) == ["\n\n"]
    said = capsys.readouterr().err
    assert "error: temperature=-1" in said or "temperature" in said.split("error: ")[1]
    assert "/temperatur is not a command; did you mean '/temperature'" in said and "top_k 0" in said


def test_help_tells_every_command(cfg: DictConfig) -> None:
    """With the settings of now; and every setting that it names is one."""
    told = obey(cfg, "/help", "", asked)  # type: ignore[arg-type]
    assert all(name in told and name in cfg for name in SETTINGS) and "temperature 0.7" in told
    assert set(COMMANDS) >= {"/help", "/quit", "/temperature"}
    with pytest.raises(UserError, match="cannot be read"):
        obey(cfg, "/stop", '["', asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "prompt"), [(b"caf\xc3\xa9, a=b\n ${x}\n", "café, a=b\n ${x}\n"), (b"", ""), (b"\xff", None)]
)
def test_a_minus_reads_standard_input(given: bytes, prompt: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it as one prompt, to the last newline; a list may hold the sign itself."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    standard_input.cache_clear()
    try:
        if prompt is None:
            with pytest.raises(UserError, match="UTF-8"):
                texts("-", from_input=True)
        else:
            assert texts("-", from_input=True) == texts("-", from_input=True) == [prompt]
        assert texts(OmegaConf.create(["-"]), from_input=True) == ["-"] == texts("-")
    finally:
        standard_input.cache_clear()


@pytest.mark.slow
def test_a_conversation_at_a_terminal(run_dir: Path, tmp_path: Path) -> None:
    """The model is loaded once; Ctrl-C stops a text and no more, and the arrow brings back a prompt of last time."""
    environment = {"PYTHONPATH": PACKAGE, "S15ERAV3_CACHE": str(tmp_path)}
    command = program("sample", str(run_dir), "max_new_tokens=3")
    with Terminal(command, 80, cwd=tmp_path, **environment) as terminal:
        terminal.until("Ctrl-D ends\n>", 60)
        terminal.type("Tamm to Vail, \n")
        terminal.until(lambda text: "tokens/s" in text and text.endswith("\n>"))
        terminal.type("/max_new_tokens 1000000\n")
        terminal.until("max_new_tokens 1000000\n>")
        terminal.type("on and on \n")
        terminal.until(lambda text: len(text.split("on and on")[-1]) > 200)
        terminal.type("\x03")
        terminal.until(lambda text: text.endswith("stopped\n>"))
        terminal.type("/max_new_tokens 2\n/temp\t 0\n")
        terminal.until("temperature 0\n>")
        terminal.type("lost")
        terminal.until("> lost")
        terminal.type("\x03")
        terminal.until(lambda text: text.endswith("\n>"))
        terminal.type("kept\n")
        terminal.until(lambda text: text.count("tokens/s") == 2 and text.endswith("\n>"))
        terminal.type("\x04")
        terminal.end()
        assert terminal.status == 0
    with Terminal(command, 80, cwd=tmp_path, **environment) as terminal:
        terminal.until("Ctrl-D ends\n>", 60)
        terminal.type("\x1b[A")
        terminal.until("> kept")
        terminal.type("\x15/quit\n")
        terminal.end()
        assert terminal.status == 0


@pytest.mark.slow
def test_without_a_terminal_nothing_is_asked(run_dir: Path, tmp_path: Path) -> None:
    """A pipe's reader gets the text that begins a new innings, or the continuation of standard input."""
    command = [*program("sample", str(run_dir), "max_new_tokens=3")]
    environment = os.environ | {"PYTHONPATH": PACKAGE}

    def run(typed: str, *settings: str) -> subprocess.CompletedProcess[str]:
        words = [*command, *settings]
        return subprocess.run(
            words, input=typed, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )

    plain = run("unread")
    assert "unread" not in plain.stdout and "> " not in plain.stdout and "tokens/s" in plain.stderr
    assert run("A to B,\n", "prompt=-").stdout.startswith("A to B,\n")
