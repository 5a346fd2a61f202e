"""``s15erav3 VERB --help``, ``train --cfg job`` and tab completion, answered from the config folder alone.

The imports of a verb take seconds, so no verb is imported here; ``tests/cli/test_help.py`` checks this.
"""

from __future__ import annotations

import os
import sys
from itertools import dropwhile
from pathlib import Path
from typing import Any, NoReturn

from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import Line, split
from s15erav3.cli.overrides import is_place, key_of
from s15erav3.cli.schema.choices import names
from s15erav3.cli.schema.describe import describe, groups
from s15erav3.cli.trust import conf_dir
from s15erav3.errors import UserError, nearest

ASKING = ("--help", "--hydra-help", "--shell-completion")
"""Flags with which Hydra only prints and runs no job."""


RESUMING = ("resume", "sweep.resume")
"""Settings with which the config comes from another folder."""


def asks(verb: str, line: Line) -> bool:
    """Whether the command line requests only a text, and the config folder is enough to write it."""
    own = verb == "train" and not any(key_of(word) in RESUMING for word in line.words)
    return line.has(*ASKING) or (own and line.has("--cfg"))


def answer(verb: str, line: Line) -> int:
    """Print the requested information about ``verb``.

    If groups are named with ``--help``, print their settings. Otherwise Hydra fills in the template
    ``hydra/help/VERB.yaml`` with the schema's overview and the settings composed from the words of the line.
    Positional arguments of verbs other than train are ignored.

    Raises:
        UserError: the words cannot be composed, or name no group.
        SystemExit: Hydra has printed the text.
    """
    words = line.words if verb == "train" else list(dropwhile(is_place, line.words))
    about = asked_about(verb, line)
    try:
        try:
            for name in about:
                tell(verb, name, line)
            if not about:
                hydra_setup.call(verb, _never, [*line.flags, *words])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # head or less closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def answered(verb: str, arguments: list[str]) -> bool:
    """Call :func:`answer` if ``arguments`` only request information; return whether they did."""
    line = split([word for argument in arguments for word in _words(argument)])
    if asked := asks(verb, line):
        answer(verb, line)
    return asked


def _words(argument: str) -> list[str]:
    flag, equals, group = argument.partition("=")
    return [flag, group] if equals and flag == "--help" else [argument]


def asked_about(verb: str, line: Line) -> list[str]:
    """The groups named on a line; verbs other than train may have positional arguments as well.

    Raises:
        UserError: a word given to train is not a group.
    """
    words = [word for word in line.words if "=" not in word] if line.has("--help") else []
    known = groups(verb)
    for word in words if verb == "train" else ():
        if word not in known:
            raise UserError(f"'{word}' is not a group of train; {nearest(word, known)}")
    return [word for word in words if word in known and (verb == "train" or not Path(word).exists())]


def tell(verb: str, name: str, line: Line) -> None:
    """Print the settings of a group, with the defaults of the choice given on the line, if any.

    Raises:
        UserError: that is not a choice of the group.
    """
    choice = next((value for word in line.words if (value := word.removeprefix(f"{name}=")) != word), None)
    known = names(conf_dir(), name)
    if choice is not None and choice not in known:
        raise UserError(f"{name}={choice} is not a choice of the group '{name}': {nearest(choice, known)}")
    print(describe(verb, name, conf_dir(), choice))


def _never(cfg: Any) -> NoReturn:
    raise AssertionError("Hydra calls no job when it is asked for help")
