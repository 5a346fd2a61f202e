"""The bundled sample corpus: written by its script to the byte, and cricket all the way through."""

from __future__ import annotations

import importlib.util
import itertools
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "s15erav3" / "data" / "sample" / "commentary.txt"

NAME = r"[A-Z][A-Za-z-]*(?: [A-Z][A-Za-z-]*)?"
OUTCOME = (
    rf"FOUR, |SIX, |no run, |1 run, |2 runs, |wide, |leg byes, FOUR, |leg byes, 1 run, "
    rf"|out Caught by {NAME}!! |out (?:Bowled|Lbw|Stumped|Caught&Bowled)!! "
    rf"|out {NAME} Run Out!! (?:1 run completed\. )?"
)
EVENT = re.compile(
    rf"(?P<team>[A-Z]{{3}}) (?P<innings>1st|2nd) Inns\n"
    rf"(?P<over>\d+)\.(?P<ball>\d) overs\n"
    rf"(?P<bowler>{NAME}) to (?P<striker>{NAME}), (?P<outcome>{OUTCOME})(?P<body>\S.+\S)"
)
FIGURES = re.compile(
    rf"(?P<out>{NAME}) (?:c {NAME} b {NAME}|c and b {NAME}|b {NAME}|lbw b {NAME}|st {NAME} b {NAME}"
    rf"|run out \({NAME}\)) (?P<runs>\d+)\((?P<balls>\d+)\)"
    r"(?: \[(?:4s-(?P<fours>\d+))? ?(?:6s-(?P<sixes>\d+))?\])?$"
)


@dataclass(frozen=True)
class Event:
    """One event of the text, taken apart; `out` is the dismissal line's match, if there is one."""

    key: tuple[str, str]
    number: int
    bowler: str
    striker: str
    outcome: str
    body: str
    out: re.Match[str] | None


