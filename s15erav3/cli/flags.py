"""Separate Hydra's own flags, such as ``--cfg job`` and ``-m``, from the other words, in any order."""

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
"""Settings that may be positional arguments: their names in messages and in the usage line."""


class Line(NamedTuple):
    """The arguments after a verb."""

    flags: list[str]
    """Flags with their values: ``--multirun``, ``--cfg=job``."""
    words: list[str]
    """The other words, in order."""

    def has(self, *names: str) -> bool:
        """Whether one of the flags is given, by its long name."""
        return any(flag.partition("=")[0] in names for flag in self.flags)

    @property
    def multirun(self) -> bool:
        """Whether several jobs are requested."""
        return self.has("--multirun") or "hydra.mode=MULTIRUN" in self.words

    @property
    def only_tells(self) -> bool:
        """Whether only information about the program or a config is requested, and nothing runs."""
        return self.has("--help", "--hydra-help", "--cfg", "--info", "--shell-completion")


def split(arguments: Sequence[str]) -> Line:
    """Split arguments into flags and words with Hydra's parser, which decides which word is a flag's value.

    Raises:
        UserError: a flag is unknown, lacks its value, has an invalid value, or would execute a file.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    found = vars(parser.parse_intermixed_args(list(arguments)))
    if found["experimental_rerun"] is not None:
        raise UserError(
            f"--experimental-rerun={found['experimental_rerun']} is not offered, as it executes the pickle that it "
            "reads; resume a run with train resume=RUN_DIR."
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
    """Turn the leading words of ``s15erav3 VERB CKPT ...`` into settings such as ``checkpoint=CKPT``.

    Args:
        settings: keys of :data:`PLACES`, in order.

    Raises:
        UserError: one of them is missing.
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
    raise UserError(f"{message}; --hydra-help lists the flags.")
