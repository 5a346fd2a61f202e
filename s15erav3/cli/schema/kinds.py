"""Types, ranges and descriptions shared by the groups of this folder.

A setting is fully described by its annotation, such as
``Annotated[Whole, Ge(1), Doc("windows of one micro-batch")]``. pydantic, which validates values against it
(:mod:`~s15erav3.cli.schema.check`), is not imported here, so that help is fast.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

LARGEST = 2**63 - 1
"""Largest integer that tensors, seeds and counters can hold."""

Settings = TypeVar("Settings", bound=type)


def closed(settings: Settings) -> Settings:
    """Allow only the settings of this class in a group."""
    settings.__pydantic_config__ = {"strict": True, "extra": "forbid"}  # type: ignore[attr-defined]
    return settings


def open_ended(settings: Settings) -> Settings:
    """Allow additional settings in a group, which are passed on to external code."""
    settings.__pydantic_config__ = {"strict": True, "extra": "allow"}  # type: ignore[attr-defined]
    return settings


@dataclass(frozen=True)
class Must:
    """Description of the allowed values, if types and bounds cannot express it."""

    text: str


@dataclass(frozen=True)
class Hint:
    """A remedy that is appended to the error message."""

    text: str


@dataclass(frozen=True)
class Held:
    """A representable number: finite, not denormal, and no larger than :data:`LARGEST` if it is an integer."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.check, handler(source))

    @staticmethod
    def check(value: Any) -> Any:
        """Return representable numbers, and values that are not numbers, unchanged.

        Raises:
            ValueError: the number is not representable; the message completes a sentence.
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
"""Number of windows in a batch. A larger value is probably a typing error, and would exhaust the memory."""

Text = str | int | float | bool
"""Free text. YAML parses some texts as a number or a flag; here they are meant as text."""
Path = Annotated[Text, Must("a path")]

Accelerator = Literal["auto", "gpu", "cuda", "cpu"]
Precision = Literal["auto", "32-true", "bf16-mixed"]
