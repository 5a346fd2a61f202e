"""Write the sample corpus: ball-by-ball commentary on an invented Twenty20 league.

A language-model framework needs something to train on the moment it is cloned, and real commentary belongs to
other people. So matches of a made-up league are played here ball by ball, and the notable balls are told with
phrases put together by rule, from `sample_phrases.toml`. The text has structure worth learning at every distance:
spelling and grammar, which stroke suits which ball, who is batting, the over count, and the figures in a dismissal,
which add up.

    python scripts/make_sample_corpus.py [--seed N] [--kilobytes N] [--out PATH]

The same seed writes the same bytes: two `random.Random`, one for the play and one for the telling, are drawn
from in a fixed order, and no set is ever iterated over.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_SEED = 2024
DEFAULT_KILOBYTES = 500
BUNDLED = Path(__file__).resolve().parents[1] / "s15erav3" / "data" / "sample" / "commentary.txt"

BALLS = 120
OVER = 6
POWERPLAY = 36
DEATH = 96
QUOTA = 4

Rules = Mapping[str, Sequence[str]]
WORDS = tomllib.loads(Path(__file__).with_name("sample_phrases.toml").read_text(encoding="ascii"))
PHRASES: dict[str, list[str]] = WORDS["phrases"]


# --- who plays ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Player:
    """A cricketer: how he bats, what he bowls (if anything), and how good he is at each (1.0 is average)."""

    name: str
    style: str
    hand: str
    batting: float
    trade: str | None = None
    bowling: float = 1.0

    @property
    def short(self) -> str:
        """The last name, as commentators say it."""
        return self.name.split()[-1]

    @property
    def kind(self) -> str:
        """Which set of delivery tables his bowling is told from."""
        return "pace" if self.trade in ("right-arm quick", "left-arm quick") else "spin"


@dataclass(frozen=True)
class Club:
    """A side of the league with its whole squad: five batters, a keeper, two all-rounders, five bowlers."""

    code: str
    town: str
    nick: str
    squad: tuple[Player, ...]


TOP_STYLES = ("driver", "accumulator", "puller", "sweeper", "driver", "finisher", "finisher", "puller")
TRADES = ("right-arm quick", "leg-spin", "left-arm quick", "off-spin", "left-arm orthodox")
BATTERS, KEEPER, ALL_ROUNDERS = 5, 5, 8  # ends of the groups in a squad; the keeper stands alone at index 5


def make_player(name: str, place: int, club: int, rng: random.Random) -> Player:
    """Give the man at `place` in the squad a role; styles and trades shift by club so that sides differ."""
    hand = "left" if rng.random() < 0.3 else "right"
    form = rng.uniform(0.85, 1.2)
    if place < BATTERS or place == KEEPER:
        return Player(name, TOP_STYLES[(place + club) % len(TOP_STYLES)], hand, form)
    trade = TRADES[(place + club) % len(TRADES)]
    if place < ALL_ROUNDERS:
        return Player(name, TOP_STYLES[(place + club) % len(TOP_STYLES)], hand, form * 0.9, trade, 0.95)
    if place in (8, 12):  # every side has two men for the new ball
        trade = TRADES[2 * (club % 2)]
    return Player(name, "tailender", hand, form * 0.6, trade, rng.uniform(0.95, 1.2))


def make_league(rng: random.Random) -> list[Club]:
    """All ten clubs."""
    return [
        Club(code, town, nick, tuple(make_player(n, i, c, rng) for i, n in enumerate(f"{top}, {rest}".split(", "))))
        for c, (code, town, nick, top, rest) in enumerate(WORDS["clubs"])
    ]


def pick_eleven(club: Club, rng: random.Random) -> list[Player]:
    """Eleven of thirteen in batting order: one batter and one bowler sit out."""
    rested = (rng.randrange(BATTERS), rng.randrange(ALL_ROUNDERS, len(club.squad)))
    return [p for i, p in enumerate(club.squad) if i not in rested]


# --- the ground and the strokes -------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """A part of the ground: how a ball goes along it, over its ring, over its rope, and the posts there."""

    through: list[str]
    chip: list[str]
    over: list[str]
    ring: str
    deep: str


@dataclass(frozen=True)
class Shot:
    """A stroke, the balls it can be played to, and where it goes along the ground and in the air."""

    noun: str
    kinds: str
    lengths: str
    lines: str
    ground: str = ""
    air: str = ""
    strokes: Sequence[str] = ()
    done: Sequence[str] = ()
    lofts: Sequence[str] = ()
    lofted: Sequence[str] = ()


REGIONS = {name: Region(**region) for name, region in WORDS["regions"].items()}
NOWHERE = REGIONS["straight"]  # for balls that never reach the field
SHOTS = [Shot(**shot) for shot in WORDS["shots"]]


# --- the match ------------------------------------------------------------------------------------------


@dataclass
class Card:
    """A batter's running figures."""

    runs: int = 0
    balls: int = 0
    fours: int = 0
    sixes: int = 0

    def __str__(self) -> str:
        marks = [f"{n}s-{count}" for n, count in ((4, self.fours), (6, self.sixes)) if count]
        return f"{self.runs}({self.balls})" + (f" [{' '.join(marks)}]" if marks else "")


@dataclass
class Spell:
    """A bowler's running figures; `streak` counts wickets with successive balls."""

    overs: int = 0
    conceded: int = 0
    wickets: int = 0
    streak: int = 0


