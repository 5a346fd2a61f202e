"""The memory that ranks share."""

from __future__ import annotations

import os

from s15erav3.ranks.board import ROOM, Board


def test_what_one_writes_the_other_reads() -> None:
    """Through a descriptor, as a started process inherits it; each rank has a part of its own."""
    one = Board.new(3)
    other = Board(os.dup(one.descriptor), 3)
    one.put(0, "pid", 41)
    other.count(2, "moves")
    other.count(2, "moves")
    assert (other.get(0, "pid"), one.get(2, "moves"), one.get(1, "moves")) == (41, 2, 0)
    assert one.reported(2) is None
    other.report(2, kind="bug", reason="é" * ROOM, status=1, trace="the end of it")
    found = one.reported(2)
    assert found and found["trace"] == "the end of it" and set(found["reason"]) == {"é"}
    assert one.reported(1) is None


def test_one_tells() -> None:
    """What happened to all is not told by each."""
    one = Board.new(2)
    other = Board(os.dup(one.descriptor), 2)
    assert [other.first_to_tell(), one.first_to_tell(), other.first_to_tell()] == [True, False, False]
