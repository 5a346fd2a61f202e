"""What the invented commentators know: clubs, deliveries, strokes, field positions and turns of phrase.

Only tables live here; `make_sample_corpus.py` plays the matches and decides which table a ball is told from.
A `{name}` inside a phrase is replaced by another table of that name or by a fact of the ball, so a table may
claim only what its condition (stated above it) makes certain. Every club, player and sentence is invented.
"""

from __future__ import annotations

from dataclasses import dataclass

# --- the league -----------------------------------------------------------------------------------------

# Code, town, nickname, then thirteen names: five batters, a keeper, two all-rounders, five bowlers.
CLUBS: tuple[tuple[str, str, str, str], ...] = (
    (
        "KBC",
        "Kestrel Bay",
        "Corsairs",
        "Vail, Brenholt, Ilo Marrin, Castoway, Dunmere, Ostrel, Quade Hennow, Pellory, "
        "Tamm, Okoreth, R Dessel, Wickerlow, Yarrant",
    ),
    (
        "PSM",
        "Port Sable",
        "Mariners",
        "Sandrow, Teyo Alcane, Mirrick, Fenwold, Harabi, Lockran, Jessamy Torv, Bastrel, "
        "Crowhart, Nandrel, T Ulverby, Ravenscar, Zemlin",
    ),
    (
        "OWB",
        "Oldwick",
        "Badgers",
        "Thackmere, Orso Bellin, Guntry, Pashkar, Elverton, Mossgrove, Kit Farrano, Dravik, "
        "Stannock, Ombeya, L Quennel, Harkwell, Birrow",
    ),
    (
        "TMT",
        "Tamrin",
        "Tempest",
        "Adrissi, Kolm, Sefton Varr, Rukadi, Merewood, Jandrel, Ash Corrigal, Nimbari, "
        "Vostock, Ghelani, P Thurnley, Oxmoor, Skerrit",
    ),
    (
        "MHH",
        "Marrow Hill",
        "Hares",
        "Lindqvar, Tobin Esk, Amarole, Rathmore, Cheswin, Wrenfield, Dario Pentz, Hollandry, "
        "Brackley, Suvanni, M Gorsedd, Trelow, Kantwell",
    ),
    (
        "SUL",
        "Sundara",
        "Lancers",
        "Devrani, Arlo Brisk, Tannahar, Pellworth, Ismeri, Corvane, Nate Hollis-Wray, Gurvell, "
        "Malthane, Jorvik, S Abbendale, Rendari, Flintoss",
    ),
    (
        "BWB",
        "Brackwater",
        "Bitterns",
        "Seaborne, Rafe Undry, Mokalu, Winterley, Hastrand, Pomfrell, Eddo Lant, Carrowmore, "
        "Strickar, Delgane, J Norrick, Tidewell, Vashti",
    ),
    (
        "LML",
        "Larkmoor",
        "Lamplighters",
        "Candrell, Ollin Speke, Barisov, Nethercote, Yandri, Goodmere, Cole Ravik, Ambrodine, "
        "Wexcombe, Tolliver-Ames, D Mandrake, Pikering, Osgar",
    ),
    (
        "QCR",
        "Quillon City",
        "Rooks",
        "Ravello, Benji Thole, Kesharin, Dunmarrow, Ingledew, Fallowby, Marek Stoan, Halvern, "
        "Grimmet-Rao, Ashkari, N Belvoir, Crannock, Underleigh",
    ),
    (
        "VFO",
        "Vesper Falls",
        "Owls",
        "Larrimond, Sol Keating-Dray, Obanu, Penhallis, Drummore, Ettrick, Zane Ferrow, Mulvani, "
        "Hobrick, Selwari, A Tamberlane, Coldstrom, Rusk",
    ),
)

# --- deliveries -----------------------------------------------------------------------------------------

# Where a ball can be, by length; lengths are weighted by how often they are repeated.
LENGTHS: dict[str, str] = {
    "pace": "yorker toss full full full good good good good back back back short short bouncer",
    "spin": "toss full full full good good good good drag drag",
}
LINES_FOR: dict[str, str] = {
    "yorker": "wide stumps stumps leg",
    "toss": "wide off stumps leg",
    "full": "wide off off stumps leg",
    "good": "off off stumps leg",
    "back": "off off stumps leg",
    "short": "wide off",
    "bouncer": "stumps leg",
    "drag": "wide off stumps leg",
}

_LOW: dict[str, tuple[str, ...]] = {
    "wide": ("well outside off", "wide of off stump", "a long way outside off"),
    "off": ("outside off", "just outside off", "in the channel outside off", "around off stump"),
    "stumps": ("on off stump", "on middle stump", "on middle and off", "on the stumps"),
    "leg": ("on the pads", "on leg stump", "on middle and leg", "into the pads"),
}
_HIP: dict[str, tuple[str, ...]] = {
    "off": ("outside off", "just outside off", "on a fifth-stump line"),
    "stumps": ("on off stump", "on middle stump", "on middle and off"),
    "leg": ("on the hip", "at the ribs", "into the body"),
}
LINES: dict[str, dict[str, tuple[str, ...]]] = {
    "yorker": {
        "wide": ("wide of off stump", "out near the tramline"),
        "stumps": ("on middle stump", "on off stump", "on middle and leg"),
        "leg": ("at the toes", "on leg stump"),
    },
    "toss": _LOW,
    "full": _LOW,
    "good": _LOW,
    "back": _HIP,
    "short": _LOW,
    "bouncer": {
        "stumps": ("at the badge of the helmet", "at the grille", "at the throat"),
        "leg": ("at the ribs", "at the front shoulder", "into the body"),
    },
    "drag": {
        "wide": ("well outside off", "wide of off stump"),
        "off": ("outside off", "just outside off"),
        "stumps": ("on middle stump", "on off stump"),
        "leg": ("on leg stump", "on the hip"),
    },
}