@dataclass(frozen=True)
class Ball:
    """One ball and everything true just after it; `before` fields are the state it found."""

    batting: Club
    fielding: Club
    innings: int
    number: int  # 1..120; a wide carries the number of the ball it has to be bowled again as
    striker: Player
    partner: Player
    bowler: Player
    keeper: Player
    posts: Mapping[str, Player]
    kind: str
    runs: int
    how: str
    out: Player | None
    figures: str
    score: int
    wickets: int
    target: int | None
    striker_runs: int
    striker_runs_before: int
    striker_balls: int
    stand: int
    stand_before: int
    over_runs: int
    boundary_streak: int
    first_of_kind: bool
    spell_over: int
    spell_conceded: int
    spell_wickets: int
    spell_streak: int
    closing: bool

    @property
    def left(self) -> int:
        """Legal balls still to come."""
        return BALLS - self.number + (self.kind == "wide")

    @property
    def need(self) -> int:
        """Runs still wanted in a chase (0 in a first innings)."""
        return max(0, self.target - self.score) if self.target is not None else 0

    @property
    def ends_over(self) -> bool:
        return self.number % OVER == 0 and self.kind != "wide"

    @property
    def overs(self) -> str:
        """The over count as scorers show it: the sixth ball of an over turns it to the next whole number."""
        return f"{self.number // OVER}.{self.number % OVER}"


# Chances per ball out of 1000, by phase: dot, 1, 2, 4, 6, wicket, wide, leg bye, four leg byes.
KINDS = ("dot", "one", "two", "four", "six", "wicket", "wide", "leg_bye", "leg_bye_four")
CHANCES = {
    "powerplay": (395, 300, 50, 140, 40, 42, 22, 9, 2),
    "middle": (290, 440, 80, 90, 45, 40, 14, 9, 2),
    "death": (225, 370, 95, 115, 90, 78, 18, 7, 2),
}
RUNS = {
    "dot": 0,
    "one": 1,
    "two": 2,
    "four": 4,
    "six": 6,
    "wicket": 0,
    "wide": 1,
    "leg_bye": 1,
    "leg_bye_four": 4,
}
BAT_RUNS = ("one", "two", "four", "six")
DISMISSALS = {
    "caught": 62,
    "keeper": 10,
    "bowled": 15,
    "lbw": 8,
    "caught and bowled": 4,
    "run out": 7,
    "stumped": 0,
}


def phase(number: int) -> str:
    """Which part of the innings ball `number` belongs to."""
    return "powerplay" if number <= POWERPLAY else "middle" if number <= DEATH else "death"


