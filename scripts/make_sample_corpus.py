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
from collections.abc import Iterator, Sequence
from pathlib import Path

from sample_facts import (
    PHRASES,
    Delivery,
    Rules,
    chase_asides,
    delivery_rules,
    draw_delivery,
    news,
    phase_asides,
    place_rules,
    playable,
    run_asides,
    shot_rules,
    state_rules,
    wicket_asides,
)
from sample_match import NOWHERE, REGIONS, WORDS, Ball, Region, Shot, play_season

DEFAULT_SEED = 2024
DEFAULT_KILOBYTES = 500
BUNDLED = Path(__file__).resolve().parents[1] / "s15erav3" / "data" / "sample" / "commentary.txt"


def polish(text: str) -> str:
    """Capitals after a full stop or a mark of exclamation or question."""
    return re.sub(r"([.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


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
        return milestone or self.chance(WORDS["incidents"][ball.kind]["chance"])

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
        return WORDS["heads"][ball.kind] + self.join(sentences + self.remarks(ball))

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
        names = WORDS["incidents"][ball.kind]["named"]
        name = "nudge" if ball.kind == "one" and news(ball) else self.rng.choice(names)
        if name in ("stopped", "saved"):
            delivery, _, region = self.stage_stroke(ball, air=False)
            rules = self.scene(ball, delivery, region)
        elif name == "dropped":
            delivery, shot, region = self.stage_stroke(ball, air=True)
            rules = self.scene(ball, delivery, region) | shot_rules(shot, region, "over")
            rules |= {"mishit": PHRASES["deep_mishits"]}
        else:
            limits = WORDS["incident_balls"].get(name, {"lengths": "full good"})
            if name == "beaten" and ball.bowler.kind == "pace":
                limits = limits | {"moves": "away bounce straight"}
            delivery = self.stage(ball, **limits)
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
