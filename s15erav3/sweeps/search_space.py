"""The search space: Hydra's sweep overrides as Optuna's distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from s15erav3.errors import UserError, one_line

LOG = "log"
"""The only tag: values are drawn log-uniformly."""


class Space(NamedTuple):
    """The settings of a search."""

    distributions: dict[str, BaseDistribution]
    """The distribution of each searched key."""
    fixed: dict[str, str]
    """The other overrides by key, as typed."""

    def command(self, chosen: dict[str, Any]) -> list[str]:
        """Return the overrides of a run with ``chosen`` values of the searched keys."""
        return [*(f"{key}={as_text(value)}" for key, value in chosen.items()), *self.fixed.values()]


def read_space(words: Sequence[str], loader: ConfigLoader | None = None) -> Space:
    """Separate searched from fixed settings; of two overrides for one key, the later one wins.

    Args:
        words: overrides in Hydra's grammar.
        loader: resolves ``glob(...)``.

    Raises:
        UserError: an override cannot be searched.
    """
    searched: dict[str, tuple[str, BaseDistribution]] = {}
    fixed: dict[str, tuple[str, str]] = {}
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(words)):
        key = override.get_key_element()
        name = key.lstrip("+")
        searched.pop(name, None)
        fixed.pop(name, None)
        if override.is_sweep_override():
            searched[name] = key, distribution(override)
        else:
            fixed[name] = key, str(override.input_line)
    return Space(dict(searched.values()), dict(fixed.values()))


def distribution(override: Override) -> BaseDistribution:
    """Return Optuna's distribution for a sweep override.

    An ``interval`` includes both ends, and has whole numbers if wrapped in Hydra's ``int(...)``. A ``range`` has the
    values that Hydra's own sweeper would run, without its end. Everything else is a categorical choice.

    Raises:
        UserError: the range is empty or reversed, or has a tag other than ``log``.
    """
    value: Any = override.value()
    tags: set[str] = getattr(value, "tags", set())
    try:
        if unknown := sorted(tags - {LOG}):
            raise ValueError(f"the tag {unknown[0]} is unknown; only {LOG} is allowed")
        if isinstance(value, IntervalSweep):
            return _interval(value, LOG in tags)
        if isinstance(value, RangeSweep):
            return _range(value, LOG in tags)
        if tags:
            raise ValueError(f"choices have no order, and so no {LOG}")
        texts = override.sweep_string_iterator()
        choices = [
            element if isinstance(element, bool | int | float | None) else text
            for element, text in zip(override.sweep_iterator(Transformer.identity), texts, strict=True)
        ]
        if not choices:
            raise ValueError("it has no values")
        return CategoricalDistribution(choices)
    except (ValueError, ArithmeticError) as error:
        raise UserError(
            f"{override.input_line} cannot be searched: {one_line(error).rstrip('.')}; give choices (a,b)"
            ", interval(low,high), range(first,end) or tag(log,interval(low,high))."
        ) from error


def _interval(value: IntervalSweep, log: bool) -> BaseDistribution:
    low, high = value.start, value.end
    assert low is not None and high is not None
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError("an end is not finite")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _range(value: RangeSweep, log: bool) -> BaseDistribution:
    values: Any = value.range()  # Python's own range, or one of decimals
    if values.step == 0:
        raise ValueError("its step is 0")
    count = math.ceil((values.stop - values.start) / values.step)
    if count < 1:
        raise ValueError("the range is empty")
    ends = sorted((values.start, values.start + (count - 1) * values.step))
    if isinstance(values, range):
        return IntDistribution(int(ends[0]), int(ends[1]), log=log, step=abs(values.step))
    return FloatDistribution(float(ends[0]), float(ends[1]), log=log, step=float(abs(values.step)))


def as_text(value: Any) -> str:
    """Return a chosen value in Hydra's grammar; text already is."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