def parse(text: str) -> Event:
    match = EVENT.fullmatch(text)
    assert match, text
    over, ball = int(match["over"]), int(match["ball"])
    assert ball <= 5, text
    outcome, body = match["outcome"], match["body"]
    out = FIGURES.search(body) if outcome.startswith("out ") else None
    assert bool(out) == outcome.startswith("out "), text
    key = (match["team"], match["innings"])
    return Event(key, over * 6 + ball, match["bowler"], match["striker"], outcome, body, out)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The generator, imported from its path as it is no package."""
    folder = ROOT / "scripts"
    spec = importlib.util.spec_from_file_location("make_sample_corpus", folder / "make_sample_corpus.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text() -> str:
    return BUNDLED.read_bytes().decode("ascii")


@pytest.fixture(scope="module")
def innings(text: str) -> list[list[Event]]:
    events = [parse(event) for event in text.rstrip("\n").split("\n\n")]
    return [list(group) for _, group in itertools.groupby(events, key=lambda event: event.key)]


def test_script_writes_the_bundled_bytes(script: ModuleType) -> None:
    """The default seed and size give exactly the file in the package."""
    made = script.make_corpus(script.DEFAULT_SEED, script.DEFAULT_KILOBYTES)
    assert made.encode("ascii") == BUNDLED.read_bytes()


def test_seed_and_size_matter(script: ModuleType) -> None:
    """A seed repeats itself, another seed does not, and the size asked for is reached by whole matches."""
    small = script.make_corpus(1, 10)
    assert small == script.make_corpus(1, 10)
    assert small != script.make_corpus(2, 10)
    assert 10_000 <= len(small) < 40_000


def test_size_and_ending(text: str) -> None:
    """400 to 600 KB of printable ASCII ending in one newline, with no slip of the phrase machinery in it."""
    assert 400_000 <= len(text) <= 600_000
    assert re.fullmatch(r"[\n -~]+", text)
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert not re.search(r"  | \n|\{|\}|\.\.| [,.!]|None", text)
    assert not re.search(r"\b(\w+) \1\b|\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", text)


def test_every_event_has_three_lines(text: str) -> None:
    """Team and innings, overs, then the ball: checked by the parser that all other tests rest on."""
    events = text.rstrip("\n").split("\n\n")
    assert all(event.count("\n") == 2 for event in events)
    assert all(EVENT.fullmatch(event) for event in events)


def test_innings_alternate(innings: list[list[Event]]) -> None:
    """Every match is a first innings and then a second by another side."""
    keys = [events[0].key for events in innings]
    assert [ordinal for _, ordinal in keys] == ["1st", "2nd"] * (len(keys) // 2)
    assert all(first[0] != second[0] for first, second in zip(keys[::2], keys[1::2], strict=True))


def test_overs_run_forward(innings: list[list[Event]]) -> None:
    """Balls go from 0.1 to 20.0 and never back; only a wide may share its number with the next ball."""
    for events in innings:
        assert events[0].number >= 1 and events[-1].number <= 120
        for one, two in itertools.pairwise(events):
            assert one.number < two.number or (one.number == two.number and one.outcome == "wide, ")


def test_bowlers_keep_to_their_overs(innings: list[list[Event]]) -> None:
    """One man bowls an over, nobody two running, nobody more than four."""
    for events in innings:
        overs: dict[int, set[str]] = {}
        for event in events:
            overs.setdefault((event.number - 1) // 6, set()).add(event.bowler)
        assert all(len(bowlers) == 1 for bowlers in overs.values())
        assert all(overs[over] != overs.get(over + 1) for over in overs)
        assert max(Counter(name for bowlers in overs.values() for name in bowlers).values()) <= 4


def test_at_most_ten_wickets(innings: list[list[Event]]) -> None:
    """An innings ends with the tenth wicket, and some innings do lose many."""
    fallen = [sum(event.out is not None for event in events) for events in innings]
    assert max(fallen) <= 10
    assert max(fallen) >= 8
    assert all(events[-1].out for events, wickets in zip(innings, fallen, strict=True) if wickets == 10)


def test_dismissal_figures_add_up(innings: list[list[Event]]) -> None:
    """Runs lie between the boundaries and six a ball; the fours and sixes are those told in the innings."""
    for events in innings:
        hit: Counter[tuple[str, str]] = Counter()
        for event in events:
            hit[event.striker, event.outcome] += 1
            if event.out:
                name, runs, balls, fours, sixes = event.out.group("out", "runs", "balls", "fours", "sixes")
                assert 4 * int(fours or 0) + 6 * int(sixes or 0) <= int(runs) <= 6 * int(balls), event
                assert hit[name, "FOUR, "] == int(fours or 0), event
                assert hit[name, "SIX, "] == int(sixes or 0), event


def test_nobody_bats_after_he_is_out(innings: list[list[Event]]) -> None:
    """A man dismissed never faces again, nor is out twice; eleven bat at the most."""
    for events in innings:
        gone: set[str] = set()
        for event in events:
            assert event.striker not in gone, event
            if event.out:
                assert event.out["out"] not in gone, event
                gone.add(event.out["out"])
        assert len(gone | {event.striker for event in events}) <= 11


def test_scores_told_agree_with_wickets_told(innings: list[list[Event]]) -> None:
    """Where the text says "93 for 3", three wickets have been told, and the score never goes down."""
    checked = 0
    for events in innings:
        wickets = score = 0
        for event in events:
            wickets += event.out is not None
            for runs, lost in re.findall(r"\b(\d+) for (\d+)\b(?! so far)", event.body):
                assert int(lost) == wickets and int(runs) >= score, event
                score = int(runs)
                checked += 1
    assert checked > 100


def test_chase_stops_at_the_target(script: ModuleType) -> None:
    """The runs of the balls make the score, and the ball that passes the target is the last."""
    chased = 0
    for first, second in itertools.islice(script.play_season(script.DEFAULT_SEED), 25):
        target = first[-1].score + 1
        for balls in (first, second):
            assert [ball.score for ball in balls] == list(itertools.accumulate(ball.runs for ball in balls))
            assert [ball.closing for ball in balls] == [False] * (len(balls) - 1) + [True]
        assert all(ball.target == target for ball in second)
        assert all(ball.score < target for ball in second[:-1])
        chased += second[-1].score >= target
    assert 3 <= chased <= 22


def test_result_is_the_last_thing_told(innings: list[list[Event]]) -> None:
    """A result is announced with the last event of each match and with no other."""
    result = re.compile(
        r"win by|winners by|short of a tie|chase down|get there by|home by|over the line|It is a tie|"
        r"Both sides finish"
    )
    for events in innings:
        told = [bool(result.search(event.body)) for event in events]
        assert told == [False] * (len(told) - 1) + [events[0].key[1] == "2nd"], events[-1]


def test_variations_belong_to_the_bowler(script: ModuleType, innings: list[list[Event]]) -> None:
    """No googly but from a leg-spinner, no carrom ball but from an off-spinner, no cutter from either."""
    first, _ = next(script.play_season(script.DEFAULT_SEED))
    match = sys.modules[script.play_season.__module__]
    league = match.make_league(random.Random(script.DEFAULT_SEED))
    trades = {player.name: player.trade for club in league for player in club.squad}
    assert trades[first[0].bowler.name] == first[0].bowler.trade
    owners = {
        "googly": "leg-spin",
        "flipper": "leg-spin",
        "carrom": "off-spin",
        "undercutter": "left-arm orthodox",
    }
    seen: Counter[str] = Counter()
    for event in itertools.chain.from_iterable(innings):
        for word, owner in owners.items():
            if word in event.body.lower():
                assert trades[event.bowler] == owner, event
                seen[word] += 1
        if re.search(r"off-cutter|leg-cutter|yorker|bouncer|swinger", event.body):
            assert "quick" in trades[event.bowler], event
            seen["pace"] += 1
    assert all(seen[word] for word in (*owners, "pace"))


def test_bodies_hardly_repeat(innings: list[list[Event]]) -> None:
    """Fewer than one body in a hundred is told twice, even with every name and number blanked out."""
    events = list(itertools.chain.from_iterable(innings))
    names = {name.split()[-1] for event in events for name in (event.striker, event.bowler)}
    blank = re.compile(r"\b(?:" + "|".join(sorted(names, key=len, reverse=True)) + r")\b|\d+")
    assert len({event.body for event in events}) > 0.99 * len(events)
    assert len({blank.sub("_", event.body) for event in events}) > 0.97 * len(events)


def test_outcomes_have_their_usual_shares(innings: list[list[Event]]) -> None:
    """Fours near 45 %, sixes near 22 %, wickets near 20 %, and about thirty events an innings."""
    events = list(itertools.chain.from_iterable(innings))
    count = Counter(event.outcome.split()[0].rstrip(",") for event in events)
    assert 0.40 <= count["FOUR"] / len(events) <= 0.50
    assert 0.18 <= count["SIX"] / len(events) <= 0.26
    assert 0.17 <= count["out"] / len(events) <= 0.24
    assert 25 <= len(events) / len(innings) <= 36
