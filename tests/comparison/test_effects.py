"""What one setting changes, against differences worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from s15erav3.comparison.effects import effects
from s15erav3.comparison.groups import BPB, MAXVIO, Group
from s15erav3.comparison.settings import ABSENT
from s15erav3.runs.reader import Run


def group(bpb: float, *, maxvio: float | None = None, causal: bool = True, **settings: str) -> Group:
    """A group of one run; ``balancing__rate`` stands for ``balancing.rate``."""
    result = {BPB: bpb, "causal": causal} | ({} if maxvio is None else {MAXVIO: maxvio})
    run = Run(Path(), "completed", "", result, {}, {})
    return Group({key.replace("__", "."): text for key, text in settings.items()}, [run], [run])


def test_differences_are_taken_within_pairs() -> None:
    """Averages over unlike groups would tell that e64 is worse: it has the bad learning rate alone in a third."""
    found = effects(
        [
            group(1.50, experts="e16", lr="1"),
            group(1.40, experts="e64", lr="1"),
            group(1.30, experts="e16", lr="2"),
            group(1.28, experts="e64", lr="2"),
            group(9.00, experts="e64", lr="3"),
        ],
        BPB,
    )
    by = {(e.setting, e.value): e for e in found}
    experts = by["experts", "e64"]
    assert experts.reference == "e16"
    assert experts.differences == pytest.approx([-0.10, -0.02]) and experts.contexts == ["lr=1", "lr=2"]
    assert experts.median == pytest.approx(-0.06)
    assert by["lr", "2"].differences == pytest.approx([-0.20, -0.12])
    assert by["lr", "3"].differences == pytest.approx([7.60]), "e64 alone has it"
    assert found[0].setting == "lr", "the setting with the largest effect comes first"


def test_a_value_that_does_nothing_is_the_reference() -> None:
    """Strategies are measured against none, not against whichever comes first in the alphabet."""
    found = effects([group(1.4, b="aux"), group(1.5, b="none"), group(1.3, b="loss_free")], BPB)
    assert {(e.value, e.reference) for e in found} == {("aux", "none"), ("loss_free", "none")}


def test_a_choice_is_taken_at_its_best_own_setting() -> None:
    """none has no rate, so that it would never be paired with a strategy that has one."""
    found = effects(
        [
            group(1.5, maxvio=3.0, balancing="none", balancing__rate=ABSENT),
            group(1.4, maxvio=0.5, balancing="loss_free", balancing__rate="0.1"),
            group(1.6, maxvio=0.1, balancing="loss_free", balancing__rate="0.2"),
        ],
        MAXVIO,
    )
    by = {e.setting: e for e in found}
    assert by["balancing"].differences == [-2.5], "of the rate that is best in bits per byte"
    assert by["balancing.rate"].differences == pytest.approx([-0.4])
    assert by["balancing.rate"].contexts == ["balancing=loss_free"]


def test_settings_that_change_together_are_one() -> None:
    """The effect of a learning rate that always comes with a weight decay is not the learning rate's."""
    (found,) = effects([group(1.4, lr="1", wd="3"), group(1.5, lr="2", wd="4")], BPB)
    assert (found.setting, found.value, found.reference) == ("lr + wd", "2 + 4", "1 + 3")


def test_what_sees_the_future_is_left_out() -> None:
    """Expert choice would win every comparison."""
    assert effects([group(1.4, b="none"), group(0.5, b="expert_choice", causal=False)], BPB) == []


def test_nothing_to_compare_is_an_empty_list() -> None:
    """No group, one group, groups without the metric, groups that differ in two settings at once."""
    assert effects([], BPB) == []
    assert effects([group(1.4)], BPB) == []
    assert effects([group(1.4, a="1"), group(1.5, a="2")], MAXVIO) == []
    assert effects([group(1, a="1", b="1"), group(2, a="2", b="2"), group(3, a="1", b="3")], BPB)[0].setting == "b"
