"""Multi-process training of one model: how ranks are started, monitor each other and end together."""

from __future__ import annotations

import os


def is_first_rank() -> bool:
    """Return whether this is rank 0, which alone writes files; the other ranks are started with a rank variable set."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))
