"""``progress.json``: a run's progress, and the process that is running it."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from s15erav3.files import replace_text


def beat(run_dir: Path, progress: dict[str, Any]) -> None:
    """Write ``progress.json`` atomically, with this process's id and host, and the time."""
    signed = progress | {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    replace_text(run_dir / "progress.json", json.dumps(signed) + "\n")


def is_alive(progress: dict[str, Any]) -> bool:
    """Return whether the process that writes ``progress.json`` is running.

    On this machine its process id decides, on another one whether it has written within ten minutes.

    Raises:
        ValueError, TypeError: a field that must be a number is not.
    """
    if not progress:
        return False
    wrote = float(progress.get("time", 0))
    if progress.get("host") != socket.gethostname():
        return time.time() - wrote < 600
    number = int(progress.get("pid", 0))
    try:
        return number > 0 and psutil.Process(number).create_time() <= wrote + 1  # process ids are reused
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, OverflowError):
        return False
