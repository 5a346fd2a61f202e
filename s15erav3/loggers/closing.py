"""The open loggers of this process's current run, and how they are closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from s15erav3.errors import one_line
from s15erav3.loggers.wandb_server import tell


class Closes(Protocol):
    """A logger that has to be closed when a run ends, however it ends."""

    def conclude(self, exit_code: int, result: Mapping[str, Any]) -> None:
        """Close the logger.

        Args:
            exit_code: 0 for a complete run.
            result: content of ``result.json``.
        """


_open: list[Closes] = []


def opened(logger: Any) -> None:
    """Register a logger that has a method ``conclude``; others are left to Lightning."""
    if hasattr(logger, "conclude"):
        _open.append(logger)


def close_all(exit_code: int, result: Mapping[str, Any] | None = None) -> None:
    """Close this process's loggers in the order in which they were opened.

    Otherwise the next job of a multirun would write into the records of this one. An error in one of them is reported,
    and the others are still closed.

    Args:
        exit_code: 0 marks the run as finished, anything else as failed.
        result: content of ``result.json``.
    """
    while _open:
        logger = _open.pop(0)
        try:
            logger.conclude(exit_code, result or {})
        except Exception as error:  # a logger's error must not hide how the run ended
            tell(f"{type(logger).__name__} was not closed: {type(error).__name__}: {one_line(error)}")
