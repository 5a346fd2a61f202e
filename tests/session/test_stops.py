"""A signal before training, inside a library that wraps exceptions in its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, NoReturn

import pytest

from s15erav3.session import run
from tests.tiny import result, train


def test_a_signal_that_a_library_wraps_is_still_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pydantic reports whatever happens while it builds a schema as its own error. A sweep then stops, and the job's
    record says that it was interrupted, not that it failed."""

    def build(*_: Any) -> NoReturn:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            raise ValueError(str(error)) from error
        raise AssertionError("the signal did nothing")

    monkeypatch.setattr(run, "prepare", build)
    assert train("-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}") == 128 + signal.SIGTERM
    assert result(tmp_path / "0")["status"] == "interrupted"
    assert not (tmp_path / "1" / "result.json").exists()
