"""Twenty20 matches of an invented league, played ball by ball: the facts that `make_sample_corpus.py` tells."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

WORDS = tomllib.loads(Path(__file__).with_name("sample_phrases.toml").read_text(encoding="ascii"))

BALLS = 120
OVER = 6
POWERPLAY = 36
DEATH = 96
QUOTA = 4


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


TOP_STYLES, TRADES = WORDS["squad"]["styles"], WORDS["squad"]["trades"]
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


BAT_RUNS = ("one", "two", "four", "six")


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
        base: dict[str, float] = dict(WORDS["chances"][phase(self.number + 1)])
        bat, bowl, risk = self.striker.batting, self.bowler.bowling, self.risk()
        base["four"] *= bat / bowl * risk
        base["six"] *= bat * bat / bowl * risk * (1.4 if self.striker.style in ("finisher", "puller") else 0.9)
        base["wicket"] *= bowl / bat * risk
        return self.rng.choices(list(base), list(base.values()))[0]

    def risk(self) -> float:
        """Above 1 when the required rate forces the pace, below 1 when it does not or wickets are short."""
        caution = 0.85 if self.wickets >= 5 and self.number < DEATH else 1.0
        if self.target is None:
            return caution
        rate = OVER * (self.target - self.score) / (BALLS - self.number)
        return caution * min(1.5, max(0.75, rate / 8.5))

    def choose_dismissal(self) -> str:
        """How the wicket falls; only a slow bowler's victim can be stumped."""
        odds = dict(WORDS["dismissals"])
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
        runs = WORDS["runs"][kind]
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