# The stock ball as a noun ("a half-volley on leg stump"), by bowling kind and length.
NOUNS: dict[str, dict[str, tuple[str, ...]]] = {
    "pace": {
        "yorker": ("a yorker {line}", "a ball in the blockhole {line}"),
        "toss": ("a full toss {line}", "a low full toss {line}", "a missed yorker {line}"),
        "full": ("a full ball {line}", "a ball pitched up {line}", "a fuller one {line}"),
        "good": ("a length ball {line}", "a good length ball {line}", "a ball on a length {line}"),
        "back": ("a back of a length ball {line}", "a hard length ball {line}"),
        "short": ("a short ball {line}", "a ball dropped short {line}"),
        "bouncer": ("a bouncer {line}", "a short ball {line}", "a quick bouncer {line}"),
    },
    "spin": {
        "toss": ("a full toss {line}", "a juicy full toss {line}"),
        "full": ("a flighted ball {line}", "a ball tossed up {line}", "a looping ball {line}"),
        "good": ("a flatter one {line}", "a length ball {line}", "a ball pushed through {line}"),
        "drag": ("a long hop {line}", "a drag-down {line}", "a half-tracker {line}"),
    },
}
# The same ball as an opening description ("full and on leg stump, ...").
OPENERS: dict[str, dict[str, tuple[str, ...]]] = {
    "pace": {
        "yorker": ("right up in the blockhole {line}", "yorker length {line}", "fast, full and {line}"),
        "toss": ("full toss {line}", "no bounce at all, a full toss {line}", "full toss, dipping {line}"),
        "full": ("full and {line}", "fuller {line}", "pitched right up {line}", "full {line}"),
        "good": ("on a length {line}", "good length and {line}", "length ball {line}"),
        "back": ("back of a length {line}", "just short of a length {line}", "hard length {line}"),
        "short": ("short and {line}", "dropped short {line}", "short {line}"),
        "bouncer": ("banged in short {line}", "dug in {line}", "short and {line}", "bouncer {line}"),
    },
    "spin": {
        "toss": ("full toss {line}", "comes out of the hand badly, a full toss {line}"),
        "full": (
            "tossed up {line}",
            "flighted {line}",
            "given plenty of air {line}",
            "slow, full and {line}",
        ),
        "good": ("flatter {line}", "pushed through {line}", "quicker {line}", "on a length {line}"),
        "drag": ("dragged down {line}", "short and slow {line}", "half-tracker {line}", "too short {line}"),
    },
}
# The same ball as something the bowler does ("Tamm overpitches outside off, ...").
ACTS: dict[str, dict[str, tuple[str, ...]]] = {
    "pace": {
        "yorker": ("{bowler} nails the yorker {line}", "{bowler} spears in a yorker {line}"),
        "toss": (
            "{bowler} hunts the yorker and misses, full toss {line}",
            "{bowler} gets it wrong, full toss {line}",
        ),
        "full": ("{bowler} goes full {line}", "{bowler} pitches it up {line}", "{bowler} goes fuller {line}"),
        "good": ("{bowler} hits a length {line}", "{bowler} keeps to a length {line}"),
        "back": ("{bowler} pulls his length back {line}", "{bowler} bangs away at a hard length {line}"),
        "short": ("{bowler} drops short {line}", "{bowler} strays short {line}"),
        "bouncer": ("{bowler} bends his back and digs it in {line}", "{bowler} tries the bouncer {line}"),
    },
    "spin": {
        "toss": (
            "{bowler} loses his grip and sends a full toss {line}",
            "{bowler} offers a full toss {line}",
        ),
        "full": (
            "{bowler} tosses it up {line}",
            "{bowler} gives it air {line}",
            "{bowler} floats it up {line}",
        ),
        "good": (
            "{bowler} bowls it flat {line}",
            "{bowler} pushes it through {line}",
            "{bowler} goes flat and quick {line}",
        ),
        "drag": ("{bowler} drags it down {line}", "{bowler} drops short {line}"),
    },
}
# Harsher names for the same balls, used only when they go for runs.
LOOSE_NOUNS: dict[str, tuple[str, ...]] = {
    "full": ("a half-volley {line}", "an overpitched ball {line}"),
    "short": ("a long hop {line}", "a loosener {line}"),
}
LOOSE_OPENERS: dict[str, tuple[str, ...]] = {
    "full": ("overpitched {line}", "half-volley {line}", "too full {line}"),
    "short": ("too short {line}", "long hop {line}"),
}
LOOSE_ACTS: dict[str, tuple[str, ...]] = {
    "full": ("{bowler} overpitches {line}", "{bowler} serves up a half-volley {line}"),
    "short": ("{bowler} serves up a long hop {line}",),
}
LENGTH_WORD: dict[str, str] = {
    "yorker": "yorker length",
    "toss": "on the full",
    "full": "full",
    "good": "on a length",
    "back": "back of a length",
    "short": "short",
    "drag": "short",
}
VARIED_NOUNS = ("{a_variation}, {length_word} {line}", "{a_variation} {line}")
VARIED_OPENERS = (
    "{variation}, {length_word} {line}",
    "{variation} {line}",
    "it is {a_variation} {line}",
    "{variation} this time, {length_word} {line}",
)
VARIED_ACTS = (
    "{bowler} goes to the {variation} {line}",
    "{bowler} tries {a_variation} {line}",
    "{bowler} turns to the {variation}, {length_word} {line}",
    "{bowler} rolls out the {variation} {line}",
)


@dataclass(frozen=True)
class Variation:
    """A change ball: its name, the lengths it is bowled at, and what it does off the pitch or in the air."""

    name: str
    lengths: str
    move: str


_SEAMERS = (
    Variation("off-cutter", "full good back short", "slow"),
    Variation("leg-cutter", "full good back short", "slow"),
    Variation("knuckle ball", "full good", "slow"),
    Variation("back-of-the-hand slower ball", "full good toss", "slow"),
    Variation("slower ball", "full good back short", "slow"),
    Variation("cross-seam ball", "good back", "bounce"),
    Variation("inswinger", "full good", "in"),
    Variation("outswinger", "full good", "away"),
)
# "in" and "away" are seen by a right-hander for the off-spinner and swap with the batter's hand.
VARIATIONS: dict[str, tuple[Variation, ...]] = {
    "right-arm quick": _SEAMERS,
    "left-arm quick": _SEAMERS,
    "off-spin": (
        Variation("carrom ball", "full good", "away"),
        Variation("arm ball", "good", "straight"),
        Variation("top-spinner", "full good", "bounce"),
    ),
    "leg-spin": (
        Variation("googly", "full good", "in"),
        Variation("flipper", "good", "straight"),
        Variation("slider", "good", "straight"),
        Variation("top-spinner", "full good", "bounce"),
    ),
    "left-arm orthodox": (
        Variation("arm ball", "full good", "straight"),
        Variation("undercutter", "good", "straight"),
        Variation("top-spinner", "full good", "bounce"),
    ),
}
# Which way the stock ball goes to a right-hander.
STOCK_MOVE: dict[str, str] = {
    "right-arm quick": "away in straight",
    "left-arm quick": "in away straight",
    "off-spin": "in",
    "leg-spin": "away",
    "left-arm orthodox": "away",
}
MOVES: dict[str, dict[str, tuple[str, ...]]] = {
    "pace": {
        "in": ("nips back in", "tails in", "jags back", "comes in off the seam"),
        "away": ("leaves him late", "seams away", "shapes away", "holds its line and then leaves him"),
        "straight": ("hurries on", "goes straight on", "skids through", "keeps a shade low"),
        "slow": ("holds up in the pitch", "grips", "takes an age to arrive", "dips late"),
        "bounce": ("kicks off the deck", "climbs on him", "spits off a length"),
    },
    "spin": {
        "in": ("turns back in", "rips in", "bites and comes back", "spins in sharply"),
        "away": ("turns away", "rips away", "grips and leaves him", "spins away sharply"),
        "straight": ("goes straight on", "skids on", "hurries off the pitch", "does not turn"),
        "bounce": ("dips and bounces", "kicks up", "gets extra bounce"),
    },
}

# --- the field ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """A part of the ground: how a ball goes along it, over its ring, over its rope, and who stands there."""

    through: tuple[str, ...]
    chip: tuple[str, ...]
    over: tuple[str, ...]
    ring: str
    deep: str


REGIONS: dict[str, Region] = {
    "third": Region(
        ("past short third man", "down to the third man rope", "fine of third man", "to third man"),
        ("over the slips", "over short third man"),
        ("over third man", "over the third man rope"),
        "short third man",
        "third man",
    ),
    "point": Region(
        ("past point", "behind point", "past backward point", "square on the off side"),
        ("over point", "over backward point"),
        ("over deep point", "over backward point and all the way"),
        "backward point",
        "deep point",
    ),
    "cover": Region(
        ("through the covers", "past cover", "to the cover fence", "through cover"),
        ("over cover", "over the covers"),
        ("over deep cover", "over the cover fence"),
        "cover",
        "deep cover",
    ),
    "extra": Region(
        ("through extra cover", "past extra cover", "between cover and mid-off"),
        ("over extra cover", "over the man at extra cover"),
        ("over extra cover", "over wide long-off"),
        "extra cover",
        "deep extra cover",
    ),
    "long_off": Region(
        ("past mid-off", "wide of mid-off", "through the gap at mid-off"),
        ("over mid-off", "over the man at mid-off"),
        ("over long-off", "over the long-off fence"),
        "mid-off",
        "long-off",
    ),
    "straight": Region(
        (
            "straight down the ground",
            "back past the bowler",
            "past the stumps at the far end",
            "dead straight",
        ),
        ("back over the bowler", "straight over the umpire"),
        ("straight over the sightscreen", "back over the bowler's head", "down the ground"),
        "mid-off",
        "long-on",
    ),
    "long_on": Region(
        ("past mid-on", "wide of mid-on", "through the gap at mid-on"),
        ("over mid-on", "over the man at mid-on"),
        ("over long-on", "over wide long-on", "over the long-on fence"),
        "mid-on",
        "long-on",
    ),
    "midwicket": Region(
        ("through mid-wicket", "past mid-wicket", "between mid-wicket and mid-on", "to the mid-wicket fence"),
        ("over mid-wicket", "over the man at mid-wicket"),
        ("over deep mid-wicket", "over cow corner", "over the mid-wicket fence"),
        "mid-wicket",
        "deep mid-wicket",
    ),
    "square": Region(
        ("past square leg", "behind square on the leg side", "through square leg"),
        ("over square leg", "over backward square leg"),
        ("over deep square leg", "over the square leg fence"),
        "square leg",
        "deep square leg",
    ),
    "fine": Region(
        ("past short fine leg", "down to fine leg", "fine on the leg side", "to the fine leg rope"),
        ("over short fine leg", "over the keeper"),
        ("over fine leg", "over long leg"),
        "short fine leg",
        "fine leg",
    ),
}

# --- strokes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shot:
    """A stroke, the balls it can be played to, and where it goes along the ground and in the air."""

    noun: str
    kinds: str
    lengths: str
    lines: str
    ground: str = ""
    air: str = ""
    strokes: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    lofts: tuple[str, ...] = ()
    lofted: tuple[str, ...] = ()