@dataclass
class Innings:
    """One side's twenty overs; `play` yields every ball."""

    batting: Club
    fielding: Club
    order: list[Player]
    field_side: list[Player]
    rng: random.Random
    innings: int = 1
    target: int | None = None
    number: int = 0
    score: int = 0
    wickets: int = 0
    stand: int = 0
    over_runs: int = 0
    boundary_streak: int = 0
    seen: set[str] = field(default_factory=set)
    cards: dict[str, Card] = field(default_factory=dict)
    posts: dict[str, Player] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.striker, self.partner, *self.queue = self.order
        self.keeper = self.field_side[KEEPER - 1]  # one batter ahead of him sits out
        self.spells = {p.name: Spell() for p in self.field_side if p.trade}

    def play(self) -> Iterator[Ball]:
        """Bowl until the overs, the wickets or the target run out."""
        last: Player | None = None
        while not self.finished:
            self.bowler = self.next_bowler(last)
            self.spell.overs += 1
            self.over_runs = self.boundary_streak = 0
            self.set_field()
            bowled = 0
            while bowled < OVER and not self.finished:
                ball = self.bowl()
                bowled += ball.kind != "wide"
                yield ball
            self.striker, self.partner = self.partner, self.striker
            last = self.bowler

    @property
    def finished(self) -> bool:
        won = self.target is not None and self.score >= self.target
        return won or self.wickets == 10 or self.number == BALLS

    @property
    def spell(self) -> Spell:
        return self.spells[self.bowler.name]

    def next_bowler(self, last: Player | None) -> Player:
        """Choose by quality and phase among those who may bowl and leave the other overs coverable."""
        bowlers = [p for p in self.field_side if p.trade]
        able = [p for p in bowlers if p is not last and self.spells[p.name].overs < QUOTA and self.coverable(p)]
        quick = {"powerplay": 2.5, "middle": 0.7, "death": 2.0}[phase(self.number + 1)]
        return self.rng.choices(able, [p.bowling * p.bowling * (quick if p.kind == "pace" else 1.0) for p in able])[0]

    def coverable(self, now: Player) -> bool:
        """Whether quotas still stretch to the end if `now` bowls: nobody may take two overs running."""
        to_come = (BALLS - self.number) // OVER - 1
        total = 0
        for name, spell in self.spells.items():
            mine = name == now.name
            most = to_come // 2 if mine else (to_come + 1) // 2
            total += min(QUOTA - spell.overs - mine, most)
        return total >= to_come

    def set_field(self) -> None:
        """Post the nine who neither bowl nor keep; they hold their posts for the over."""
        nine = [p for p in self.field_side if p is not self.bowler and p is not self.keeper]
        posts = [post for region in REGIONS.values() for post in (region.ring, region.deep)]
        start = self.number // OVER // 5  # the captain shuffles his field now and then
        self.posts = {post: nine[(i + start) % len(nine)] for i, post in enumerate(posts)}

    def choose_kind(self) -> str:
        """Draw what happens, given phase, batter, bowler and (in a chase) how much risk is called for."""
        base: dict[str, float] = dict(zip(KINDS, CHANCES[phase(self.number + 1)], strict=True))
        bat, bowl, risk = self.striker.batting, self.bowler.bowling, self.risk()
        base["four"] *= bat / bowl * risk
        base["six"] *= bat * bat / bowl * risk * (1.4 if self.striker.style in ("finisher", "puller") else 0.9)
        base["wicket"] *= bowl / bat * risk
        return self.rng.choices(KINDS, [base[k] for k in KINDS])[0]

    def risk(self) -> float:
        """Above 1 when the required rate forces the pace, below 1 when it does not or wickets are short."""
        caution = 0.85 if self.wickets >= 5 and self.number < DEATH else 1.0
        if self.target is None:
            return caution
        rate = OVER * (self.target - self.score) / (BALLS - self.number)
        return caution * min(1.5, max(0.75, rate / 8.5))

    def choose_dismissal(self) -> str:
        """How the wicket falls; only a slow bowler's victim can be stumped."""
        odds = dict(DISMISSALS)
        if self.bowler.kind == "spin":
            odds["stumped"] = 8
        return self.rng.choices(list(odds), list(odds.values()))[0]

    def bowl(self) -> Ball:
        """Play one ball: draw it, book it, and describe it with the state before and after."""
        kind = self.choose_kind()
        how = self.choose_dismissal() if kind == "wicket" else ""
        striker, partner = self.striker, self.partner
        card = self.cards.setdefault(striker.name, Card())
        self.cards.setdefault(partner.name, Card())
        runs_before, stand_before = card.runs, self.stand
        runs = RUNS[kind]
        if how == "run out" and (self.target is None or self.target - self.score > 1):
            runs = self.rng.randrange(2)
        first_of_kind = kind not in self.seen
        self.seen.add(kind)
        self.book(kind, how, runs, card)
        out = self.dismissed(how)
        ball = Ball(
            batting=self.batting,
            fielding=self.fielding,
            innings=self.innings,
            number=self.number + (kind == "wide"),
            striker=striker,
            partner=partner,
            bowler=self.bowler,
            keeper=self.keeper,
            posts=self.posts,
            kind=kind,
            runs=runs,
            how=how,
            out=out,
            figures=str(self.cards[out.name]) if out else "",
            score=self.score,
            wickets=self.wickets,
            target=self.target,
            striker_runs=card.runs,
            striker_runs_before=runs_before,
            striker_balls=card.balls,
            stand=self.stand,
            stand_before=stand_before,
            over_runs=self.over_runs,
            boundary_streak=self.boundary_streak,
            first_of_kind=first_of_kind,
            spell_over=self.spell.overs,
            spell_conceded=self.spell.conceded,
            spell_wickets=self.spell.wickets,
            spell_streak=self.spell.streak,
            closing=self.finished,
        )
        self.move_on(kind, runs, out)
        return ball

    def book(self, kind: str, how: str, runs: int, card: Card) -> None:
        """Enter the ball on every card it touches."""
        self.score += runs
        self.stand += runs
        self.over_runs += runs
        self.boundary_streak = self.boundary_streak + 1 if kind in ("four", "six") else 0
        if not kind.startswith("leg_bye"):
            self.spell.conceded += runs
        if kind == "wide":
            return
        self.number += 1
        card.balls += 1
        if kind in BAT_RUNS or how == "run out":
            card.runs += runs
        card.fours += kind == "four"
        card.sixes += kind == "six"
        taken = kind == "wicket" and how != "run out"
        self.wickets += kind == "wicket"
        self.spell.wickets += taken
        self.spell.streak = self.spell.streak + 1 if taken else 0

    def dismissed(self, how: str) -> Player | None:
        """Who is out: the striker, unless the two of them got in a tangle."""
        if not how:
            return None
        return self.partner if how == "run out" and self.rng.random() < 0.4 else self.striker

    def move_on(self, kind: str, runs: int, out: Player | None) -> None:
        """Bring the next man in, or change ends.

        A run-out man is replaced where he stood: he was sent back, or coming back for a second.
        """
        if out is None:
            if runs % 2 and kind != "wide":
                self.striker, self.partner = self.partner, self.striker
            return
        self.stand = 0
        if self.wickets == 10:
            return
        arrival = self.queue.pop(0)
        if out is self.striker:
            self.striker = arrival
        else:
            self.partner = arrival


def play_match(home: Club, away: Club, rng: random.Random) -> tuple[list[Ball], list[Ball]]:
    """Both innings of a match; `home` bats first."""
    one, two = pick_eleven(home, rng), pick_eleven(away, rng)
    first = list(Innings(home, away, one, two, rng).play())
    target = first[-1].score + 1
    return first, list(Innings(away, home, two, one, rng, innings=2, target=target).play())


def play_season(seed: int) -> Iterator[tuple[list[Ball], list[Ball]]]:
    """Matches without end: in each round every club plays once, the draw decides whom."""
    rng = random.Random(seed)
    league = make_league(rng)
    while True:
        rng.shuffle(league)
        for home, away in zip(league[::2], league[1::2], strict=True):
            yield play_match(home, away, rng)


