"""What a setting may be: types, ranges and words that the groups of this folder share.

An annotation says it all: ``Annotated[Whole, Ge(1), Doc("windows of one micro-batch")]``. pydantic, which judges values
by it (:mod:`~s15erav3.cli.schema.check`), is not imported here, so that help is quick.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

LARGEST = 2**63 - 1
"""What tensors, seeds and counters hold."""

Settings = TypeVar("Settings", bound=type)


def closed(settings: Settings) -> Settings:
    """Let a group have the settings of this class and no others."""
    settings.__pydantic_config__ = {"strict": True, "extra": "forbid"}  # type: ignore[attr-defined]
    return settings


def open_ended(settings: Settings) -> Settings:
    """Let a group have more settings, which are handed on to somebody else's code."""
    settings.__pydantic_config__ = {"strict": True, "extra": "allow"}  # type: ignore[attr-defined]
    return settings


@dataclass(frozen=True)
class Must:
    """What a value must be, in words, where types and bounds cannot say it."""

    text: str


@dataclass(frozen=True)
class Hint:
    """What follows the sentence of a refusal: a remedy."""

    text: str


@dataclass(frozen=True)
class Held:
    """A number that a computer holds: finite, no larger than :data:`LARGEST` if it is whole, not denormal."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.check, handler(source))

    @staticmethod
    def check(value: Any) -> Any:
        """Pass on what is held, and what is no number at all.

        Raises:
            ValueError: it is not held; the message ends a sentence.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"; the largest whole number is {LARGEST}")
        if not math.isfinite(value):
            raise ValueError("; it is not finite")
        if value and abs(value) < sys.float_info.min:
            raise ValueError(f"; the smallest number above 0 is {sys.float_info.min}")
        return value


Whole = Annotated[int, Held()]
Real = Annotated[float, Held()]
Count = Annotated[Whole, Ge(0)]
AtLeastOne = Annotated[Whole, Ge(1)]
Positive = Annotated[Real, Gt(0)]
NotNegative = Annotated[Real, Ge(0)]
Share = Annotated[Real, Ge(0), Le(1)]
ShareBelowOne = Annotated[Real, Ge(0), Lt(1)]
Windows = Annotated[Whole, Ge(1), Le(2**16)]
"""As many as a batch may have; more is a slip of the hand, and would fill the memory."""

Text = str | int | float | bool
"""Free text: what looks like a number or a flag is one in a config, and meant as text."""
Path = Annotated[Text, Must("a path")]

Accelerator = Literal["auto", "gpu", "cuda", "cpu"]
Precision = Literal["auto", "32-true", "bf16-mixed"]
