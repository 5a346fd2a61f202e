"""One ball taken apart: who bowled to whom, when, how it ended, and where each of that stands in the text."""

from __future__ import annotations

import re
from typing import NamedTuple

from s15erav3.data.corpus import Event

UNKNOWN = "unknown"

_NAME = r"[^\s,!?:;]+ (?: \ [^\s,!?:;]+ ){0,3}?"  # up to four words: no sentence passes for a name
# An innings line, an over line, then "Bowler to Batter, outcome, commentary"; blank lines and spaces may lie between.
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


class Ball(NamedTuple):
    """What one event says; what cannot be parsed is ``unknown``."""

    phase: str
    """powerplay (up to and with "6.0", the last ball of the sixth over), middle (up to "15.0") or death."""
    event: str
    """FOUR (off the bat or not), SIX, wicket or other."""
    team: str
    """The side at the bat: "RCB" of "RCB 1st Inns"."""
    bowler: str
    batter: str
    spans: tuple[tuple[int, str], ...]
    """First byte of each part of the text and the part's name, ascending. Between parts (", ", " to ", ends of
    lines) the name is ``between``. A space before a word belongs to the word, as in byte-pair vocabularies."""


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
        start += len(match[part]) - len(match[part].lstrip())  # the commentary's pattern takes white space along
        start -= start > end and text[start - 1] == " "
        spans += [(end, "between")] * (start > end) + [(start, part)]
        end = stop
    spans += [(end, "between")] * (end < len(text))
    return tuple((len(text[:at].encode()), name) for at, name in spans)
