"""A signal before training, inside a library that wraps exceptions in its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from s15erav3.callbacks.last_checkpoint import Interrupted
from s15erav3.session.run import stops_early


def test_a_signal_that_a_library_wraps_is_still_a_signal(tmp_path: Path) -> None:
    """pydantic reports whatever happens while it builds a schema as its own error."""

    def build() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            raise ValueError(str(error)) from error

    with pytest.raises(Interrupted) as stopped, stops_early(tmp_path):
        build()
    assert stopped.value.exit_status == 128 + signal.SIGTERM
    with pytest.raises(ValueError, match="ordinary"), stops_early(tmp_path):
        raise ValueError("ordinary")
