"""Which errors only say that another rank is gone."""

from __future__ import annotations

import sys

SPOKEN = ("gloo", "nccl", "c10d", "tcpstore", "connection closed by peer", "connection reset")
"""What torch.distributed says of it, where it has no type of its own for it."""


def lost(error: BaseException) -> bool:
    """Whether a collective failed, for which another process is to blame: its end is the cause."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None:  # a rank that has not come that far
        return False
    if isinstance(error, distributed.DistError):
        return True
    return type(error) is RuntimeError and any(word in str(error).lower() for word in SPOKEN)