# --- telling it -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delivery:
    """What was bowled: pace or spin, where it pitched, and which way it went."""

    kind: str
    length: str
    line: str
    move: str
    variation: str | None


def draw_delivery(ball: Ball, rng: random.Random) -> Delivery:
    """Any ball this bowler might bowl to this batter at this stage."""
    bowler = ball.bowler
    assert bowler.trade is not None
    length = rng.choice(WORDS["lengths"][bowler.kind].split())
    line = rng.choice(WORDS["lines_for"][length].split())
    move = rng.choice(WORDS["stock_move"][bowler.trade].split())
    name = None
    options = [v for v in WORDS["variations"][bowler.trade.split()[-1]] if length in v["lengths"].split()]
    if ball.number > POWERPLAY:  # the ball has stopped swinging
        options = [v for v in options if "swinger" not in v["name"]]
    if options and rng.random() < 0.3:
        variation = rng.choice(options)
        name, move = variation["name"], variation["move"]
    if bowler.kind == "spin" and ball.striker.hand == "left":
        move = {"in": "away", "away": "in"}.get(move, move)
    return Delivery(bowler.kind, length, line, move, name)


LOOSE_LENGTHS = ("toss", "full", "short", "drag")


def delivery_rules(delivery: Delivery, loose: bool) -> dict[str, Sequence[str]]:
    """Ways to say what was bowled; `loose` allows the unkind ones, for balls that went for runs."""
    kind, length = delivery.kind, delivery.length
    rules: dict[str, Sequence[str]] = {
        "line": WORDS["lines"].get(length, WORDS["lines"]["low"])[delivery.line],
        "move": WORDS["moves"][kind][delivery.move],
    }
    if delivery.variation:
        article = "an" if delivery.variation[0] in "aeiou" else "a"
        return rules | {
            "np": PHRASES["varied_nouns"],
            "opener": PHRASES["varied_openers"],
            "act": PHRASES["varied_acts"],
            "variation": (delivery.variation,),
            "a_variation": (f"{article} {delivery.variation}",),
            "length_word": (WORDS["length_word"][length],),
            "verdict": WORDS["shared"]["read_it"],
        }
    blame = "slip_up" if length in LOOSE_LENGTHS else "no_slip_up"
    for rule, table in (("np", "nouns"), ("opener", "openers"), ("act", "acts")):
        unkind = WORDS["loose"][table].get(length, []) if loose else []
        rules[rule] = WORDS[table][kind][length] + unkind
    return rules | {"verdict": WORDS["shared"][blame]}


def shot_rules(shot: Shot, region: Region, how: str) -> dict[str, Sequence[str]]:
    """Ways to say what was played; `how` is "through" the ring, a "chip" above it, or "over" the rope."""
    grounded = how == "through"
    return {
        "noun": (shot.noun,),
        "clause": shot.strokes if grounded else shot.lofts,
        "done": shot.done,
        "lofted": shot.lofted,
        "region": getattr(region, how),
        "attempt": PHRASES["attempts"],
    }


def place_rules(ball: Ball, region: Region) -> dict[str, Sequence[str]]:
    """Who stands where in that part of the field."""
    return {
        "ring": (region.ring,),
        "deep": (region.deep,),
        "ringman": (ball.posts[region.ring].short,),
        "deepman": (ball.posts[region.deep].short,),
    }


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def state_rules(ball: Ball) -> dict[str, Sequence[str]]:
    """The facts of the match as phrases want them."""
    par = ball.target - 1 if ball.target is not None else ball.score
    ordinal = ("first", "second", "third", "fourth")[ball.spell_over - 1]
    facts = {
        "batter": ball.striker.short,
        "partner": ball.partner.short,
        "bowler": ball.bowler.short,
        "keeper": ball.keeper.short,
        "nick": ball.batting.nick,
        "foes": ball.fielding.town,
        "foes_nick": ball.fielding.nick,
        "score": f"{ball.score} for {ball.wickets}",
        "runs": str(ball.score),
        "par": str(par),
        "asked": str(ball.score + 1),
        "target": str(ball.target),
        "need": str(ball.need),
        "left": plural(ball.left, "ball"),
        "spare": plural(ball.left, "ball"),
        "margin": plural(max(0, par - ball.score), "run"),
        "rate": f"{OVER * ball.need / max(1, ball.left):.1f}",
        "wickets_left": plural(10 - ball.wickets, "wicket"),
        "balls": plural(ball.striker_balls, "ball"),
        "bruns": str(ball.striker_runs),
        "stand": str(ball.stand),
        "over_runs": str(ball.over_runs),
        "streak": str(ball.boundary_streak),
        "mark": {50: "fifty", 100: "hundred", 150: "hundred and fifty", 200: "two hundred"}.get(
            ball.score // 50 * 50, ""
        ),
        "bwickets": str(ball.spell_wickets),
        "bconceded": str(ball.spell_conceded),
        "bover": ordinal,
    }
    return {name: (fact,) for name, fact in facts.items()}


def passed(mark: int, before: int, after: int) -> bool:
    return before < mark <= after


