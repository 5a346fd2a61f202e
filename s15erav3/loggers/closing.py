"""The loggers of the run that is under way in this process, and how they are closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from s15erav3.loggers.wandb_server import tell


class Closes(Protocol):
    """A logger that has something to do when a run ends, however it ends."""

    def conclude(self, exit_code: int, result: Mapping[str, Any]) -> None:
        """Close the record.

        Args:
            exit_code: 0 for a complete run.
            result: as in ``result.json``.
        """


_open: list[Closes] = []


def opened(logger: Any) -> None:
    """Remember a logger that has a method ``conclude``; others are left to Lightning."""
    if hasattr(logger, "conclude"):
        _open.append(logger)


def close_all(exit_code: int, result: Mapping[str, Any] | None = None) -> None:
    """Close this process's loggers in the order in which they were opened: without it the next job of a multirun would
    write into the records of this one. What goes wrong with one is told, and the others are closed all the same.

    Args:
        exit_code: 0 marks the run as finished, anything else as failed.
        result: as in ``result.json``.
    """
    while _open:
        logger = _open.pop(0)
        try:
            logger.conclude(exit_code, result or {})
        except Exception as error:  # the run has ended, well or badly, and that is what has to be told
            tell(f"{type(logger).__name__} was not closed: {type(error).__name__}: {' '.join(str(error).split())}")