SHOTS: tuple[Shot, ...] = (
    Shot(
        "cover drive",
        "pace spin",
        "full toss",
        "off wide",
        ground="cover extra",
        strokes=(
            "leans into the drive and strokes it",
            "gets a good stride in and drives it",
            "steps out and creams it",
            "gets his head over it and caresses it",
            "throws his hands into the drive and sends it",
            "waits for it and eases it",
        ),
        done=("driven", "stroked", "creamed", "caressed"),
    ),
    Shot(
        "straight drive",
        "pace spin",
        "full toss",
        "off stumps",
        ground="straight long_off",
        strokes=(
            "shows the full face and drives it",
            "presents the maker's name and punches it",
            "meets it under his eyes and drives it",
            "drills it hard",
            "does little more than push it",
        ),
        done=("drilled", "pushed", "thumped", "driven"),
    ),
    Shot(
        "on drive",
        "pace spin",
        "full toss",
        "leg stumps",
        ground="long_on",
        strokes=(
            "keeps his balance and on-drives it",
            "turns the wrists on the drive and sends it",
            "leans over the ball and works it",
            "drives it firmly",
        ),
        done=("on-driven", "driven", "worked"),
    ),
    Shot(
        "square drive",
        "pace",
        "full toss",
        "wide",
        ground="point",
        strokes=(
            "throws the bat at it and slices it",
            "drops to one knee and square-drives it",
            "frees his arms and carves it",
            "reaches for it and slaps it",
        ),
        done=("carved", "slapped", "sliced"),
    ),
    Shot(
        "flick",
        "pace spin",
        "full good",
        "leg",
        ground="midwicket square",
        air="square midwicket",
        strokes=(
            "uses his wrists and flicks it",
            "clips it off his legs",
            "turns his wrists over it and whips it",
            "works it with the angle",
            "helps it on its way",
        ),
        done=("flicked", "clipped", "whipped", "tucked away"),
        lofts=(
            "picks it up off his pads and sends it",
            "gets under it and flicks it high",
            "whips it up and away",
            "lifts it off his legs with a roll of the wrists",
        ),
        lofted=("whipped", "picked up and sent", "flicked"),
    ),
    Shot(
        "glance",
        "pace",
        "full good back",
        "leg",
        ground="fine",
        strokes=(
            "gets inside it and glances it",
            "lets it come and tickles it",
            "helps it round the corner",
            "just gets bat on it and steers it",
        ),
        done=("glanced", "tickled", "helped"),
    ),
    Shot(
        "cut",
        "pace spin",
        "short drag",
        "off wide",
        ground="point",
        strokes=(
            "rocks back and cuts it",
            "has all the room he needs and slashes it",
            "gets on top of the bounce and cracks it",
            "stays deep in his crease and carves it",
            "hammers the cut",
        ),
        done=("carved", "slashed", "cracked", "thrashed"),
    ),
    Shot(
        "late cut",
        "pace spin",
        "back good",
        "off",
        ground="third",
        strokes=(
            "opens the face at the last moment and runs it",
            "waits, waits, and dabs it",
            "plays it late and guides it",
            "uses the pace of the ball and steers it",
        ),
        done=("dabbed", "guided", "steered"),
    ),
    Shot(
        "upper cut",
        "pace",
        "short",
        "off wide",
        air="third",
        lofts=(
            "leans back and ramps it",
            "arches his back and upper-cuts it",
            "gets underneath it and helps it up",
            "slices it with an open face",
        ),
        lofted=("ramped", "sliced high", "lifted"),
    ),
    Shot(
        "pull",
        "pace",
        "back bouncer",
        "stumps leg",
        ground="midwicket square",
        air="midwicket square",
        strokes=(
            "swivels and pulls it",
            "rolls his wrists on the pull and drags it",
            "gets inside the line and swats it",
            "is quick on to the back foot and pulls it",
        ),
        done=("pulled", "swatted", "slapped"),
        lofts=(
            "picks the length early and pulls it",
            "stands tall and hammers it",
            "rocks back and heaves it",
            "swivels on the back foot and smokes it",
        ),
        lofted=("hammered", "pulled", "smoked"),
    ),
    Shot(
        "pull",
        "spin",
        "drag",
        "off stumps leg",
        ground="midwicket square",
        air="midwicket square",
        strokes=(
            "goes deep in his crease and pulls it",
            "has time to pick his spot and whacks it",
            "rocks back and slaps it",
            "waits on it and pulls it",
        ),
        done=("pulled", "whacked", "slapped"),
        lofts=(
            "swivels on the back foot and pulls it",
            "rocks back and mauls it",
            "has an eternity to play it and launches it",
            "sits back and clubs it",
        ),
        lofted=("mauled", "pulled", "clubbed"),
    ),
    Shot(
        "hook",
        "pace",
        "bouncer",
        "stumps leg",
        ground="fine square",
        air="fine square",
        strokes=(
            "takes it on and hooks it",
            "gets inside it and helps it round",
            "rolls his wrists and hooks it",
        ),
        done=("hooked", "helped along"),
        lofts=(
            "takes on the hook and gets all of it, up and",
            "goes with the bounce and hooks it",
            "helps it on its way with a free swing",
            "swings from head height and hooks it",
        ),
        lofted=("hooked", "helped along"),
    ),
    Shot(
        "back-foot punch",
        "pace",
        "back good",
        "off",
        ground="cover extra",
        strokes=(
            "rises on his toes and punches it",
            "stands tall and forces it",
            "plays it on the up and thumps it",
            "hits it on the rise",
        ),
        done=("punched", "forced", "hit on the up"),
    ),
    Shot(
        "sweep",
        "spin",
        "full good",
        "stumps leg",
        ground="square fine",
        strokes=(
            "goes down early and sweeps it",
            "gets his front leg out of the way and sweeps it hard",
            "drops to one knee and paddles it",
            "gets low and sweeps it",
        ),
        done=("swept", "paddled", "swept hard"),
    ),
    Shot(
        "slog-sweep",
        "spin",
        "full good",
        "stumps leg",
        air="midwicket square",
        lofts=(
            "gets down on one knee and slog-sweeps it",
            "plants the front leg and mows it",
            "gets low and heaves it with the turn of the shoulders",
            "kneels and launches it",
        ),
        lofted=("slog-swept", "mown", "heaved"),
    ),
    Shot(
        "reverse sweep",
        "spin",
        "full good",
        "off stumps",
        ground="third point",
        strokes=(
            "switches his hands and reverse-sweeps it",
            "reverses the blade and flays it",
            "premeditates the reverse sweep and nails it",
            "gets into position early and reverses it",
        ),
        done=("reverse-swept", "reversed"),
    ),
    Shot(
        "scoop",
        "pace",
        "full good toss",
        "stumps leg",
        air="fine",
        lofts=(
            "goes down on one knee and scoops it",
            "moves inside the line and laps it",
            "shuffles across and flips it",
            "bends low and ramps it",
        ),
        lofted=("scooped", "lapped", "flipped"),
    ),
    Shot(
        "lofted drive",
        "pace",
        "full good toss",
        "off stumps",
        air="long_off straight long_on",
        lofts=(
            "clears his front leg and launches it",
            "swings through the line and lifts it",
            "holds his shape and sends it high",
            "stays still, swings clean and hits it",
            "gets under it and thumps it",
        ),
        lofted=("launched", "lifted", "smoked", "thumped"),
    ),
    Shot(
        "lofted drive",
        "spin",
        "full good",
        "off stumps leg",
        air="long_off straight long_on",
        lofts=(
            "skips down the track and lofts it",
            "uses his feet and lifts it",
            "gets to the pitch and drives it high",
            "dances down and hoists it",
            "makes it a half-volley with quick feet and hits it",
        ),
        lofted=("lofted", "hoisted", "lifted"),
    ),
    Shot(
        "inside-out drive",
        "pace spin",
        "full good",
        "off stumps leg",
        air="extra cover",
        lofts=(
            "makes room and goes inside-out, lifting it",
            "backs away and carves it",
            "gives himself space outside leg and slaps it",
            "steps to the leg side and lofts it",
        ),
        lofted=("carved", "lofted inside-out", "lifted inside-out"),
    ),
    Shot(
        "slog",
        "pace spin",
        "full good toss",
        "off stumps leg",
        air="midwicket long_on",
        lofts=(
            "swings across the line and clouts it",
            "clears the front leg and muscles it",
            "swings for the hills and connects, up and",
            "throws everything at it and carts it",
            "gets hold of it and bludgeons it",
        ),
        lofted=("clouted", "muscled", "carted", "bludgeoned"),
    ),
    Shot(
        "whip",
        "pace",
        "yorker full",
        "stumps leg",
        ground="long_on midwicket",
        air="long_on midwicket",
        strokes=(
            "brings the wrists through late and whips it",
            "gets his front foot out of the way and jams it",
            "gets under the length with a snap of the wrists and drags it",
        ),
        done=("whipped", "wristed"),
        lofts=(
            "goes deep in his crease and whips it",
            "uncoils those wrists and flays it",
            "digs it out with a ferocious whip and sends it",
        ),
        lofted=("whipped", "wristed"),
    ),
    Shot(
        "late jab",
        "pace",
        "yorker",
        "wide stumps",
        ground="point third",
        strokes=(
            "jams the bat down and squeezes it",
            "opens the face just in time and squirts it",
            "digs it out and runs it",
        ),
        done=("squeezed", "squirted", "dug out"),
    ),
    Shot(
        "full-blooded drive",
        "spin",
        "toss",
        "off wide stumps",
        ground="extra cover long_off",
        air="long_off extra",
        strokes=("smears it on the full", "plants his foot and murders it", "says thank you and thumps it"),
        done=("smeared", "thumped"),
        lofts=(
            "hits it on the full and sends it",
            "says thank you and launches it",
            "frees his arms and tonks it",
        ),
        lofted=("tonked", "launched"),
    ),
    Shot(
        "heave",
        "pace spin",
        "toss",
        "stumps leg",
        ground="midwicket square",
        air="midwicket square",
        strokes=("swipes it away on the full", "cracks it before it can bounce", "wallops it"),
        done=("swiped", "walloped"),
        lofts=("swings on the full and dumps it", "swipes it high", "gets every bit of it and sends it"),
        lofted=("dumped", "swatted", "swiped"),
    ),
)
# The strokes each batting style looks for first.
STYLES: dict[str, str] = {
    "driver": "cover drive,straight drive,on drive,lofted drive,inside-out drive,back-foot punch",
    "puller": "pull,hook,cut,upper cut,slog,heave",
    "sweeper": "sweep,slog-sweep,reverse sweep,scoop,late cut,cut",
    "accumulator": "flick,glance,late cut,on drive,cover drive,sweep,cut",
    "finisher": "whip,slog,lofted drive,scoop,late jab,pull,heave,full-blooded drive",
    "tailender": "slog,pull,heave,late jab,square drive",
}

