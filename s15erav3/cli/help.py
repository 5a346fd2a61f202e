"""``s15erav3 VERB --help`` and a pressed Tab key: answered from the config folder alone.

What a verb works with takes seconds to import, so no verb is imported here: ``tests/cli/test_help.py`` keeps it so.
"""

from __future__ import annotations

import os
import sys
from itertools import dropwhile
from typing import Any, NoReturn

from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import Line, split
from s15erav3.cli.overrides import is_place

ASKING = ("--help", "--hydra-help", "--shell-completion")
"""Flags with which Hydra prints something and calls nothing."""


def asks(line: Line) -> bool:
    """Whether nothing but a text is wanted."""
    return line.has(*ASKING)


def answer(verb: str, line: Line) -> int:
    """Print what is asked for about ``verb``.

    Hydra fills in the template ``hydra/help/VERB.yaml`` with the groups and the settings as they are composed with the
    words of the line. Places that stand before the settings of other verbs than train are no part of them.

    Raises:
        UserError: the words cannot be composed.
        SystemExit: Hydra has printed it.
    """
    words = line.words if verb == "train" else list(dropwhile(is_place, line.words))
    try:
        try:
            hydra_setup.call(verb, _never, [*line.flags, *words])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # head or less has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def answered(verb: str, arguments: list[str]) -> bool:
    """Answer where ``arguments`` only ask, as :func:`answer`; returns whether they did."""
    line = split(arguments)
    if asks(line):
        answer(verb, line)
    return asks(line)


def _never(cfg: Any) -> NoReturn:
    raise AssertionError("Hydra calls no job when it is asked for help")
