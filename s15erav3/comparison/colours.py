"""Colours of compare.html: by one setting or by group, at most eight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from s15erav3.comparison.effects import effects
from s15erav3.comparison.groups import BPB, Group
from s15erav3.comparison.legend import COLOURS, GREY, Legend
from s15erav3.comparison.scatter import shortened
from s15erav3.comparison.settings import ABSENT, natural
from s15erav3.pages.page import script_json

EACH = "group"
"""Pseudo-setting: one colour per group."""
MOST_VALUES = 30
"""A setting with more values is used for colours only if the reader selects it."""
LONGEST = 48
"""Maximum characters of a name in the legend."""


class Colouring(NamedTuple):
    """Assignment of colours to groups."""

    name: str
    """Name of the setting."""
    kinds: list[int]
    """Index into the legend per group."""
    legend: Legend


def colourings(groups: Sequence[Group], columns: Sequence[str], labels: Sequence[str]) -> list[Colouring]:
    """Return all possible colourings, the default first.

    The default is by the setting with the greatest effect on val/bpb, else by the first one that varies, else by group.

    Args:
        groups: in the order of the table; if there are too many values, those of the first groups get colours.
        columns: the settings to choose from, without seeds.
        labels: short names of the groups.
    """
    values = {key: [group.settings[key] for group in groups] for key in columns}
    varied = [key for key, its in values.items() if len(set(its)) > 1]
    by_effect = [key for effect in effects(groups, BPB) for key in effect.setting.split(" + ")]
    order = [key for key in dict.fromkeys([*by_effect, *varied]) if key in varied]
    few = [key for key in order if len(set(values[key])) <= MOST_VALUES]
    each = _coloured(EACH, list(labels), list(dict.fromkeys(labels)))
    told = {
        key: _coloured(key, [_named(key, value) for value in values[key]], _order(key, values[key])) for key in order
    }
    return [*(told[key] for key in few), each, *(told[key] for key in order if key not in few)]


def _named(key: str, value: str) -> str:
    return f"without {key}" if value == ABSENT else f"{key}={value}"


def _order(key: str, values: Sequence[str]) -> list[str]:
    return [_named(key, value) for value in sorted(set(values), key=natural)]


def _coloured(name: str, values: Sequence[str], order: Sequence[str]) -> Colouring:
    """Assign colours to the groups' values, with the legend in the given order.

    If there are too many values, all but the first ones of the table are grey.
    """
    own = list(dict.fromkeys(values))[: len(COLOURS)]
    own = [value for value in order if value in own]
    rest = [value for value in order if value not in own]
    left = [] if not rest else [(shortened(rest[0], LONGEST) if len(rest) == 1 else f"{len(rest)} others", GREY)]
    legend = [*((shortened(value, LONGEST), colour) for value, colour in zip(own, COLOURS, strict=False)), *left]
    return Colouring(name, [own.index(value) if value in own else len(own) for value in values], legend)


def default_text(colouring: Colouring) -> str:
    """Describe the default colouring in a sentence."""
    shown = "the groups" if colouring.name == EACH else colouring.name
    return f"Colours show {shown}, or the selected setting."


def colourings_json(found: Sequence[Colouring]) -> str:
    """Encode the colourings for the page's script."""
    return script_json([{"name": c.name, "kinds": c.kinds, "legend": c.legend} for c in found])
