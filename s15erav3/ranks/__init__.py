"""Several processes that train one model: how they are started, watch each other and end together."""

from __future__ import annotations

import os


def is_first_rank() -> bool:
    """Whether this process is the one that writes; the other ranks of a distributed run are started with a rank."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "RANK"))