# --- telling a ball -------------------------------------------------------------------------------------

# Shapes every account may use. Facts bound per ball: batter, bowler, keeper, partner, nick (batting side),
# foes (fielding side), ringman/ring and deepman/deep (a fielder and his post), and the tables above.
SHARED: dict[str, tuple[str, ...]] = {
    "played": ("{batter} {clause} {region}",),
    "cheer": (
        "shot",
        "lovely",
        "glorious",
        "what a stroke",
        "that is gorgeous",
        "beautifully done",
        "oh, that is crisp",
        "superb",
        "sweetly struck",
        "easy as you like",
        "take a bow",
        "textbook",
    ),
    "roar": (
        "massive",
        "huge",
        "gone",
        "all the way",
        "monstrous",
        "bang",
        "clean as a whistle",
        "out of here",
        "what a hit",
        "that is enormous",
        "oh, that is a biggie",
        "never in doubt",
        "boom",
    ),
    "slip_up": (
        "{np} and that is asking for trouble",
        "{np}, and at this level you pay for those",
        "{bowler} will not want to see {np} again",
        "poor ball, {np}, and it got what it deserved",
        "too easy to hit, {np}",
        "{np}, just what {batter} was waiting for",
        "{bowler} missed his mark there, {np}",
        "there was nothing wrong with the plan, but {np} was not part of it",
        "that is a gift from {bowler}, {np}",
        "nothing subtle about it, {np}",
        "{np}, and the only question was where it would go",
        "you cannot set a field for {np}",
        "the captain had not asked for {np}",
        "{bowler} knew it as soon as he let it go, {np}",
    ),
    "no_slip_up": (
        "not a bad ball at all, {np}, just better batting",
        "{bowler} did little wrong there, it was {np}",
        "{np}, and most batters would have been happy to keep it out",
        "that was {np} and {batter} made it look ordinary",
        "{bowler} can only shrug, it was {np}",
        "it takes a good eye to do that to {np}",
        "hard to blame {bowler} for {np}",
        "it was {np}, exactly where the captain wanted it",
        "you could bowl {np} all day and not be hit like that",
        "{np}, and in another format it is left alone",
        "{bowler} nods, he has seen {np} go the other way often enough",
        "credit to {batter}, as {np} is nobody's idea of a bad ball",
    ),
    "read_it": (
        "{batter} read the {variation} out of the hand",
        "the {variation} did not fool {batter} one bit",
        "{bowler} tried the {variation} and {batter} was waiting",
        "that was the {variation}, and {batter} saw it early",
        "good idea, the {variation}, but {batter} was a step ahead",
        "no mystery in the {variation} that time",
        "it was {a_variation}, and it sat up to be hit",
        "the {variation} came out well enough but {batter} waited for it",
        "{bowler} has used the {variation} once too often",
        "a word from {keeper} about that {variation}, perhaps",
    ),
}

# A four along the ground.
FOUR_LEADS: tuple[str, ...] = (
    "{opener}, {played}",
    "{opener}, {played}",
    "{act}, {played}",
    "{act} and {played}",
    "{np} and {played}",
    "{cheer}! {opener}, {played}",
    "{cheer}, {played}. {verdict}",
    "{done} {region}! {verdict}",
    "a fine {noun}, and it goes {region}. {verdict}",
    "{played}. {verdict}",
    "{played}, timed to perfection. {verdict}",
    "{batter} will remember that {noun}, hit {region}. {verdict}",
    "{batter} was never going to miss out on {np}, {clause} {region}",
    "{np}, {done} {region} with something to spare",
    "{opener}, met with the {noun} and away it goes {region}",
    "out comes the {noun} and it flies {region}. {verdict}",
    "{bowler} runs in again, {np}, {done} {region}",
    "{played}, and {bowler} has his hands on his hips. {verdict}",
    "four from the moment it left the bat. {opener}, {played}",
    "{batter} makes {bowler} pay, {clause} {region}. {verdict}",
    "sees it, hits it. {opener}, {done} {region}",
    "{opener}, {batter} in no doubt, {clause} {region}",
    "that has been put away, {done} {region}. {verdict}",
    "no half measures from {batter}, {clause} {region}",
    "there it goes, {done} {region}! {bowler} had bowled {np}",
)
FOUR_FIELD: tuple[str, ...] = (
    "{ringman} dives at {ring} and gets nothing on it",
    "{ringman} at {ring} could only watch it go by",
    "{ringman} goes full length at {ring}, too late",
    "{ringman} barely moved at {ring}",
    "{ringman} got fingertips to it at {ring} but could not stop it",
    "it beat {ringman} at {ring} for pace",
    "{deepman} gives chase from {deep} and gives it up",
    "{deepman} sprints round from {deep}, slides, and is a whisker late",
    "{deepman} had a long way to come from {deep}",
    "{deepman} throws himself at the rope from {deep}, in vain",
    "{deepman} slips as he turns at {deep} and that settles it",
    "the boundary rider at {deep} never had a chance",
    "no need to run for those",
    "the outfield is quick and does the rest",
    "the gap was there and he found it",
    "it raced away across a dry outfield",
    "bisected the two fielders perfectly",
    "not a fielder moved",
    "placement, not power",
    "all along the carpet",
)
# A four hit in the air over the ring.
CHIP_LEADS: tuple[str, ...] = (
    "{opener}, {played}, one bounce and into the boards",
    "{act}, {played}, and it drops safely before the rope",
    "{played}, a couple of bounces and away. {verdict}",
    "{cheer}! {played}. {verdict}",
    "{lofted} {region} and it lands just inside the rope. {verdict}",
    "up in the air and safe, {lofted} {region}. {verdict}",
    "{np} and {played}, short of the man in the deep",
    "out comes the {noun}, up {region}, not all the way but four all the same",
    "{opener}, {played}, cleverly done with the infield up",
    "{batter} takes the aerial route, {lofted} {region}. {verdict}",
)
CHIP_FIELD: tuple[str, ...] = (
    "it clears {ringman} at {ring} with room to spare",
    "{ringman} leaps at {ring} but it is well over him",
    "{ringman} back-pedals from {ring} and runs out of hope",
    "{deepman} comes round from {deep} and sees it bounce once and go",
    "{deepman} was ten metres away at {deep}",
    "it was in the air for a long time but there was no one under it",
    "he saw the field was in and backed himself",
    "no six, but nobody on the batting side minds",
    "a calculated risk and it comes off",
)
OUTSIDE_EDGES: tuple[str, ...] = (
    "{opener}, it {move} and {batter} gets a thick outside edge that flies past the vacant slips",
    "edged and four! {opener}, {batter} pushes with hard hands and it runs away to third man",
    "not where he meant it. {batter} plays at {np}, it {move}, and the edge beats the keeper's dive",
    "streaky. It was {np}, it {move}, and the outside edge races past {keeper}'s right glove",
    "{bowler} deserved better, {np} that {move}, but the edge goes wide of slip",
    "{batter} plays away from his body at {np} and slices it off the edge to third man",
    "false stroke but four, {np}, thick edge and nobody at slip",
    "{np}, {batter} throws his hands at it and the edge flies over where first slip would be",
)
INSIDE_EDGES: tuple[str, ...] = (
    "{opener}, it {move}, takes the inside edge and just misses leg stump on its way to fine leg",
    "chopped past the stumps! {batter} plays at {np}, it {move}, and away it goes off the inside edge",
    "how did that miss? It was {np}, {batter} dragged it off the inside edge and it shaved leg stump",
    "lucky, very lucky. {np}, it {move}, inside edge, past {keeper} and away",
    "{bowler} has his hands on his head. It {move}, finds the inside edge and beats everything",
    "{batter} swings too early at {np} and gets four off the bottom edge, fine of {keeper}",
    "inside edge and four. {opener}, {batter} was nowhere near the middle of the bat",
)
UNLUCKY: tuple[str, ...] = (
    "they all count the same in the book",
    "{bowler} stares down the pitch with a rueful smile",
    "{bowler} kicks the turf on his way back",
    "runs all the same, and {batter} will take them",
    "no slip in place, and that is the price",
    "{keeper} consoles his bowler",
    "on another day that is a wicket",
    "{batter} has a quiet word with himself",
)

