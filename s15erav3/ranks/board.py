"""Shared memory through which the ranks of one machine exchange state, without messages or files left behind."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import tempfile
from typing import Any, Literal

Word = Literal["pid", "ticks", "moves", "told", "length"]
PLACE: dict[Word, int] = {"pid": 0, "ticks": 8, "moves": 16, "told": 24, "length": 32}
TEXT, ROOM = 64, 1 << 18
"""Bytes of a rank's section: offset of its report, and total size."""


class Board:
    """One section per rank, written by that rank only: its process id, two counters and a report.

    ``ticks`` increases while the process runs, ``moves`` while its main thread makes progress.

    Args:
        descriptor: of an unnamed file that child processes inherit.
        ranks: number of ranks.
    """

    def __init__(self, descriptor: int, ranks: int) -> None:
        self.descriptor, self.ranks = descriptor, ranks
        self._memory = mmap.mmap(descriptor, ranks * ROOM)

    @classmethod
    def new(cls, ranks: int) -> Board:
        """Create an empty board."""
        with tempfile.TemporaryFile() as file:
            file.truncate(ranks * ROOM)
            return cls(os.dup(file.fileno()), ranks)

    def get(self, rank: int, word: Word) -> int:
        """Return a number of a rank."""
        return int(struct.unpack_from("=q", self._memory, rank * ROOM + PLACE[word])[0])

    def put(self, rank: int, word: Word, number: int) -> None:
        """Set a number of a rank."""
        struct.pack_into("=q", self._memory, rank * ROOM + PLACE[word], number)

    def count(self, rank: int, word: Word) -> None:
        """Increment a number of a rank by one."""
        self.put(rank, word, self.get(rank, word) + 1)

    def report(self, rank: int, **report: str | int) -> None:
        """Store a report on how a rank ended; of a long text the end is kept."""
        room = (ROOM - TEXT) // 16
        text = json.dumps({k: v[-room:] if isinstance(v, str) else v for k, v in report.items()}).encode()
        start = rank * ROOM + TEXT
        self._memory[start : start + len(text)] = text
        self.put(rank, "length", len(text))  # written last, so that a reader never sees a partial report

    def reported(self, rank: int) -> dict[str, Any] | None:
        """Return a rank's report, if there is one."""
        length, start = self.get(rank, "length"), rank * ROOM + TEXT
        return json.loads(self._memory[start : start + length]) if length else None

    def first_to_tell(self) -> bool:
        """Return True once across all processes, so that a shared event is reported by one of them only."""
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
        try:
            first = not self.get(0, "told")
            self.put(0, "told", 1)
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)
        return first
