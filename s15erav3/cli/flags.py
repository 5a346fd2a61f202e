"""Hydra's own flags, such as ``--cfg job`` and ``-m``, told from the words beside them wherever they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from hydra._internal.utils import get_args_parser

from s15erav3.cli.overrides import given, is_place, key_of
from s15erav3.errors import UserError

PLACES = {
    "checkpoint": ("a checkpoint", "RUN_DIR_OR_CKPT"),
    "output": ("an output", "OUTPUT"),
    "run_dir": ("a run's folder", "RUN_DIR"),
}
"""Settings that may be given by their place in the command: what each is called in messages, and in the usage."""


class Line(NamedTuple):
    """What followed a verb."""

    flags: list[str]
    """Each with its value: ``--multirun``, ``--cfg=job``."""
    words: list[str]
    """The others, in their order."""

    def has(self, *names: str) -> bool:
        """Whether one of the flags is given, by its long name."""
        return any(flag.partition("=")[0] in names for flag in self.flags)

    @property
    def multirun(self) -> bool:
        """Whether it asks for several jobs."""
        return self.has("--multirun") or "hydra.mode=MULTIRUN" in self.words

    @property
    def only_tells(self) -> bool:
        """Whether it asks what the program or a config is, and runs nothing."""
        return self.has("--help", "--hydra-help", "--cfg", "--info", "--shell-completion")


def split(arguments: Sequence[str]) -> Line:
    """Hydra's parser decides what is a flag, and which word is its value.

    Raises:
        UserError: a flag is unknown, lacks its value or has another than it may, or would execute a file.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    found = vars(parser.parse_intermixed_args(list(arguments)))
    if found["experimental_rerun"] is not None:
        raise UserError(
            f"--experimental-rerun={found['experimental_rerun']} is not offered, as it executes the pickle that it "
            "reads; go on with a run by train resume=RUN_DIR."
        )
    words = found.pop("overrides")
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in found.items()
        if value not in (None, False)
    ]
    return Line(flags, words)


def flags() -> list[str]:
    """The long names of all flags that a user may give."""
    known = [name for action in get_args_parser()._actions for name in action.option_strings]
    return [name for name in known if name.startswith("--") and name != "--experimental-rerun"]


def by_place(verb: str, arguments: Sequence[str], *settings: str) -> list[str]:
    """Turn the leading words of ``s15erav3 VERB CKPT ...`` into settings, as ``checkpoint=CKPT``.

    Args:
        settings: keys of :data:`PLACES`, in their order.

    Raises:
        UserError: one of them is not given.
    """
    line = split(arguments)
    found, rest = [], list(line.words)
    for name in settings:
        if any("=" in word and key_of(word) == name for word in line.words):
            continue
        if not rest or not is_place(rest[0]):
            if line.only_tells:
                break
            usage = " ".join([verb, *(PLACES[setting][1] for setting in settings)])
            raise UserError(f"{verb} needs {PLACES[name][0]} first: s15erav3 {usage} [SETTING=VALUE ...]")
        found.append(given(name, rest.pop(0), line.multirun))
    return [*line.flags, *found, *rest]


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; --hydra-help tells the flags.")