SIX_LEADS: tuple[str, ...] = (
    "{opener}, {played}",
    "{opener}, {played}, {seats}",
    "{act}, {played}",
    "{act} and {played}, {seats}",
    "{np} and {played}",
    "{roar}! {opener}, {played}",
    "{roar}! {played}, {seats}. {verdict}",
    "{roar}, {lofted} {region}. {verdict}",
    "{lofted} {region}, {seats}! {verdict}",
    "{lofted} {region}! {verdict}",
    "that is six more, {lofted} {region}. {verdict}",
    "{played}. {verdict}",
    "{batter} does not hold back, {clause} {region}, {seats}",
    "out comes the {noun}, and how. It goes {region}, {seats}",
    "in the slot, {np}, and {batter} {clause} {region}",
    "up it goes, {lofted} {region}, {seats}. {verdict}",
    "the sound off the bat said it all, {lofted} {region}. {verdict}",
    "{batter} picks his spot, {clause} {region}. {verdict}",
    "{roar}! {act} and {played}",
    "have some of that! {opener}, {played}",
    "look up, everyone. {opener}, {played}, {seats}",
    "{bowler} watches it disappear, {lofted} {region}. {verdict}",
    "{batter} takes the risk and the reward, {clause} {region}. {verdict}",
)
SEATS: tuple[str, ...] = (
    "ten rows back",
    "into the second tier",
    "and on to the roof of the stand",
    "into the crowd",
    "over the boards and into the car park",
    "and the crowd scatters",
    "into the sea of flags",
    "and into the top deck",
    "deep into the grass bank",
    "and that ball may need replacing",
    "into the hospitality boxes",
    "and a youngster in the crowd takes a clean catch",
)
SIX_FIELD: tuple[str, ...] = (
    "{deepman} at {deep} just turns and looks",
    "{deepman} leaps on the rope at {deep} but it clears him",
    "{deepman} at {deep} was a spectator",
    "{deepman} lines it up at {deep} and then sees it sail over",
    "{deepman} got a hand to it at {deep} and only helped it over",
    "no one in the deep took a step",
    "{metres} metres, they say",
    "that one measured {metres} metres",
    "the bat made a sound like a gate slamming",
    "{bowler} did not bother to turn round",
    "the ball boys are busy tonight",
    "all timing, hardly any effort",
    "held the pose too, and why not",
    "a flat one, still rising as it crossed the rope",
    "high rather than flat, and plenty on it",
    "enough on it to carry any rope in the league",
)

# --- wickets --------------------------------------------------------------------------------------------

