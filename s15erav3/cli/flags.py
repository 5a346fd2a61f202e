"""Hydra's own flags, such as ``--cfg job`` and ``-m``, told from the words beside them wherever they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from hydra._internal.utils import get_args_parser

from s15erav3.errors import UserError


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
    given = vars(parser.parse_intermixed_args(list(arguments)))
    if given["experimental_rerun"] is not None:
        raise UserError(
            f"--experimental-rerun={given['experimental_rerun']} is not offered, as it executes the pickle that it "
            "reads; go on with a run by train resume=RUN_DIR."
        )
    words = given.pop("overrides")
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in given.items()
        if value not in (None, False)
    ]
    return Line(flags, words)


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; --hydra-help tells the flags.")
