"""``sweep.noise_runs``: repetitions of a sweep's jobs with the same seed and other rounding."""

from __future__ import annotations

from collections.abc import Sequence

from s15erav3.cli.overrides import key_of
from s15erav3.errors import UserError

KEY = "rounding"


def noise_jobs(commands: Sequence[Sequence[str]], runs: int) -> list[list[str]]:
    """Return ``runs`` further jobs for the first of all jobs that differ only in their seed.

    They come in rounds, so a larger number only appends jobs to those of a smaller one.

    Args:
        commands: settings of each job.

    Raises:
        UserError: the jobs set ``rounding`` themselves.
    """
    first: dict[tuple[str, ...], Sequence[str]] = {}
    for command in commands:
        if runs and any(key_of(word) == KEY for word in command):
            raise UserError(f"sweep.noise_runs={runs} sets {KEY} of the jobs it adds; leave one of the two out.")
        first.setdefault(tuple(word for word in command if key_of(word) != "seed"), command)
    return [[*command, f"{KEY}={n}"] for n in range(1, runs + 1) for command in first.values()]
