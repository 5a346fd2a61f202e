"""What the ranks of one machine show each other, in memory that they share: nothing is sent, and nothing is left."""

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
"""Bytes of a rank's part: where its report begins, and all."""


class Board:
    """One part for each rank, which that rank alone writes: its process, two counters and a report.

    ``ticks`` counts as long as the process runs, ``moves`` as long as its main thread gets on.

    Args:
        descriptor: of a file, which processes inherit and which has no name.
        ranks: how many.
    """

    def __init__(self, descriptor: int, ranks: int) -> None:
        self.descriptor, self.ranks = descriptor, ranks
        self._memory = mmap.mmap(descriptor, ranks * ROOM)

    @classmethod
    def new(cls, ranks: int) -> Board:
        """An empty one."""
        with tempfile.TemporaryFile() as file:
            file.truncate(ranks * ROOM)
            return cls(os.dup(file.fileno()), ranks)

    def get(self, rank: int, word: Word) -> int:
        """A number of a rank."""
        return int(struct.unpack_from("=q", self._memory, rank * ROOM + PLACE[word])[0])

    def put(self, rank: int, word: Word, number: int) -> None:
        """Replace it."""
        struct.pack_into("=q", self._memory, rank * ROOM + PLACE[word], number)

    def count(self, rank: int, word: Word) -> None:
        """Add one to it."""
        self.put(rank, word, self.get(rank, word) + 1)

    def report(self, rank: int, **report: str | int) -> None:
        """Leave word of how a rank ended; of a long text the last part is kept."""
        room = (ROOM - TEXT) // 16
        text = json.dumps({k: v[-room:] if isinstance(v, str) else v for k, v in report.items()}).encode()
        start = rank * ROOM + TEXT
        self._memory[start : start + len(text)] = text
        self.put(rank, "length", len(text))  # last: what is read is whole

    def reported(self, rank: int) -> dict[str, Any] | None:
        """What a rank left, if it did."""
        length, start = self.get(rank, "length"), rank * ROOM + TEXT
        return json.loads(self._memory[start : start + length]) if length else None

    def first_to_tell(self) -> bool:
        """True once, in one of the processes: what befell all is told by one."""
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
        try:
            first = not self.get(0, "told")
            self.put(0, "told", 1)
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)
        return first