GONE: tuple[str, ...] = (
    "{bowler} strikes",
    "got him",
    "gone",
    "that is out",
    "the breakthrough",
    "there is the wicket",
    "{batter} has to go",
    "{bowler} has his man",
    "{batter} perishes",
    "a big moment",
    "that is the end of {batter}",
)
GONE_CAUGHT: tuple[str, ...] = (
    "taken",
    "caught",
    "up in the air and held",
    "safe hands",
    "no mistake",
    "hit in the air, and out",
    "{bowler} gets his reward",
    "held",
)
ATTEMPTS: tuple[str, ...] = (
    "{batter} goes for the {noun}",
    "{batter} tries the {noun}",
    "{batter} attempts the {noun}",
    "{batter} shapes for the {noun}",
    "{batter} looks for the {noun}",
    "{batter} cannot resist the {noun}",
    "{batter} chooses the {noun}",
    "{batter} sets himself for the {noun}",
)
# A lofted stroke that falls short of the rope, then the man who takes it.
DEEP_MISHITS: tuple[str, ...] = (
    "but does not get enough of it",
    "and hits it high rather than long",
    "but it comes off the toe of the bat",
    "and hits it well, only not well enough",
    "but loses his shape as he swings",
    "and gets it too flat",
    "but is cramped and cannot free his arms",
    "and is beaten by the bigger side of the ground",
    "but it goes a long way up and not far enough out",
)
DEEP_CATCHES: tuple[str, ...] = (
    "{deepman} settles under it at {deep} and takes it",
    "{deepman} at {deep} barely had to move",
    "{deepman} runs in from {deep} and holds a good low catch",
    "{deepman} goes back, back, and takes it a step inside the rope at {deep}",
    "{deepman} judges it well at {deep}, both hands above his head",
    "{deepman} throws it up at {deep}, steps over the rope, steps back and completes a stunning catch",
    "straight down the throat of {deepman} at {deep}",
    "{deepman} covers twenty metres from {deep} and makes it look routine",
    "{deepman} swallows it at {deep}",
    "swirling in the lights, but {deepman} keeps his eyes on it at {deep}",
    "{deepman} waits at {deep} for what seems an age, and does not spill it",
    "a running catch by {deepman} at {deep}, full stretch, lovely",
    "into the hands of {deepman} at {deep}, reverse cupped",
    "{deepman} did not have to leave his mark at {deep}",
)
# A stroke along the ground that pops up to the inner ring.
RING_MISHITS: tuple[str, ...] = (
    "but is through the stroke too soon",
    "but it stops on him a touch",
    "and does not keep it down",
    "but plays it with an angled bat",
    "and gets it off the splice",
    "but there was no foot movement to speak of",
    "and hits it in the air for once",
    "but reaches for it and spoons it up",
)
RING_CATCHES: tuple[str, ...] = (
    "{ringman} takes it low at {ring}",
    "{ringman} dives to his right at {ring} and plucks it one-handed",
    "a simple one for {ringman} at {ring}",
    "{ringman} flings himself to the left at {ring} and clings on",
    "straight to {ringman} at {ring}, who says thank you",
    "{ringman} at {ring} held on at the second attempt",
    "{ringman} hardly had to stoop at {ring}",
    "reflexes from {ringman} at {ring}, that was travelling",
    "{ringman} leaps at {ring} and hauls it in above his head",
    "never in doubt once {ringman} was under it at {ring}",
    "{ringman} takes three steps back from {ring} and holds it over his shoulder",
    "lobbed up, and {ringman} comes forward from {ring} to claim it",
    "{ringman} gets both hands to it at {ring} and rolls over, ball held high",
)
KEEPER_EDGES: tuple[str, ...] = (
    "{opener}, it {move}, {batter} feels for it and feathers it through to {keeper}",
    "{np} that {move}, {batter} pokes from the crease and nicks off",
    "{batter} hangs the bat out at {np}, it {move}, and the thin edge goes behind",
    "{act}, it {move}, takes the edge and {keeper} does the rest",
    "{batter} plays without moving his feet at {np}, it {move}, and {keeper} takes a regulation catch",
    "{opener}, it {move}, just enough to kiss the edge, and {keeper} goes up at once",
    "a loose waft at {np}, it {move}, and the nick was heard all round the ground",
)
KEEPER_TOP_EDGES: tuple[str, ...] = (
    "{opener}, {attempt}, and the top edge goes straight up. {keeper} calls everyone away and holds it",
    "{attempt} to {np} and the top edge balloons to {keeper}",
    "{act}, {attempt} and gets the top edge. {keeper} tumbles forward and scoops it up",
    "{attempt} to {np}, skies it, and {keeper} runs round to take it over his shoulder",
    "{opener}, {attempt}, and a steepling top edge comes down into {keeper}'s gloves",
)
CAUGHT_LEADS: tuple[str, ...] = (
    "{opener}, {attempt} {mishit}. {catch}",
    "{act}, {attempt} {mishit}. {catch}",
    "{attempt} to {np} {mishit}. {catch}",
    "{np}, {attempt} {mishit}. {catch}",
    "{catch}. It was {np}, {attempt} {mishit}",
)
CAUGHT_BOWLED: tuple[str, ...] = (
    "{opener}, it {move}, {batter} is through his shot early and lobs it back. {bowler} accepts the gift",
    "{batter} drills {np} straight back and {bowler} holds on, almost in self-defence",
    "{np}, a leading edge, and {bowler} dives forward to take it an inch off the turf",
    "{act}, {batter} chips it back down the pitch, and {bowler} sticks out a hand. Brilliant reactions",
    "{batter} checks his drive at {np}, it {move}, and it loops up for {bowler} to pouch",
    "{opener}, hit hard and straight, and somehow {bowler} clings on with one hand low to his right",
)
BOWLED: tuple[str, ...] = (
    "{opener}, it {move}, beats the bat and takes the top of {stump}",
    "{np}, {batter} swings, misses, and {stump} is out of the ground",
    "{batter} plays all round {np} and hears the rattle behind him",
    "{act}, it {move}, and the bails light up. {batter} was beaten all ends up",
    "{batter} heaves across the line at {np}, it {move}, and {stump} goes back",
    "cleaned him up! {opener}, {batter} is nowhere near it and the stumps are a mess",
    "beaten and bowled! {np}, it {move}, and {stump} is pegged back",
    "{batter} backs away to make room and {bowler} follows him, {np}, hitting {stump}",
    "dragged on! {np}, {batter} goes hard at it and gets an inside edge on to {stump}",
    "{opener}, {batter} has no answer, and it thuds into {stump}",
)
BOWLED_YORKER: tuple[str, ...] = (
    "{opener}, under the bat and into the base of {stump}. Unplayable",
    "the perfect yorker! {batter} jams down too late and {stump} is flat on the ground",
    "{act}, {batter} falls over trying to dig it out, and {stump} cartwheels away",
    "toe-crusher! {batter} swings over the top of it and loses {stump}",
)
STUMPS: tuple[str, ...] = ("off stump", "middle stump", "leg stump")
LBW: tuple[str, ...] = (
    "{opener}, it {move}, hits the pad before the bat comes down, and the finger goes up",
    "{np}, {batter} misses, struck in front, and that looks as dead as they come",
    "{batter} plays across {np}, it {move}, and the umpire has no doubt",
    "{act}, it {move} and raps {batter} on the back pad. Long look from the umpire, then the finger",
    "trapped in front! {np}, {batter} beaten on the inside, and there is nothing to discuss",
    "{np}, {batter} plants the front leg and it {move}. Big appeal, and it is given",
    "{opener}, {batter} misses, pad first. He asks for the review and it is three reds",
    "huge shout, given! It was {np}, it {move}, and it was going on to hit {stump}",
)
LBW_SWEEP: tuple[str, ...] = (
    "{opener}, {batter} goes down to sweep, misses, and is hit in line. Up goes the finger",
    "{batter} misses the sweep at {np}, it {move}, and he knows it at once",
    "{act}, {batter} is on one knee and is struck on the thigh pad in front of middle. Given",
)
STUMPED: tuple[str, ...] = (
    "{batter} dances down, {bowler} sees him coming, {np}. It {move} and {keeper} whips off the bails",
    "{opener}, it {move}, {batter} is drawn out of his crease and {keeper} does the rest in a flash",
    "{batter} charges, misses {np}, and does not bother to look back at {keeper}",
    "{act}, it {move} past the swing, and {keeper} is lightning quick with the gloves",
    "{np}, {batter} overbalances and his back foot is on the line. {keeper} had the bails off",
    "{batter} is beaten in the flight, {np}, and stranded halfway down. {keeper} takes his time",
)
# Sent back before the first run is made, and turning for a second.
RUN_OUT_NO_RUN: tuple[str, ...] = (
    "{shove}, {out} wants a single, is sent back, and {thrower}'s throw from {ring} beats the dive",
    "a mix-up! {shove}, yes, no, and {out} is stranded when {thrower} hits direct from {ring}",
    "{shove}, there was never a run there. {thrower} swoops at {ring} and throws down the stumps",
    "{shove}, {out} sets off, stops and turns too late. {thrower} did everything right at {ring}",
    "hesitation kills. {shove}, {out} is halfway down when {thrower} swoops at {ring} and hits",
)
RUN_OUT_SECOND: tuple[str, ...] = (
    "{shove}, they want two, but {thrower} is quick from {deep} and {out} is a yard short",
    "{shove}, the second was always risky and {out} is short of {thrower}'s bullet throw from {deep}",
    "{shove}, {out} turns blind for the second and {thrower} makes him pay from {deep}",
    "{shove}, back for two, the dive is full length but {thrower}'s arm from {deep} is better",
    "greedy. {shove}, one was plenty, and {out} is well out when {thrower} throws flat from {deep}",
)
# Only when the ball was a variation.
UNDONE: tuple[str, ...] = (
    "the {variation} did the trick",
    "beautifully bowled, the {variation} at just the right time",
    "{batter} never picked the {variation}",
    "he had set him up for that {variation}",
    "it was the {variation} that did him",
    "that is the {variation} doing its work",
)
WICKET_ASIDES: tuple[str, ...] = (
    "{bowler} roars and the rest come running",
    "{bowler} points to the dressing room and his mates mob him",
    "{batter} walks off without looking up",
    "the {foes_nick} are up and about",
    "{batter} looks at the pitch, then at his bat, and trudges off",
    "{batter} cannot believe it",
    "just what the captain ordered",
    "{bowler} has been asking questions and there is the answer",
    "the plan was clear and it has worked",
    "{partner} looks on from the other end in dismay",
    "{bowler} will take that any day",
    "a quiet fist pump from {bowler}",
    "the huddle is a happy one",
)

# --- the few quiet balls worth a line -------------------------------------------------------------------

