"""One ball's text taken apart, byte by byte."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from s15erav3.data.commentary import Ball, parse_events, take_apart


def ball(body: str, over: str = "13.4", header: str = "RCB 1st Inns") -> Ball:
    (event,) = parse_events(io.StringIO(f"{header}\n{over} overs\n{body}"), Path("written.txt"))
    return take_apart(event)


def pieces(text: str) -> list[tuple[str, str]]:
    """The named stretches of a ball's text, without those between."""
    (event,) = parse_events(io.StringIO(text), Path("written.txt"))
    spans = take_apart(event).spans
    ends = [start for start, _ in spans[1:]] + [len(text.encode())]
    cut = [(name, text.encode()[start:end].decode()) for (start, name), end in zip(spans, ends, strict=True)]
    assert "".join(piece for _, piece in cut) == text
    return [(name, piece) for name, piece in cut if name != "between"]


@pytest.mark.parametrize(
    ("over", "phase"),
    [("0.1", "powerplay"), ("5.5", "powerplay"), ("6.0", "powerplay"), ("6.1", "middle"), ("10.3", "middle"),
     ("15.0", "middle"), ("15.1", "death"), ("20.0", "death")],
)  # fmt: skip
def test_phases_end_with_the_last_ball_of_an_over(over: str, phase: str) -> None:
    """Catches 6.0 taken for the seventh over's first ball, and overs compared as text ("10.3" < "6.0")."""
    assert ball("A to B, FOUR, driven", over).phase == phase


@pytest.mark.parametrize(
    ("body", "event"),
    [
        ("A to B, FOUR, nowhere near a SIX, he could have been out Bowled!!", "FOUR"),
        ("A to B, SIX. That's dismissive", "SIX"),
        ("A to B, FOUR.. and it is usual business", "FOUR"),
        ("A to B, leg byes, FOUR, down leg", "FOUR"),
        ("A to B, no ball, SIX, oversteps", "SIX"),
        ("A to B, out Caught by Kedar Jadhav!! Six more FOUR more", "wicket"),
        ("A to B, wide, out Stumped!! Fast hands", "wicket"),
        ("A to B, out Kedar Jadhav Run Out!! 1 run completed.", "wicket"),
        ("A to B, 1 run, out of reach", "other"),
        ("A to B, no run, SIX needed", "other"),
        ("A to B, byes, 2 runs, FOUR saved", "other"),
        ("A to B, 5 wides, poor", "other"),
        ("A to B, gets it out of there. FOUR", "other"),
        ("", "unknown"),
        ("Rain stops play, they go to tea, FOUR", "unknown"),
    ],
)
def test_how_a_ball_ended(body: str, event: str) -> None:
    """Catches words of the commentary taken for the outcome, and extras that hide it."""
    assert ball(body).event == event


@pytest.mark.parametrize(
    ("body", "bowler", "batter"),
    [
        ("Nehra to Mandeep, FOUR, to the fence", "Nehra", "Mandeep"),
        ("Rashid Khan to de Villiers, SIX, x", "Rashid Khan", "de Villiers"),
        ("Stoinis to Tomar, SIX, x", "Stoinis", "Tomar"),
        ("D Arcy Short to Nate Hollis-Wray, 1 run, x", "D Arcy Short", "Nate Hollis-Wray"),
        ("Müller to Ngô, FOUR, x", "Müller", "Ngô"),
        ("A. Russell to O'Keefe, FOUR, x", "A. Russell", "O'Keefe"),
        ("What a day for all the people who came to B, FOUR, x", "unknown", "unknown"),
        ("Drinks, and Nehra to Mandeep, FOUR, x", "unknown", "unknown"),
    ],
)
def test_who_bowled_to_whom(body: str, bowler: str, batter: str) -> None:
    """Catches "to" found inside names, and sentences taken for names."""
    found = ball(body)
    assert (found.bowler, found.batter) == (bowler, batter)


def test_the_team_is_the_header_without_the_innings() -> None:
    """Catches the innings' number left in, and names of several words cut."""
    assert ball("", header="RCB 1st Inns").team == "RCB"
    assert ball("", header="Sri Lanka A 2nd Inns").team == "Sri Lanka A"


def test_every_byte_belongs_to_one_part() -> None:
    """Catches character offsets taken for bytes: é and € are longer."""
    assert pieces("RCB 1st Inns\n0.5 overs\nBoché to Ngô, out Lbw!! Caught € plumb.\n\n") == [
        ("header", "RCB 1st Inns"),
        ("over", "0.5 overs"),
        ("bowler", "Boché"),
        ("batter", " Ngô"),
        ("outcome", " out Lbw!!"),
        ("commentary", " Caught € plumb."),
    ]


def test_parts_of_untidy_text() -> None:
    """Blank lines, several lines of commentary, no space after an outcome, none at all, no commentary at all."""
    assert pieces("\n\nMI 1st Inns \n\n 0.5 overs\n\nA to B, FOUR.. and\nmore\n\nof it \n") == [
        ("header", "MI 1st Inns"),
        ("over", " 0.5 overs"),
        ("bowler", "A"),
        ("batter", " B"),
        ("outcome", " FOUR"),
        ("commentary", " and\nmore\n\nof it"),
    ]
    assert pieces("MI 1st Inns\n0.5 overs\nA to B, out Bowled!!\n\nGone")[-1] == ("commentary", "Gone")
    assert pieces("MI 1st Inns\n0.5 overs\nRain, rain, rain\n")[2:] == [("commentary", "Rain, rain, rain")]
    assert [name for name, _ in pieces("MI 1st Inns\n0.5 overs")] == ["header", "over"]
    assert pieces("MI 1st Inns\n0.5 overs\nA to B, SIX\n")[-1] == ("outcome", " SIX")
