"""What a search may choose, against Hydra's own reading of the same words."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from s15erav3.errors import UserError
from s15erav3.sweeps.search_space import read_space


def searched(word: str) -> Any:
    """The distribution of the one key in ``word``."""
    (found,) = read_space([word]).distributions.values()
    return found


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=interval(0.1,1)", FloatDistribution(0.1, 1.0)),
        ("a=interval(1,5)", FloatDistribution(1.0, 5.0)),
        ("a=int(interval(1,5))", IntDistribution(1, 5)),
        ("a=tag(log, interval(1e-4, 5e-2))", FloatDistribution(1e-4, 5e-2, log=True)),
        ("a=tag(log, int(interval(1, 512)))", IntDistribution(1, 512, log=True)),
        ("a=range(1,5)", IntDistribution(1, 4)),
        ("a=range(5)", IntDistribution(0, 4)),
        ("a=range(8,65,8)", IntDistribution(8, 64, step=8)),
        ("a=range(0,1,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("a=choice(x,y)", CategoricalDistribution(["x", "y"])),
        ("experts=e8,e16", CategoricalDistribution(["e8", "e16"])),
        ("seed=1,2,3", CategoricalDistribution([1, 2, 3])),
        ("a=null,true,0.5", CategoricalDistribution([None, True, 0.5])),
        ("a=[1,2],[3]", CategoricalDistribution(["[1,2]", "[3]"])),
    ],
)
def test_a_sweep_override_is_the_distribution_it_describes(word: str, expected: Any) -> None:
    """By hand; both ends of an interval belong to it, as they are drawn, and the end of a range does not."""
    assert searched(word) == expected


@pytest.mark.parametrize("word", ["a=range(1,6)", "a=range(2,20,3)", "a=range(9,0,-2)", "a=range(0.1,1,0.3)"])
def test_a_range_has_the_values_that_hydra_would_run(word: str) -> None:
    """The oracle is Hydra's own enumeration, which the basic sweeper runs."""
    (override,) = OverridesParser.create().parse_overrides([word])
    found = searched(word)
    values = [found.low + i * found.step for i in range(round((found.high - found.low) / found.step) + 1)]
    assert values == pytest.approx(sorted(override.sweep_iterator()))


@pytest.mark.parametrize("choices", ["null,true,7,0.5", "one,'two words','it, too'", "[1,2],{a:1}", "1e-05,1000000.0"])
def test_a_chosen_value_reads_back_as_what_was_typed(choices: str) -> None:
    """The command line of a trial goes through Hydra again: None must not become the text None."""
    (override,) = OverridesParser.create().parse_overrides([f"a={choices}"])
    space = read_space([f"a={choices}", "b=1"])
    for choice, expected in zip(searched(f"a={choices}").choices, override.sweep_iterator(), strict=True):
        again, fixed = OverridesParser.create().parse_overrides(space.command({"a": choice}))
        assert again.value() == getattr(expected, "text", expected) and fixed.value() == 1


def test_of_two_words_for_a_key_the_later_holds() -> None:
    """A value on the command line takes its setting out of a ready search, and a range adds one."""
    space = read_space(["lr=interval(0.1,1)", "wd=interval(0.1,1)", "n=3", "lr=0.5", "++n=1,2", "~x", "+y=a b"])
    assert set(space.distributions) == {"wd", "++n"}
    assert space.command({"wd": 0.25, "++n": 2}) == ["wd=0.25", "++n=2", "lr=0.5", "~x", "+y=a b"]


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("a=interval(1.0,0.1)", "low <= high"),
        ("a=tag(log, interval(0.0,1.0))", "log=True"),
        ("a=interval(0.0,inf)", "not finite"),
        ("a=range(5,1)", "the range is empty"),
        ("a=range(1,5,0)", ""),
        ("a=range(0.5,5,0)", "its step is 0"),
        ("a=tag(lgo, interval(0.1,1))", "the tag lgo is unknown"),
        ("a=tag(log, choice(1,2))", "no log"),
    ],
)
def test_what_cannot_be_searched_is_told(word: str, words: str) -> None:
    """A misspelt tag would search evenly where the logarithm was meant."""
    with pytest.raises(UserError) as said:
        read_space([word])
    assert words in str(said.value) and f"{word} cannot be searched" in str(said.value)
