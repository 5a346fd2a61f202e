"""Ball-by-ball commentary: events, innings, and parsing of a single ball."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from s15erav3.data.messages import shown
from s15erav3.data.reading import read_lines
from s15erav3.data.rows import has_rows
from s15erav3.errors import UserError

UNKNOWN = "unknown"

_HEADER = re.compile(r"^\S.* \d(?:st|nd|rd|th) Inns\s*$")
_OVER = re.compile(r"^(\d{1,4})\.(\d{1,4}) overs?\s*$")  # int() limits the number of digits
_NAME = r"[^\s,!?:;]+ (?: \ [^\s,!?:;]+ ){0,3}?"  # up to four words, so that no sentence matches as a name
# An innings line, an over line, then "Bowler to Batter, outcome, commentary"; blank lines and spaces may be in between.
_BALL = re.compile(
    rf"""
    \s* (?P<header> (?P<team> \S.* )\ \d(?:st|nd|rd|th)\ Inns ) \s*? \n
    \s* (?P<over> (?P<completed> \d{{1,4}} ) \. (?P<balls> \d{{1,4}} )\ overs? ) [^\S\n]* (?: \n | $ )
    \s* (?:
        (?P<bowler> {_NAME} )\ to\ (?P<batter> {_NAME} ),\s
        (?P<outcome>
            (?: (?: leg\ byes | byes | no\ ball | wide ),\  )?
            (?: out\ [^!\n]*!! | (?: FOUR | SIX )\b | no\ run | \d+\ (?: runs? | wides? ) )
            | [^,.!\n]+
        ) [,.!]*
    )?
    (?P<commentary> [\s\S]*\S )?
    """,
    re.VERBOSE,
)
_WICKET = re.compile(r"(?:^|, )out ")
PARTS = ("header", "over", "bowler", "batter", "outcome", "commentary")


class Event(NamedTuple):
    """One ball: its innings header ("MI 1st Inns"), over ("13.4"), commentary and source lines."""

    header: str
    over: str
    body: str
    text: str


class Ball(NamedTuple):
    """Parsed fields of one event; ``unknown`` where parsing fails."""

    phase: str
    """powerplay (up to and including "6.0", the last ball of the sixth over), middle (up to "15.0") or death."""
    event: str
    """FOUR (off the bat or not), SIX, wicket or other."""
    team: str
    """The batting side: "RCB" in "RCB 1st Inns"."""
    bowler: str
    batter: str
    spans: tuple[tuple[int, str], ...]
    """First byte and name of each part of the text, ascending. Separators (", ", " to ", line ends) are named
    ``between``. A space before a word belongs to the word, as in byte-pair vocabularies."""


def is_commentary(path: Path) -> bool:
    """Whether a file starts like ball-by-ball commentary, with an innings line and an over line."""
    if not os.path.isfile(path) or has_rows(path):
        return False
    written = [line for line in itertools.islice(read_lines(path), 10) if not line.isspace()]
    return len(written) > 1 and bool(_HEADER.match(written[0]) and _OVER.match(written[1]))


def parse_events(lines: Iterable[str], source: Path) -> Iterator[Event]:
    """Parse commentary lines into events: a header line, an over line, then text up to the next header.

    Blank lines between them, several lines of text and a missing final newline are all accepted; every
    line belongs to exactly one event.

    Raises:
        UserError: the text does not start with an innings header and an over.
    """
    block: list[str] = []
    for line in lines:
        if _OVER.match(line):
            # A line is a header only if an over follows: commentary can also end with "1st Inns".
            written = [i for i, earlier in enumerate(block) if not earlier.isspace()]
            if len(written) > 1 and _HEADER.match(block[written[-1]]):
                yield _event(block[: written[-1]], source)
                block = block[written[-1] :]
        block.append(line)
    if block:
        yield _event(block, source)


def _event(block: list[str], source: Path) -> Event:
    said = [line.strip() for line in block if not line.isspace()]
    over = _OVER.match(said[1]) if len(said) > 1 else None
    if not _HEADER.match(said[0]) or over is None:
        raise UserError(
            f"data.path={shown(source)} is not ball-by-ball commentary: expected an innings line ('MI 1st Inns') and "
            f"an over line ('13.4 overs'), found {said[0][:60]!r}; read other text with data=text."
        )
    return Event(said[0], f"{over[1]}.{over[2]}", " ".join(said[2:]), "".join(block))


def innings(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Group consecutive events by innings.

    Overs are in play order or, as scraped, in text order ("1.0", "10.0", "2.0"). A new innings of the same
    side starts where the over decreases in both orders.
    """
    current: list[Event] = []
    for event in events:
        if current:
            last = current[-1]
            fell = _number(event.over) < _number(last.over) and event.over < last.over
            if event.header != last.header or fell:
                yield current
                current = []
        current.append(event)
    if current:
        yield current


def _number(over: str) -> tuple[int, int]:
    completed, balls = over.split(".")
    return int(completed), int(balls)


def take_apart(event: Event) -> Ball:
    """Parse one event; its text is UTF-8 as in a corpus."""
    match = _BALL.match(event.text)
    said = match.groupdict() if match else {}
    outcome = said.get("outcome")
    completed = (int(said["completed"]), int(said["balls"])) if match else None
    return Ball(
        phase=_phase(completed) if completed else UNKNOWN,
        event=_ending(outcome) if outcome else UNKNOWN,
        team=said.get("team") or UNKNOWN,
        bowler=said.get("bowler") or UNKNOWN,
        batter=said.get("batter") or UNKNOWN,
        spans=_spans(event.text, match) if match else ((0, UNKNOWN),),
    )


def _phase(over: tuple[int, int]) -> str:
    return "powerplay" if over <= (6, 0) else "middle" if over <= (15, 0) else "death"


def _ending(outcome: str) -> str:
    if _WICKET.search(outcome):
        return "wicket"
    last = outcome.rpartition(", ")[2]
    return last if last in ("FOUR", "SIX") else "other"


def _spans(text: str, match: re.Match[str]) -> tuple[tuple[int, str], ...]:
    spans, end = [], 0
    for part in PARTS:
        if match[part] is None:
            continue
        start, stop = match.span(part)
        start += len(match[part]) - len(match[part].lstrip())  # the commentary pattern includes leading white space
        start -= start > end and text[start - 1] == " "
        spans += [(end, "between")] * (start > end) + [(start, part)]
        end = stop
    spans += [(end, "between")] * (end < len(text))
    return tuple((len(text[:at].encode()), name) for at, name in spans)