SHOVES: dict[str, tuple[str, ...]] = {
    "wide": ("driven square by {batter}", "steered off the face by {batter}"),
    "off": (
        "pushed to the off side by {batter}",
        "dabbed away by {batter}",
        "{batter} plays it into the off side",
    ),
    "stumps": ("worked away by {batter}", "{batter} pushes it away", "{batter} knocks it into a gap"),
    "leg": ("clipped to leg by {batter}", "turned to the leg side by {batter}", "{batter} tucks it away"),
}
SHOVE_REGIONS: dict[str, str] = {
    "wide": "point cover",
    "off": "cover point extra",
    "stumps": "long_on midwicket",
    "leg": "midwicket square",
}
QUIET: dict[str, tuple[str, ...]] = {
    "beaten": (
        "{opener}, it {move} and beats the outside edge. {bowler} smiles, {batter} does not",
        "past the bat! {np}, it {move}, and {keeper} gathers with a groan",
        "{batter} pushes at {np}, it {move}, and there is nothing between that and a wicket but luck",
        "what a ball. {act}, it {move}, and {batter} is groping",
        "{opener}, {batter} swings hard and misses by a distance",
        "{np}, {batter} plays for one line and it {move}. Beaten all ends up",
        "so close! {opener}, it {move}, {batter} nowhere near it",
        "{batter} plays and misses at {np}. A little word from {bowler} to go with it",
        "{keeper} is up and then down again, {np}, no edge",
        "{opener}, {batter} tries to force it and connects with thin air",
        "beauty. {np}, it {move}, and the edge was a coat of varnish away",
    ),
    "shout": (
        "big appeal! {opener}, {batter} is hit on the pad. Not out, says the umpire, it was going down",
        "{np}, it {move} and thumps the pad. {bowler} begs, the umpire shakes his head, no review",
        "close! {act}, pad first, and the review shows it clipping nothing. {foes} lose it",
        "{batter} misses {np} and the whole ring goes up. Turned down, and too high on the replay",
        "{opener}, it {move} and strikes {batter} in front, or so they think. An inside edge saves him",
    ),
    "stopped": (
        "{opener}, {batter} hits it firmly but {ringman} dives at {ring} and saves four",
        "stunning stop! {batter} thumps {np} and {ringman} at {ring} comes up with the ball in his hand",
        "{act}, hit straight at {ringman} at {ring}, who knocks it down",
        "{np}, {batter} finds the man at {ring}. {ringman} has been busy there",
    ),
    "dropped": (
        "dropped! {opener}, {attempt} {mishit}. It goes in and out of {deepman}'s hands at {deep}",
        "put down! {attempt} to {np} {mishit}, and {deepman} at {deep} makes a mess of it",
        "a life for {batter}! {act}, {attempt} {mishit}. {deepman} ran round from {deep} and spilled it",
        "{opener}, {attempt} {mishit}. {deepman} loses it in the lights at {deep}",
        "oh dear. {np}, {attempt} {mishit}, and {deepman} drops a sitter at {deep}",
    ),
    "shy": (
        "{shove}, {ringman} swoops at {ring}, aims at one stump and misses. A direct hit was out",
        "{shove}, quick single, and {ringman}'s throw from {ring} misses everything. {partner} had given up",
        "risky! {shove}, {partner} is called through and {ringman}'s underarm from {ring} just misses",
        "{shove} and they scramble through. {ringman} fumbles at {ring} with both batters in trouble",
        "{shove}, direct hit from {ringman} at {ring}! Upstairs they go, and {partner} is in by a toe",
    ),
    "saved": (
        "{opener}, {batter} hits it hard but {deepman} slides round at {deep} and flicks it back",
        "{batter} gets hold of {np} and only gets one, superb work on the rope by {deepman} at {deep}",
        "that looked four all the way. {np}, struck cleanly, and {deepman} sprawls at {deep} to pull it in",
        "{act}, well hit, but straight to {deepman} at {deep}",
        "{opener}, middled by {batter}, and a full-length stop from {deepman} at {deep} keeps it to one",
        "three saved. {batter} puts {np} away, or so he thinks, until {deepman} gets across at {deep}",
    ),
    "nudge": (
        "{shove} towards {deep} for one",
        "{opener}, {shove} for a single",
        "{np}, {shove}, and they trot through",
        "{act}, {shove} for one more",
    ),
    "two": (
        "{shove} and they hare back for the second, {deepman}'s throw from {deep} just off line",
        "{shove}, good running. {partner} calls loudly for two and gets it",
        "{opener}, {shove} into the gap, and {deepman} at {deep} fumbles long enough to let them back",
        "{shove} and two taken off the arm of {deepman} at {deep}, cheeky and well judged",
        "{np}, {shove}. Hard yards, but that is two",
        "{batter} wants two at once. {shove}, {deepman} has to come round from {deep}, and back they come",
    ),
    "wide_off": (
        "{bowler} goes for the tramline and misses it by a foot. Extra run, extra ball",
        "way outside off, {batter} lets it go and the umpire stretches his arms",
        "too far outside off from {bowler}. {batter} shuffled across and even then could not reach it",
        "the ball slips out and {keeper} has to dive a long way to his right to stop it",
        "{bowler} tries to hide it from {batter} and hides it from the umpire as well",
        "{batter} backs away, {bowler} follows the wrong way, and it is out of reach on the off side",
    ),
    "wide_leg": (
        "down the leg side and {keeper} does well to save four",
        "{bowler} follows {batter} too far and it slides past leg stump. Arms out",
        "too straight, then too far down leg. {bowler} is not happy with himself",
        "past the pads and past leg stump. {foes} cannot afford many of those",
        "{batter} misses the tickle, no bat, no pad, just an extra to the {nick}",
        "leg-side from {bowler}, {keeper} tumbles across and takes it cleanly",
    ),
    "leg_bye": (
        "{opener}, off the pad and they steal one",
        "{np}, {batter} misses the flick and it trickles away off the pad",
        "{batter} is hit on the thigh pad and they jog a single",
    ),
    "leg_bye_four": (
        "{opener}, {batter} misses it, but it clips the pad and beats {keeper} to the fine leg rope",
        "{np}, off the thigh pad, and it runs away past {keeper}. Four to the total, none to the bat",
        "{batter} tries to help {np} round the corner and it goes off the pad. {bowler} is beside himself",
        "no bat on it, but the pads do the job. {np}, away to fine leg",
        "{act}, into the pads and away to the rope. {keeper} got a glove to it and no more",
    ),
}

# --- remarks on the match, each under the condition that makes it true ----------------------------------

