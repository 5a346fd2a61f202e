"""What colours tell, against groups whose effects are plain."""

from __future__ import annotations

import json
from typing import Any

from s15erav3.comparison.colours import Colouring, colourings, colourings_json, default_text
from s15erav3.comparison.groups import Group
from s15erav3.comparison.legend import COLOURS, GREY, MOST
from tests.comparison.test_effects import group


def of(groups: list[Group], columns: list[str] | None = None) -> list[Colouring]:
    names = [each.name for each in groups]
    return colourings(groups, columns if columns is not None else list(groups[0].settings), names)


def crossed(**effects: dict[str, float]) -> list[Group]:
    """A group for each combination of values, whose val/bpb is the sum of their effects."""
    found: list[tuple[dict[str, str], float]] = [({}, 1.0)]
    for name, values in effects.items():
        found = [(told | {name: value}, bpb + more) for told, bpb in found for value, more in values.items()]
    return [group(bpb, **told) for told, bpb in found]


def test_the_setting_with_the_greatest_effect_comes_first() -> None:
    """The one with most values, or the first typed, may matter least."""
    some: dict[str, Any] = {"lr": {"1": 0.0, "2": 0.01, "3": 0.02, "4": 0.03}, "balancing": {"none": 0.0, "aux": 0.3}}
    found = of(crossed(**some, experts={"e8": 0.0, "e16": -0.1}))
    assert [colouring.name for colouring in found] == ["balancing", "experts", "lr", "group"]
    assert default_text(found[0]) == "Colours show balancing, or the selected setting."
    some["lr"]["4"] = 3.0
    assert of(crossed(**some))[0].name == "lr"


def test_kinds_are_places_in_the_legend() -> None:
    """Catches colours of one value at the points of another."""
    groups = crossed(experts={"e16": 0.0, "e8": 0.1}, lr={"1": 0.0, "2": 0.01})
    experts = of(groups)[0]
    assert experts.legend == [("experts=e8", COLOURS[0]), ("experts=e16", COLOURS[1])]
    assert [experts.legend[kind][0] for kind in experts.kinds] == [f"experts={g.settings['experts']}" for g in groups]


def test_never_more_than_eight_colours() -> None:
    """Nine and more values: seven of the first groups of the table have colours, the others are grey."""
    values = {str(i): -i / 100 for i in range(20)}
    groups = sorted(crossed(lr=values, experts={"e8": 0.0, "e16": 0.001}), key=lambda g: g.spread("val/bpb").median)
    for colouring in of(groups):
        assert len(colouring.legend) <= MOST == 8 and len({colour for _, colour in colouring.legend}) <= 8
    lr, _, each = of(groups)
    assert [name for name, _ in lr.legend] == [*(f"lr={i}" for i in range(13, 20)), "13 others"]
    assert lr.legend[-1][1] == GREY and lr.kinds[0] == 6 and lr.kinds[-1] == 7
    assert each.kinds == [*range(7), *[7] * 33] and each.legend[-1] == ("33 others", GREY)


def test_eight_values_are_all_named() -> None:
    """'1 others' is neither English nor of use."""
    (lr, each) = of(crossed(lr={str(i): i / 10 for i in range(8)}))
    assert [name for name, _ in lr.legend] == [f"lr={i}" for i in range(8)] and len(each.legend) == 8


def test_without_a_setting_of_few_values_the_groups_have_the_colours() -> None:
    """Optuna draws another rate for each of fifty trials: none of their colours would tell anything."""
    groups = [group(1 + i / 100, lr=str(i / 7), alpha=str(i / 9)) for i in range(50)]
    assert [colouring.name for colouring in of(groups)] == ["group", "lr", "alpha"]
    assert default_text(of(groups)[0]) == "Colours show the groups, or the selected setting."
    (alone,) = of([group(1.0)])
    assert alone.name == "group" and alone.kinds == [0]
    assert of([], []) == [Colouring("group", [], [])]


def test_what_a_group_does_not_have_is_named() -> None:
    """A dash in a legend tells nothing."""
    groups = [group(1.0, balancing="none", balancing__rate="-"), group(1.1, balancing="aux", balancing__rate="0.1")]
    named = {colouring.name: colouring.legend for colouring in of(groups)}
    assert [name for name, _ in named["balancing.rate"]] == ["without balancing.rate", "balancing.rate=0.1"]


def test_names_of_values_cannot_end_the_script() -> None:
    """A setting's text comes from whoever typed it."""
    found = of([group(1.0, path="</script>"), group(2.0, path="b" * 200)])
    text = colourings_json(found)
    assert "<" not in text and all(len(name) <= 48 for c in json.loads(text) for name, _ in c["legend"])
