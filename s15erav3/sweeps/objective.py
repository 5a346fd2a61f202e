"""``sweep.objective``: the metrics of a run that are reported to the sweeper."""

from __future__ import annotations

from typing import Any

from omegaconf import ListConfig

from s15erav3.errors import UserError, nearest

PRUNED = "pruned"
"""Value reported to a sweeper for a pruned run; also the status of that run."""


def check_objective(wanted: Any) -> None:
    """Check that the objective names metrics.

    Raises:
        UserError: it does not; the message contains the value.
    """
    names = wanted if isinstance(wanted, list | ListConfig) else [wanted]
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"sweep.objective={wanted} must be a metric such as val/bpb, or a list such as "
            "[val/bpb,balance/maxvio_global]."
        )


def objective(wanted: Any, result: dict[str, Any]) -> float | list[float]:
    """Return the metrics ``wanted`` of a completed run: a number for one name, a list for several.

    Args:
        result: content of ``result.json``.

    Raises:
        UserError: the run has no such metric.
    """
    check_objective(wanted)
    values = []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        value = result.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            numbers = {key for key, found in result.items() if isinstance(found, int | float)}
            raise UserError(f"sweep.objective={name} is not a metric of result.json: {nearest(name, numbers)}")
        values.append(float(value))
    return values[0] if isinstance(wanted, str) else values
