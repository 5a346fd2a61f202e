"""Runs of every strategy that nothing interrupted, each trained once for all tests that ask for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.balancing.runs import settings_of
from tests.tiny import train


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From the name of a run in ``runs.RUNS`` to its folder."""
    folder, made = tmp_path_factory.mktemp("strategies"), {}

    def run_dir(name: str) -> Path:
        if name not in made:
            assert train(*settings_of(name), run_dir=folder / name) == 0
            made[name] = folder / name
        return made[name]

    return run_dir