REMARKS: dict[str, tuple[str, ...]] = {
    # The match or the innings ends on this ball.
    "won": (
        "that is the match! The {nick} win by {wickets_left} with {spare} to spare",
        "and that seals it, the {nick} home by {wickets_left} with {spare} in hand",
        "game over. The {nick} chase down {target} with {spare} left and {wickets_left} standing",
        "the winning runs, and the {nick} get there by {wickets_left} with {spare} unused",
    ),
    "won_last": (
        "they have done it off the very last ball! The {nick} win by {wickets_left}",
        "last ball, and the {nick} are over the line by {wickets_left}. What a finish",
        "you could not write it. The {nick} win by {wickets_left} off the final ball",
    ),
    "lost": (
        "that is the end of it, the {foes_nick} win by {margin}",
        "the chase is over and the {nick} fall {margin} short of a tie",
        "all done. The {foes_nick} defend {par} and win by {margin}",
        "the {foes_nick} shake hands all round, winners by {margin}",
    ),
    "tied": (
        "the scores are level! It is a tie, and nobody knows whether to laugh or cry",
        "a tie! Both sides finish on {runs} and the ground is in uproar",
    ),
    "all_out": (
        "the {nick} are all out for {runs}",
        "that is the last of them, {runs} all out",
        "all over for the {nick}, {runs} the total and {asked} needed to win",
    ),
    "closed": (
        "the innings closes on {score} and the target is {asked}",
        "the {nick} finish on {score}, so {asked} is the equation for the chase",
        "{score} at the end of the twenty, and the bowlers have {par} to defend",
    ),
    # Milestones reached on this ball.
    "fifty": (
        "fifty for {batter}, off {balls}",
        "that brings up the half-century, {balls} to get there, and {batter} raises the bat",
        "{batter} goes to fifty in style, {balls} all it took",
        "a fifty for {batter} from {balls}, and the dugout is on its feet",
        "{batter} takes the helmet off, fifty from {balls}",
    ),
    "quiet_fifty": (
        "fifty for {batter}, off {balls}",
        "a half-century for {batter}, and it has taken {balls}",
        "{batter} raises the bat to the dugout, fifty from {balls}",
        "{batter} takes the helmet off, fifty from {balls}",
    ),
    "hundred": (
        "a hundred for {batter}, from only {balls}! The whole ground stands",
        "there it is, the hundred! {balls}, and {batter} sinks to his knees",
        "three figures for {batter} from {balls}, and what an innings it has been",
    ),
    "hat_trick": (
        "it is a hat-trick! Three in three for {bowler}, and he has vanished under a pile of team-mates",
        "a hat-trick for {bowler}! Three balls, three wickets",
    ),
    "on_hat_trick": (
        "two in two for {bowler}, who will be on a hat-trick",
        "{bowler} has two in two balls and the field comes in",
        "back-to-back wickets for {bowler}",
    ),
    "five_for": (
        "a five-wicket haul for {bowler}, and he holds the ball up to the stands",
        "five for {bowler}! A spell to tell the grandchildren about",
    ),
    # The dismissed batter.
    "golden_duck": (
        "first ball! {batter} goes without scoring",
        "a golden duck for {batter}",
        "{batter} came, saw one ball and went",
    ),
    "duck": ("no score for {batter}", "{batter} goes for nothing", "a duck for {batter}, {balls} faced"),
    "big_innings_ends": (
        "end of a fine hand of {bruns} from {batter}",
        "{batter} gets a warm ovation for his {bruns}",
        "the big one, {batter} goes for {bruns} after {balls}",
    ),
    "missed_fifty": (
        "so close to a fifty, {batter} falls for {bruns}",
        "{batter} misses out on a fifty with {bruns}",
    ),
    "short_stay": ("{batter} could not get going, just {bruns}", "{batter} makes only {bruns}"),
    "stand_broken": (
        "that ends a stand of {stand}",
        "the partnership is broken at {stand}",
        "{bowler} breaks a stand worth {stand}",
        "{stand} they had put on together, and no more",
    ),
    "first_over_wicket": (
        "a wicket in the very first over",
        "trouble already for the {nick}, {score} in the first over",
    ),
    "early_wicket": (
        "early trouble for the {nick} at {score}",
        "the {nick} lose one inside the powerplay, {score}",
        "{score}, and the powerplay is not over yet",
    ),
    "collapse": (
        "the {nick} are in a hole at {score}",
        "{score}, and this innings is coming apart",
        "it is {score} now and the {nick} need someone to drop anchor",
    ),
    "death_wicket": (
        "{score}, with the slog on",
        "the hitting comes at a price, {score}",
        "{score} now and the tail is not far away",
    ),
    "bowler_wickets": (
        "that is number {bwickets} for {bowler}",
        "{bowler} has {bwickets} now for {bconceded}",
        "{bwickets} for {bconceded} so far for {bowler}",
    ),
    "wicket_score": ("the {nick} are {score}", "{score} now", "it leaves the {nick} on {score}"),
    # Runs off the bat.
    "off_mark": (
        "{batter} is off the mark, and how",
        "first runs for {batter}",
        "what a way for {batter} to get going",
    ),
    "first_ball": (
        "first ball he has faced, too",
        "{batter} did not need a sighter",
        "no looking at the pitch for {batter}",
    ),
    "first_four": ("the first four of the innings", "that is the first four for the {nick}"),
    "first_six": ("the first six of the innings", "the {nick} have their first six"),
    "two_boundaries": (
        "back-to-back boundaries",
        "two in two for {batter}",
        "that is two boundaries on the trot",
    ),
    "three_boundaries": (
        "three boundaries in a row for {batter}",
        "a third in succession, and {bowler} has no answer",
    ),
    "more_boundaries": (
        "{batter} has hit the last {streak} balls to the rope",
        "{streak} in a row now! {bowler} looks at the sky",
    ),
    "big_over": (
        "{over_runs} off the over",
        "an over worth {over_runs} to the {nick}",
        "{over_runs} came from that over, and {bowler} takes his cap quickly",
    ),
    "good_finish": (
        "it spoils a tidy over, {over_runs} from it in the end",
        "{bowler} had done well until then, {over_runs} off the over",
    ),
    "over_so_far": ("{over_runs} off the over already", "that makes it {over_runs} from this over"),
    "stand_fifty": (
        "fifty partnership between {batter} and {partner}",
        "that is the fifty stand, {batter} and {partner} in control",
    ),
    "stand_hundred": ("the hundred partnership comes up for {batter} and {partner}",),
    "team_mark": (
        "up comes the {mark} for the {nick}",
        "that takes the {nick} to {score}",
        "{mark} on the board for the {nick}",
    ),
    "in_the_mood": (
        "{batter} is in the mood now, {bruns} from {balls}",
        "{bruns} from {balls}, and {batter} is seeing it like a football",
        "{batter} is flying, {bruns} off {balls}",
        "how do you bowl to {batter}? {bruns} from {balls}",
    ),
    "breaks_free": (
        "{batter} needed that, he has {bruns} from {balls}",
        "release at last for {batter}, {bruns} from {balls}",
        "{batter} had been tied down, {bruns} from {balls} now",
    ),
    "expensive": (
        "{bconceded} off {bowler} so far, in his {bover} over",
        "{bconceded} off {bowler} so far",
        "{bowler} is being taken apart, {bconceded} conceded",
    ),
    # The chase.
    "cruising": (
        "{need} needed from {left}, and the {nick} are cruising",
        "only {need} to get now with {left} to come",
        "the {nick} need {need} from {left}, a stroll from here",
    ),
    "even_chase": (
        "{need} needed from {left}",
        "the {nick} want {need} more from {left}",
        "the equation is {need} from {left}",
        "required rate {rate}, {need} from {left}",
    ),
    "steep_chase": (
        "still {need} needed from {left}, though",
        "{need} from {left}, and the rate is up to {rate}",
        "it may be too late, {need} needed from {left}",
        "the {nick} need {rate} an over from here",
    ),
    "nail_biter": (
        "{need} needed from {left}! Nobody is sitting down",
        "{need} from {left}, and you can cut the air with a knife",
        "it is down to {need} from {left}",
    ),
    # The phase of the innings.
    "powerplay": (
        "the {nick} are making the powerplay count, {score}",
        "only two men out in the deep and {batter} knows it",
        "the field is up and {batter} is making use of it",
        "the {nick} mean to use the field restrictions",
        "the hard new ball comes off the bat nicely",
        "{foes} would like a quiet over before the field spreads",
        "the ring is in and there is a lot of green behind it",
        "{score} in the powerplay",
    ),
    "middle": (
        "{score}, and the {nick} are ticking along",
        "just what was needed in these middle overs",
        "the {nick} keep the board moving",
        "no lull after the powerplay for the {nick}",
        "{foes} want a wicket to slow this down",
        "the singles have been easy, and now that",
        "the {nick} move to {score}",
        "good cricket in the middle overs, {score}",
    ),
    "death": (
        "the {nick} are putting their foot down, {score}",
        "slog time, and {batter} is not shy of it",
        "{score}, with {left} to go",
        "that is what you want at the death",
        "the {nick} have kept something back for the finish",
        "death bowling is a hard way to make a living",
        "every one of those hurts {foes} at this stage",
        "no place to hide for a bowler in these overs",
    ),
    "last_over": (
        "{score} in the final over",
        "{score}, and this is the last over",
        "every run counts now, {score}",
    ),
}

# What is always true of a man by his style, or of a bowler by his trade.
STYLE_COLOUR: dict[str, tuple[str, ...]] = {
    "driver": (
        "{batter} hits a straight ball as well as anyone in the {nick} side",
        "pitch it up to {batter} at your peril",
        "{batter} loves to get on the front foot",
        "that high elbow is a trademark of {batter}",
    ),
    "puller": (
        "{batter} sees anything short very early",
        "{batter} is at home on the back foot",
        "give {batter} width or drop short and he will hurt you",
        "those strong forearms make a difference for {batter}",
    ),
    "sweeper": (
        "{batter} has a stroke for every gap",
        "{batter} plays angles that others do not see",
        "setting a field for {batter} is a headache",
        "{batter} keeps the captain guessing",
    ),
    "accumulator": (
        "{batter} is all wrists and soft hands",
        "no violence in anything {batter} does",
        "{batter} prefers placement to power",
        "{batter} makes it look so simple",
    ),
    "finisher": (
        "{batter} was built for this format",
        "{batter} hits a long ball with a short backlift",
        "few strike it harder than {batter}",
        "{batter} stays calm and trusts his swing",
    ),
    "tailender": (
        "handy runs from {batter}, who is paid to bowl",
        "{batter} is no bunny with the bat",
        "useful hitting from a lower-order man",
        "{batter} enjoys that more than any wicket",
    ),
}
HAND_COLOUR: dict[str, tuple[str, ...]] = {
    "left": ("the left-hander makes it look easy", "nice rhythm from the left-hander"),
    "right": ("the right-hander makes it look easy", "fine balance from the right-hander"),
}
TRADE_COLOUR: dict[str, tuple[str, ...]] = {
    "right-arm quick": (
        "{bowler} needs a new plan",
        "pace on, pace off, it makes no difference",
        "{bowler} has a long walk back to think about it",
    ),
    "left-arm quick": (
        "the left-armer is searching for his line",
        "{bowler} wanted that angle across the pitch and it did not help",
        "{bowler} goes round to the captain for a chat",
    ),
    "off-spin": (
        "the off-spinner has to change something",
        "{bowler} asks for a man back",
        "no grip for the off-spinner there",
    ),
    "leg-spin": (
        "that is the lot of a leg-spinner, wickets and boundaries",
        "{bowler} wipes the ball on a towel, the dew is about",
        "the leggie will back himself to have another go",
    ),
    "left-arm orthodox": (
        "the left-arm spinner is under pressure",
        "{bowler} had kept it simple until then",
        "{bowler} shifts the field on the leg side",
    ),
}
