"""Interactive prompts at a terminal, with commands that change settings between them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import yaml
from omegaconf import DictConfig, OmegaConf

from s15erav3.cli.overrides import literal
from s15erav3.data.cache import cache_dir
from s15erav3.errors import UserError, nearest, tell
from s15erav3.terminal import say

SETTINGS = (
    *("temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
    *("max_new_tokens", "samples", "stop", "seed"),
)
"""Settings that ``/NAME VALUE`` changes."""
ENDS = ("/quit", "/exit")
COMMANDS = ("/help", *ENDS, *(f"/{name}" for name in SETTINGS))
HELP = """Type a prompt and Enter; an empty one starts a new document, and \\ at the end of a line continues it.
  /NAME VALUE   change a setting, as /temperature 0.5 or /stop "\\n\\n"; /NAME alone shows it
  NAME is       {names}
  /help         this, with the current settings
  //text        a prompt that starts with /text
  Ctrl-C stops the current text, Ctrl-D or /quit ends. Each text uses the next seed; /seed N sets it.
""".format(names=", ".join(SETTINGS))
REMEMBERED = 1000
"""Number of history lines that are kept."""


def converse(cfg: DictConfig, check: Callable[[DictConfig], None], write: Callable[[DictConfig], None]) -> None:
    """Read prompts and commands from the terminal until its end.

    Args:
        cfg: initial settings.
        check: raises a UserError for unusable settings.
        write: continues the prompt in the given settings, and prints the result.
    """
    say("type a prompt; /help lists the commands, Ctrl-D ends")
    written = 0
    with history():
        for line in lines():
            if line.startswith("/") and not line.startswith("//"):
                command, _, value = line.partition(" ")
                if command in ENDS:
                    return
                try:
                    say(obey(cfg, command, value.strip(), check))
                except UserError as error:
                    tell(error)
                written = 0 if command == "/seed" else written
                continue
            settings = cfg.copy()
            settings.prompt, settings.seed = literal(line[1:] if line.startswith("//") else line), cfg.seed + written
            written += 1
            try:
                write(settings)
            except KeyboardInterrupt:
                sys.stdout.write("\n")
                say("stopped")
            except UserError as error:
                tell(error)


def obey(cfg: DictConfig, command: str, value: str, check: Callable[[DictConfig], None]) -> str:
    """Execute a command; return the message to print.

    Raises:
        UserError: it is not a command, or the value is unusable; the settings are unchanged.
    """
    name = command[1:]
    if command == "/help":
        return HELP + "  now           " + ", ".join(f"{name} {cfg[name]}" for name in SETTINGS)
    if name not in SETTINGS:
        raise UserError(f"{command} is not a command; {nearest(command, COMMANDS)}")
    if value:
        changed = cfg.copy()
        try:
            OmegaConf.update(changed, name, yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise UserError(f"{command} {value} cannot be read; give a number, or a text in quotes.") from error
        check(changed)
        cfg[name] = changed[name]
    return f"{name} {cfg[name]!r}"


def lines() -> Iterator[str]:
    """Yield typed lines until Ctrl-D; Ctrl-C discards the current line."""
    begun: list[str] = []
    while True:
        try:
            line = input("... " if begun else "> ")
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            begun.clear()
            continue
        except EOFError:
            sys.stdout.write("\n")
            return
        if line.endswith("\\"):
            begun.append(line[:-1])
            continue
        yield "\n".join([*begun, line])
        begun.clear()


@contextmanager
def history() -> Iterator[None]:
    """Enable line history with the arrow keys, including earlier conversations, and tab completion of commands."""
    try:
        import readline
    except ImportError:  # on Windows, where the terminal keeps its own history
        yield
        return
    file = cache_dir() / "prompts.txt"
    readline.set_completer_delims(" ")
    readline.set_completer(lambda text, n: [*(c for c in COMMANDS if text and c.startswith(text)), None][n])
    readline.parse_and_bind("tab: complete")
    readline.set_history_length(REMEMBERED)
    readline.clear_history()
    with suppress(OSError):  # there is no history file yet
        readline.read_history_file(file)
    try:
        yield
    finally:
        with suppress(OSError):  # failing to save the history is not an error
            os.makedirs(file.parent, exist_ok=True)
            readline.write_history_file(file)
