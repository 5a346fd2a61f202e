"""Colours that can be told apart, on both papers."""

from __future__ import annotations

import re

import pytest

from s15erav3.figures.style import CATEGORIES, ON_DARK, expert_axis, expert_colour, layer_colours, template


def luminance(colour: str) -> float:
    """Relative luminance by WCAG of #rrggbb or rgb(r, g, b)."""
    parts = (
        [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        if colour.startswith("#")
        else [float(n) for n in re.findall(r"[\d.]+", colour)]
    )
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in parts)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio by WCAG, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("paper", ["#f7f7f8", "#222226"])
def test_lines_can_be_seen_on_both_papers(paper: str) -> None:
    """Yellow on white and navy on black are there, but nobody sees them."""
    for colour in [*(expert_colour(e) for e in range(16)), *layer_colours(8), *layer_colours(30)]:
        assert contrast(colour, paper) > 1.9, colour


def test_dots_and_thin_lines_stand_out_from_dark_paper() -> None:
    """WCAG asks for a contrast of 3 of what is no text; a small ring needs more."""
    shown = [ON_DARK.get(colour, colour) for colour in CATEGORIES]
    assert min(contrast(colour, "#222226") for colour in shown) > 4.5 and len(set(shown)) == len(CATEGORIES)
    assert list(template(dark=True).layout.colorway) == shown


def test_64_experts_have_64_colours() -> None:
    """Catches laps that repeat."""
    assert len({expert_colour(e) for e in range(64)}) == 64


def test_the_middle_of_a_heatmap_is_near_the_paper() -> None:
    """A white middle on dark paper would make what is even the brightest of all."""
    for dark, paper in ((False, "#f7f7f8"), (True, "#222226")):
        scale = template(dark=dark).layout.coloraxis.colorscale
        assert contrast(scale[2][1], paper) < 1.5 < contrast(scale[0][1], paper)


def test_no_more_than_16_names_on_an_axis() -> None:
    """The names of 64 experts run into each other."""
    assert expert_axis(16)["tickvals"] == [f"E{e:02d}" for e in range(16)]
    assert expert_axis(64)["tickvals"] == [f"E{e:02d}" for e in range(0, 64, 4)]