def news(ball: Ball) -> list[str]:
    """Remarks that have to be made: a milestone reached, a feat, the end of something."""
    found: list[str] = []
    if passed(100, ball.striker_runs_before, ball.striker_runs):
        found.append("hundred")
    elif passed(50, ball.striker_runs_before, ball.striker_runs):
        found.append("fifty" if ball.kind in ("four", "six") else "quiet_fifty")
    if ball.out and ball.how != "run out":
        if ball.spell_streak == 3:
            found.append("hat_trick")
        if ball.spell_streak == 2 and not ball.closing:
            found.append("on_hat_trick")
        if ball.spell_wickets == 5:
            found.append("five_for")
    if ball.closing:
        found.append(ending(ball))
    return found


def ending(ball: Ball) -> str:
    """How an innings that closed on this ball ended."""
    if ball.target is None:
        return "all_out" if ball.wickets == 10 else "closed"
    if ball.need == 0:
        return "won" if ball.left else "won_last"
    return "tied" if ball.need == 1 else "lost"


def run_asides(ball: Ball) -> list[str]:
    """Remarks a boundary may draw, most of them on the batter, the bowler or the over."""
    checks = {
        "first_ball": ball.striker_balls == 1,
        "off_mark": ball.striker_runs_before == 0 and ball.striker_balls > 1,
        "first_four": ball.kind == "four" and ball.first_of_kind,
        "first_six": ball.kind == "six" and ball.first_of_kind,
        "two_boundaries": ball.boundary_streak == 2,
        "three_boundaries": ball.boundary_streak == 3,
        "more_boundaries": ball.boundary_streak > 3,
        "big_over": ball.ends_over and ball.over_runs >= 14,
        "good_finish": ball.ends_over and 5 < ball.over_runs <= 10 and ball.over_runs - ball.runs <= 4,
        "over_so_far": not ball.ends_over and ball.over_runs >= 13,
        "stand_fifty": passed(50, ball.stand_before, ball.stand),
        "stand_hundred": passed(100, ball.stand_before, ball.stand),
        "team_mark": ball.score // 50 > (ball.score - ball.runs) // 50 and ball.score < 250,
        "in_the_mood": ball.striker_runs >= 22 and ball.striker_runs >= 1.65 * ball.striker_balls,
        "breaks_free": ball.striker_balls >= 14 and ball.striker_runs <= ball.striker_balls,
        "expensive": ball.spell_conceded >= 28 and ball.spell_conceded > 10 * ball.spell_over,
    }
    return [name for name, holds in checks.items() if holds]


def chase_asides(ball: Ball) -> list[str]:
    """Remarks on the equation while a chase is on."""
    if ball.target is None or ball.closing or ball.number < POWERPLAY:
        return []
    rate = OVER * ball.need / ball.left
    if ball.left <= 12 and 5 <= rate <= 15:
        return ["nail_biter"]
    if rate > 11.5:
        return ["steep_chase"]
    return ["cruising"] if rate < 6 and ball.wickets < 7 else ["even_chase"]


def phase_asides(ball: Ball) -> list[str]:
    """Remarks that fit any boundary of that part of the innings."""
    return ["last_over"] if ball.number > BALLS - OVER else [phase(ball.number)]


def wicket_asides(ball: Ball) -> list[str]:
    """Remarks a dismissal may draw; those on the batter only if it is the striker who is out."""
    striker_out = ball.out is ball.striker
    runs = ball.striker_runs
    checks = {
        "golden_duck": striker_out and ball.striker_balls == 1 and runs == 0,
        "duck": striker_out and ball.striker_balls > 1 and runs == 0,
        "short_stay": striker_out and 0 < runs <= 9,
        "missed_fifty": striker_out and 44 <= runs < 50,
        "big_innings_ends": striker_out and runs >= 50,
        "stand_broken": ball.stand >= 35 and ball.how != "run out",
        "first_over_wicket": ball.number <= OVER,
        "early_wicket": OVER < ball.number < POWERPLAY and ball.wickets <= 3,
        "collapse": ball.number <= DEATH and 5 <= ball.wickets <= 8,
        "death_wicket": ball.number > DEATH and 5 <= ball.wickets <= 8,
        "bowler_wickets": 2 <= ball.spell_wickets <= 4 and ball.how != "run out",
        "wicket_score": not ball.closing,
    }
    return [name for name, holds in checks.items() if holds]


