"""What may be said of a ball: the tables of phrases that fit it, and the remarks that its facts allow."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sample_match import BALLS, DEATH, OVER, POWERPLAY, SHOTS, WORDS, Ball, Region, Shot, phase

Rules = Mapping[str, Sequence[str]]
PHRASES: dict[str, list[str]] = WORDS["phrases"]


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