def polish(text: str) -> str:
    """Capitals after a full stop or a mark of exclamation or question."""
    return re.sub(r"([.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


HEADS = {
    "dot": "no run, ",
    "one": "1 run, ",
    "two": "2 runs, ",
    "four": "FOUR, ",
    "six": "SIX, ",
    "wide": "wide, ",
    "leg_bye": "leg byes, 1 run, ",
    "leg_bye_four": "leg byes, FOUR, ",
}
# Which quiet balls are worth telling and how likely each is to be told.
INCIDENTS = {
    "dot": (0.042, ("beaten", "beaten", "shout", "stopped")),
    "one": (0.022, ("shy", "saved", "dropped")),
    "two": (0.06, ("two",)),
    "wide": (0.16, ("wide_off", "wide_leg")),
    "leg_bye": (0.0, ("leg_bye",)),
    "leg_bye_four": (1.0, ("leg_bye_four",)),
}


class Commentator:
    """Turns balls into events, dealing phrases from shuffled decks so that none comes round too soon."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.decks: dict[tuple[str, ...], list[str]] = {}
        self.told: set[str] = set()

    def deal(self, table: Sequence[str]) -> str:
        """The next phrase of a table; every phrase is used once before any is used again."""
        if len(table) == 1:
            return table[0]
        deck = self.decks.setdefault(tuple(table), [])
        if not deck:
            deck.extend(self.rng.sample(table, len(table)))
        return deck.pop()

    def expand(self, template: str, rules: Rules) -> str:
        """Replace each `{name}` by a phrase from that rule, and so on down."""
        return re.sub(r"\{(\w+)\}", lambda m: self.expand(self.deal(rules[m[1]]), rules), template)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def events(self, balls: Sequence[Ball]) -> Iterator[str]:
        """The balls of an innings that are worth a line."""
        for ball in balls:
            if self.notable(ball):
                yield self.event(ball)

    def notable(self, ball: Ball) -> bool:
        """Boundaries, wickets, milestones and the end of the match always; a quiet ball now and then."""
        if ball.kind in ("four", "six", "wicket"):
            return True
        if ball.closing and ball.innings == 2:
            return True
        milestone = any(name in ("quiet_fifty", "hundred") for name in news(ball))
        return milestone or self.chance(INCIDENTS[ball.kind][0])

    def event(self, ball: Ball) -> str:
        """The three lines of one ball, told in words not used before."""
        ordinal = "1st" if ball.innings == 1 else "2nd"
        while True:
            told = polish(self.tell(ball))
            if told not in self.told:
                break
        self.told.add(told)
        headline = f"{ball.bowler.name} to {ball.striker.name}, {told}"
        return f"{ball.batting.code} {ordinal} Inns\n{ball.overs} overs\n{headline}"

    def tell(self, ball: Ball) -> str:
        """Outcome, account and remarks of one ball."""
        if ball.kind == "wicket":
            return self.tell_wicket(ball)
        if ball.kind == "four":
            sentences = self.four(ball)
        elif ball.kind == "six":
            sentences = self.six(ball)
        else:
            sentences = self.quiet(ball)
        return HEADS[ball.kind] + self.join(sentences + self.remarks(ball))

    def join(self, sentences: Sequence[str]) -> str:
        """Sentences run on with full stops, except after one that brings its own mark; the last has none."""
        text = ". ".join(sentences)
        return re.sub(r"([!?])\. ", r"\1 ", text)

    # The stage: a ball, a stroke and a part of the ground that go together.

    def stage(self, ball: Ball, lengths: str = "", lines: str = "", moves: str = "") -> Delivery:
        """A delivery, restricted to the given lengths, lines and moves where any are given."""
        while True:
            d = draw_delivery(ball, self.rng)
            fits = ((d.length, lengths), (d.line, lines), (d.move, moves))
            if all(value in allowed.split() for value, allowed in fits if allowed):
                return d

    def stage_stroke(self, ball: Ball, air: bool) -> tuple[Delivery, Shot, Region]:
        """A delivery with a stroke that can be played to it, along the ground or in the air."""
        while True:
            delivery = draw_delivery(ball, self.rng)
            shots = playable(delivery, air)
            if not shots:
                continue
            liked = WORDS["styles"][ball.striker.style].split(",")
            shot = self.rng.choices(shots, [4 if s.noun in liked else 1 for s in shots])[0]
            region = self.rng.choice((shot.air if air else shot.ground).split())
            return delivery, shot, REGIONS[region]

    def scene(self, ball: Ball, delivery: Delivery, region: Region, loose: bool = False) -> dict[str, Sequence[str]]:
        """Everything a phrase about this ball may refer to, bar the stroke."""
        return WORDS["shared"] | state_rules(ball) | delivery_rules(delivery, loose) | place_rules(ball, region)

    # The accounts.

    def four(self, ball: Ball) -> list[str]:
        """A four: off the edge now and then, over the ring sometimes, mostly along the ground."""
        if ball.bowler.kind == "pace" and self.chance(0.08):
            return self.edged_four(ball)
        air = self.chance(0.2)
        delivery, shot, region = self.stage_stroke(ball, air)
        rules = self.scene(ball, delivery, region, loose=True)
        rules |= shot_rules(shot, region, "chip" if air else "through")
        sentences = [self.expand(self.deal(PHRASES["chip_leads"] if air else PHRASES["four_leads"]), rules)]
        if self.chance(0.4):
            sentences.append(self.expand(self.deal(PHRASES["chip_field"] if air else PHRASES["four_field"]), rules))
        return sentences + self.colour(ball, shot, rules)

    def edged_four(self, ball: Ball) -> list[str]:
        """Four off the edge: outside if it leaves the batter, inside if it comes in."""
        outside = self.chance(0.5)
        moves = "away bounce" if outside else "in"
        delivery = self.stage(ball, "full good back", "off", moves)
        rules = self.scene(ball, delivery, REGIONS["third" if outside else "fine"])
        lead = self.expand(self.deal(PHRASES["outside_edges"] if outside else PHRASES["inside_edges"]), rules)
        return [lead, self.expand(self.deal(PHRASES["unlucky"]), rules)]

    def six(self, ball: Ball) -> list[str]:
        """A six, always in the air."""
        delivery, shot, region = self.stage_stroke(ball, air=True)
        rules = self.scene(ball, delivery, region, loose=True) | shot_rules(shot, region, "over")
        rules |= {"seats": PHRASES["seats"], "metres": (str(self.rng.randrange(74, 109)),)}
        sentences = [self.expand(self.deal(PHRASES["six_leads"]), rules)]
        if self.chance(0.4):
            sentences.append(self.expand(self.deal(PHRASES["six_field"]), rules))
        return sentences + self.colour(ball, shot, rules)

    def colour(self, ball: Ball, shot: Shot, rules: Rules) -> list[str]:
        """Perhaps a word on the batter, if he has played a stroke of his own, or on the bowler."""
        if not self.chance(0.22):
            return []
        if shot.noun in WORDS["styles"][ball.striker.style].split(","):
            table = WORDS["style_colour"][ball.striker.style] + WORDS["hand_colour"][ball.striker.hand]
        else:
            assert ball.bowler.trade is not None
            table = WORDS["trade_colour"][ball.bowler.trade]
        return [self.expand(self.deal(table), rules)]

    def remarks(self, ball: Ball) -> list[str]:
        """What must be said of the match, and if nothing must be, perhaps one thing that can be."""
        names = news(ball)
        if not names and self.chance(0.6):
            names = self.pick_aside(ball)
        rules = state_rules(ball)
        return [self.expand(self.deal(WORDS["remarks"][name]), rules) for name in names]

    def pick_aside(self, ball: Ball) -> list[str]:
        """One remark: on the ball if there is one, else on the chase or the phase of the innings."""
        special = wicket_asides(ball) if ball.out else run_asides(ball) if ball.kind in ("four", "six") else []
        general = chase_asides(ball)
        if ball.kind in ("four", "six"):
            general = general + phase_asides(ball)
        pool = special if special and (not general or self.chance(0.7)) else general
        return [self.rng.choice(pool)] if pool else []

    def quiet(self, ball: Ball) -> list[str]:
        """A ball without boundary or wicket that deserves a line."""
        names = INCIDENTS[ball.kind][1]
        name = "nudge" if ball.kind == "one" and news(ball) else self.rng.choice(names)
        if name in ("stopped", "saved"):
            delivery, _, region = self.stage_stroke(ball, air=False)
            rules = self.scene(ball, delivery, region)
        elif name == "dropped":
            delivery, shot, region = self.stage_stroke(ball, air=True)
            rules = self.scene(ball, delivery, region) | shot_rules(shot, region, "over")
            rules |= {"mishit": PHRASES["deep_mishits"]}
        else:
            limits = {
                "beaten": (
                    "full good back",
                    "off",
                    "away bounce straight" if ball.bowler.kind == "pace" else "",
                ),
                "shout": ("full good", "stumps leg", "in straight"),
                "leg_bye_four": ("full good", "leg", ""),
                "leg_bye": ("full good", "leg", ""),
            }
            delivery = self.stage(ball, *limits.get(name, ("full good", "", "")))
            rules = self.shove_scene(ball, delivery)
        return [self.expand(self.deal(WORDS["quiet"][name]), rules)]

    def shove_scene(self, ball: Ball, delivery: Delivery) -> dict[str, Sequence[str]]:
        """The scene of a ball just pushed somewhere."""
        region = REGIONS[self.rng.choice(WORDS["shove_regions"][delivery.line].split())]
        return self.scene(ball, delivery, region) | {"shove": WORDS["shoves"][delivery.line]}

    # The wickets.

    def tell_wicket(self, ball: Ball) -> str:
        """A wicket: how, who did it, the account, what it means, and the line for the scorecard."""
        head, card, sentences = {
            "caught": self.caught,
            "keeper": self.caught_behind,
            "caught and bowled": self.caught_and_bowled,
            "bowled": self.bowled,
            "lbw": self.lbw,
            "stumped": self.stumped,
            "run out": self.run_out,
        }[ball.how](ball)
        assert ball.out is not None
        sentences = sentences + self.remarks(ball)
        sentences[0] = sentences[0][0].upper() + sentences[0][1:]
        return f"out {head} {self.join([*sentences, f'{ball.out.name} {card} {ball.figures}'])}"

    def dismissal(self, ball: Ball, table: Sequence[str], delivery: Delivery, rules: Rules) -> list[str]:
        """The account of a wicket, sometimes with a cry before it and a word after."""
        sentences = [self.expand(self.deal(table), rules)]
        if "!" not in sentences[0] and self.chance(0.5):
            cries = PHRASES["gone"] + (PHRASES["gone_caught"] if ball.how in ("caught", "keeper") else [])
            sentences.insert(0, self.expand(self.deal(cries), rules) + "!")
        if delivery.variation and self.chance(0.5):
            sentences.append(self.expand(self.deal(PHRASES["undone"]), rules))
        elif self.chance(0.35):
            sentences.append(self.expand(self.deal(PHRASES["wicket_asides"]), rules))
        return sentences

    def caught(self, ball: Ball) -> tuple[str, str, list[str]]:
        """Held in the deep off a lofted stroke, or in the ring off one meant to go along the ground."""
        air = self.chance(0.65)
        delivery, shot, region = self.stage_stroke(ball, air)
        rules = self.scene(ball, delivery, region) | shot_rules(shot, region, "over" if air else "through")
        rules |= {
            "mishit": PHRASES["deep_mishits"] if air else PHRASES["ring_mishits"],
            "catch": PHRASES["deep_catches"] if air else PHRASES["ring_catches"],
        }
        fielder = ball.posts[region.deep if air else region.ring].name
        account = self.dismissal(ball, PHRASES["caught_leads"], delivery, rules)
        return f"Caught by {fielder}!!", f"c {fielder} b {ball.bowler.name}", account

    def caught_behind(self, ball: Ball) -> tuple[str, str, list[str]]:
        """A thin edge off a ball that leaves the batter, or a top edge off a cross-batted stroke."""
        if self.chance(0.7):
            table = PHRASES["keeper_edges"]
            delivery = self.stage(ball, "full good back", "off", "away straight bounce")
            rules = self.scene(ball, delivery, REGIONS["third"])
        else:
            table = PHRASES["keeper_top_edges"]
            delivery, shot, region = self.stage_stroke(ball, air=True)
            while shot.noun not in ("pull", "hook", "slog", "slog-sweep", "scoop"):
                delivery, shot, region = self.stage_stroke(ball, air=True)
            rules = self.scene(ball, delivery, region) | shot_rules(shot, region, "over")
        account = self.dismissal(ball, table, delivery, rules)
        return f"Caught by {ball.keeper.name}!!", f"c {ball.keeper.name} b {ball.bowler.name}", account

    def caught_and_bowled(self, ball: Ball) -> tuple[str, str, list[str]]:
        """Hit straight back."""
        delivery = self.stage(ball, "full good", "stumps off")
        account = self.dismissal(ball, PHRASES["caught_bowled"], delivery, self.scene(ball, delivery, NOWHERE))
        return "Caught&Bowled!!", f"c and b {ball.bowler.name}", account

    def bowled(self, ball: Ball) -> tuple[str, str, list[str]]:
        """Through the gate, off the inside edge, or under the bat if it was a yorker."""
        delivery = self.stage(ball, "yorker full good", "off stumps leg")
        table = PHRASES["bowled_yorker"] if delivery.length == "yorker" else PHRASES["bowled"]
        stumps = PHRASES["stumps"][2:] if delivery.line == "leg" else PHRASES["stumps"][:2]
        rules = self.scene(ball, delivery, NOWHERE) | {"stump": (self.rng.choice(stumps),)}
        return "Bowled!!", f"b {ball.bowler.name}", self.dismissal(ball, table, delivery, rules)

    def lbw(self, ball: Ball) -> tuple[str, str, list[str]]:
        """Struck in line by a ball that comes in or goes straight on, or sweeping a slow bowler."""
        delivery = self.stage(ball, "full good", "stumps", "in straight")
        sweep = ball.bowler.kind == "spin" and self.chance(0.4)
        rules = self.scene(ball, delivery, NOWHERE) | {"stump": PHRASES["stumps"][1:]}
        account = self.dismissal(ball, PHRASES["lbw_sweep"] if sweep else PHRASES["lbw"], delivery, rules)
        return "Lbw!!", f"lbw b {ball.bowler.name}", account

    def stumped(self, ball: Ball) -> tuple[str, str, list[str]]:
        """Out of his ground to a slow bowler."""
        delivery = self.stage(ball, "full good", "off stumps")
        account = self.dismissal(ball, PHRASES["stumped"], delivery, self.scene(ball, delivery, NOWHERE))
        return "Stumped!!", f"st {ball.keeper.name} b {ball.bowler.name}", account

    def run_out(self, ball: Ball) -> tuple[str, str, list[str]]:
        """Sent back before the first run, or caught short coming back for the second."""
        assert ball.out is not None
        delivery = self.stage(ball, "full good")
        region = REGIONS[self.rng.choice(WORDS["shove_regions"][delivery.line].split())]
        thrower = ball.posts[region.deep if ball.runs else region.ring]
        rules = self.scene(ball, delivery, region)
        out = "he" if ball.out is ball.striker else ball.out.short
        rules |= {"shove": WORDS["shoves"][delivery.line], "out": (out,), "thrower": (thrower.short,)}
        table = PHRASES["run_out_second"] if ball.runs else PHRASES["run_out_no_run"]
        completed = " 1 run completed." if ball.runs else ""
        account = [self.expand(self.deal(table), rules)]
        return f"{ball.out.name} Run Out!!{completed}", f"run out ({thrower.name})", account


def playable(delivery: Delivery, air: bool) -> list[Shot]:
    """The strokes that go with a delivery."""
    return [
        shot
        for shot in SHOTS
        if delivery.kind in shot.kinds.split()
        and delivery.length in shot.lengths.split()
        and delivery.line in shot.lines.split()
        and (shot.air if air else shot.ground)
    ]


# --- the corpus -----------------------------------------------------------------------------------------


def make_corpus(seed: int, kilobytes: int) -> str:
    """Whole matches until at least `kilobytes` thousand characters are written."""
    commentator = Commentator(seed + 1)  # not the season's generator: new phrases leave the matches as they were
    events: list[str] = []
    size = 0
    for innings in itertools.chain.from_iterable(play_season(seed)):
        if innings[0].innings == 1 and size >= 1000 * kilobytes:
            break
        for event in commentator.events(innings):
            events.append(event)
            size += len(event) + 2
    return "\n\n".join(events) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the sample commentary corpus.")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--kilobytes", type=int, default=DEFAULT_KILOBYTES)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(make_corpus(args.seed, args.kilobytes), encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
